# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds doctor`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from harness.commands.options import ConfigArgument
from harness.commands.output import fail, say, table, working
from harness.configs import DEFAULT_CONFIG, load_config
from harness.doctor import Need, examine
from harness.errors import EnvironmentFailure


def doctor(
    config: ConfigArgument = DEFAULT_CONFIG,
    mend: Annotated[
        bool,
        typer.Option("--mend", help="Do what can be done without root: repair the cache, install Python packages."),
    ] = False,
) -> None:
    """Show what is installed, what is missing, and how to get it; with --mend, put right what can be."""
    machine = load_config(config)
    with working("looking around"):
        needs = examine(machine, thorough=mend)
    if mend and _mend(needs):
        with working("looking again"):
            needs = examine(machine, thorough=True)
    rows = [(need.name, Text("ok", "green") if need.good else Text("MISSING", "red"), need.state) for need in needs]
    table(("need", "", "found"), rows)
    missing = [need for need in needs if not need.good]
    for need in missing:
        say(f"{need.name}: {need.remedy}", "yellow")
    if missing:
        say("'make setup' installs all of this where it can.")
        raise typer.Exit(EnvironmentFailure.exit_code)
    say("Everything is here.", "green")


def _mend(needs: list[Need]) -> bool:
    """Put right what can be; whether anything was done."""
    done = False
    for need in needs:
        if need.good or need.mend is None:
            continue
        try:
            with working(f"mending {need.name}"):
                say(f"{need.name}: {need.mend()}")
            done = True
        except EnvironmentFailure as problem:
            fail(f"{need.name}: {problem}")
    return done
