# SPDX-License-Identifier: BSD-2-Clause
"""The command `bench`: speeds, each beside a baseline."""

from __future__ import annotations

from typing import Annotated

import typer

from fuzz.commands.options import JsonOption, write_json
from harness.commands.options import ConfigOption, ReleaseOption, built
from harness.commands.output import say, table
from harness.configs import DEFAULT_CONFIG


def bench(
    config: ConfigOption = DEFAULT_CONFIG,
    json_file: JsonOption = None,
    seconds: Annotated[float, typer.Option("--time", min=0.2, help="Seconds for each measurement.")] = 3.0,
    release: ReleaseOption = False,
) -> None:
    """Measure the speed of every part, each beside a baseline of the same run."""
    from fuzz.bench import measure_all

    artefacts = built(config, release=release)
    metrics = measure_all(artefacts, seconds, watch=lambda name: say(f"measuring {name}", "dim"))
    say()
    table(
        ("metric", "value", "unit", "target", "baseline", "ratio", "what the baseline is"),
        [metric.row() for metric in metrics],
    )
    if json_file is not None:
        write_json(json_file, [metric.to_json() for metric in metrics])
