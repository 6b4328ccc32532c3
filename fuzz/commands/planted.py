# SPDX-License-Identifier: BSD-2-Clause
"""The command `planted`: campaigns against kernels with a deliberate bug."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuzz.commands.options import (
    FOUND,
    JsonOption,
    MutatorsOption,
    NoCoverageOption,
    SeedOption,
    WorkersOption,
    worker_count,
    write_json,
)
from fuzz.mutators import Choice
from harness.commands.options import ConfigOption, ReleaseOption
from harness.commands.output import say, table
from harness.configs import DEFAULT_CONFIG, load_config

if TYPE_CHECKING:
    from fuzz.planted import PlantedResult


def planted(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Planted bugs; all without names.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    time: Annotated[float, typer.Option("--time", min=1, help="Seconds at most for each bug.")] = 600.0,
    workers: WorkersOption = 0,
    seed: SeedOption = 1,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results are kept.")] = Path(
        "findings/planted"
    ),
    json_file: JsonOption = None,
    no_coverage: NoCoverageOption = False,
    mutators: MutatorsOption = Choice.BOTH,
    release: ReleaseOption = False,
    again: Annotated[bool, typer.Option("--again", help="Do not use results of earlier runs.")] = False,
) -> None:
    """Fuzz kernels with a deliberate bug, and tell which invariant caught it and how soon.

    An interrupted series goes on where it stopped. Exit code 1 if a bug was not caught.
    """
    from fuzz.planted import PlantedSettings, run_all, select
    from fuzz.progress import Progress

    bugs = select(names or [])
    settings = PlantedSettings(
        load_config(config),
        out,
        seconds=time,
        workers=worker_count(workers),
        seed=seed or secrets.randbelow(1 << 31) + 1,
        release=release,
        coverage=not no_coverage,
        mutators=mutators,
    )
    with Progress("planted") as progress:

        def done(result: PlantedResult, kept: bool) -> None:
            say(f"{result.name}: {_row(result)[1]}{' (result of an earlier run)' if kept else ''}")

        results = run_all(bugs, settings, progress.watch, done, again=again)
    say()
    headers = ("planted bug", "caught", "invariant", "executions", "seconds", "calls", "reproduced", "cold")
    table(headers, [_row(result) for result in results])
    if json_file is not None:
        write_json(json_file, [vars(result) for result in results])
    if not all(result.caught for result in results):
        raise typer.Exit(FOUND)


def _row(result: PlantedResult) -> tuple[str, ...]:
    caught = "yes" if result.caught else f"NO (expected {result.expected_invariant})"
    return (
        result.name,
        caught,
        result.invariant or "-",
        str(result.executions),
        f"{result.seconds:.1f}",
        "-" if result.minimised_calls is None else str(result.minimised_calls),
        result.reproduced,
        result.reproduced_cold,
    )
