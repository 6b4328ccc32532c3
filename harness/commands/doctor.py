# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds doctor`."""

from __future__ import annotations

import typer
from rich.text import Text

from harness.commands.options import ConfigArgument
from harness.commands.output import say, table, working
from harness.configs import DEFAULT_CONFIG, load_config
from harness.doctor import examine
from harness.errors import EnvironmentFailure


def doctor(config: ConfigArgument = DEFAULT_CONFIG) -> None:
    """Show what is installed, what is missing, and how to get it."""
    machine = load_config(config)
    with working("looking around"):
        needs = examine(machine)
    rows = [(need.name, Text("ok", "green") if need.good else Text("MISSING", "red"), need.state) for need in needs]
    table(("need", "", "found"), rows)
    missing = [need for need in needs if not need.good]
    for need in missing:
        say(f"{need.name}: {need.remedy}", "yellow")
    if missing:
        say("'make setup' installs all of this where it can.")
        raise typer.Exit(EnvironmentFailure.exit_code)
    say("Everything is here.", "green")
