# SPDX-License-Identifier: BSD-2-Clause
"""Options that several commands of fuzzing take, and the exit codes that they share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fuzz.mutators import Choice
from harness.errors import OutputError

FOUND = 1
INTERRUPTED = 130

JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result there as JSON.")]
WorkersOption = Annotated[int, typer.Option("--workers", min=0, help="Processes with a machine each; 0: one a core.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Start of the random numbers; 0: choose one.")]
MutatorsOption = Annotated[Choice, typer.Option("--mutators", help="libFuzzer's own, those that know calls, or both.")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Judge by every invariant after every execution, at about half the speed.")
]
NoCoverageOption = Annotated[bool, typer.Option("--no-coverage", help="Do not count blocks: blind fuzzing.")]


def write_json(path: Path, data: Any) -> None:
    """Write JSON to a file; raises OutputError if that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"--json {path}: cannot be written: {error.strerror or error}") from error


def worker_count(workers: int) -> int:
    """How many workers were asked for; 0 means one for each core that may be used."""
    from fuzz.campaign import usable_cores

    return workers or len(usable_cores())
