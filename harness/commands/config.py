# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import ConfigArgument
from harness.commands.output import say, working
from harness.configs import DEFAULT_CONFIG, load_config
from harness.errors import OutputError


def config(
    config: ConfigArgument = DEFAULT_CONFIG,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="Write a config whose regions are those of the device tree."),
    ] = None,
) -> None:
    """Compare a machine config with QEMU's own device tree; exit code 1: they contradict each other."""
    from harness.machine.device_tree import answers, dump_device_tree
    from harness.machine.memory_map import config_text, differences

    machine = load_config(config)
    with working("asking QEMU for its device tree"):
        found = answers(dump_device_tree(machine))
    if write is not None:
        try:
            write.write_text(config_text(machine, found))
        except OSError as error:
            raise OutputError(f"--write {write}: cannot be written: {error.strerror}") from error
        say(f"{write}: {machine.name} with the regions of QEMU's device tree")
    different = differences(machine, found)
    for item in different:
        say(str(item), "red" if item.contradiction else "")
    wrong = sum(item.contradiction for item in different)
    say(f"{machine.name}: {len(different)} differences, {wrong} of them contradictions")
    if wrong:
        raise typer.Exit(1)
