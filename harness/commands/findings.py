# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds repro` and `bothworlds minimise`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import ForceOption
from harness.commands.output import say, working
from harness.errors import OutputError

NOT_REPRODUCED = 1

FindingArgument = Annotated[Path, typer.Argument(metavar="FINDING", help="The directory of a finding.")]


def repro(
    finding: FindingArgument,
    times: Annotated[int, typer.Option("--times", min=0, help="Runs from the snapshot.")] = 5,
    cold: Annotated[int, typer.Option("--cold", min=0, help="Runs from a cold boot, with the program in flash.")] = 1,
    gdb: Annotated[
        bool, typer.Option("--gdb", help="Stop right before the call that shows it, in gdb with symbols.")
    ] = False,
    force: ForceOption = False,
) -> None:
    """Run a finding again: how often it shows, from the snapshot and from cold boots."""
    from harness.findings.bundle import read_bundle
    from harness.findings.report import describe
    from harness.findings.reproduce import build_of, reproduce

    bundle = read_bundle(finding)
    with working("building what the finding was made on"):
        artefacts = build_of(bundle, force=force)
    for line in describe(bundle):
        say(line)
    if gdb:
        from harness.findings.replay import replay

        raise typer.Exit(replay(bundle, artefacts))

    def watch(how: str, shown: bool, what: str) -> None:
        say(f"{how}: {'shown' if shown else 'NOT shown'}: {what}", "green" if shown else "yellow")

    result = reproduce(bundle, artefacts, times=times, cold=cold, watch=watch)
    say(f"from the snapshot {result.snapshot}, from cold boots {result.cold}", "bold")
    if not result.any:
        raise typer.Exit(NOT_REPRODUCED)


def minimise(
    finding: FindingArgument,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="Time to spend.")] = 60.0,
    force: ForceOption = False,
) -> None:
    """Make a finding's program shorter while it shows the same."""
    from harness.execution.executor import Executor
    from harness.findings.bundle import FINDING_FILE, read_bundle
    from harness.findings.filing import Filer, Origin, calls_of
    from harness.findings.judge import Judge
    from harness.findings.minimise import Limits
    from harness.findings.reproduce import build_of
    from harness.findings.signature import Symptom
    from harness.programs.interfaces import Interface

    bundle = read_bundle(finding)
    content = bundle.finding
    with working("building what the finding was made on"):
        artefacts = build_of(bundle, force=force)
    with _replacement(bundle.path) as work, Executor(artefacts, coverage=False) as executor:
        filer = Filer(Judge.of(executor), artefacts, Interface.load(artefacts), work)
        symptom = Symptom(content.kind, content.invariant or "", content.place)
        with working("leaving out calls"):
            reduced = filer.reduce(bundle.program, symptom, Limits(seconds=seconds))
        if not reduced.repeatable:
            say(f"{content.signature} does not show, so there is nothing to go by; see 'bothworlds repro'", "yellow")
            raise typer.Exit(NOT_REPRODUCED)
        before, after = calls_of(bundle.program), calls_of(reduced.program)
        if str(reduced.signature) != content.signature or after >= before:
            say(f"{before} calls, and no shorter program shows {content.signature}")
            return
        origin = Origin(content.executions, content.seconds, list(bundle.patches))
        made, _ = filer.file(reduced, origin)
        # The message that reproduces it names the directory.
        text = (made / FINDING_FILE).read_text().replace(str(made), str(bundle.path))
        (made / FINDING_FILE).write_text(text)
        _exchange(bundle.path, made)
        say(f"{before} calls before, {after} now: {bundle.path}", "green")


@contextmanager
def _replacement(finding: Path) -> Iterator[Path]:
    """A directory beside a finding, to write its successor in; raises OutputError if that is not possible."""
    try:
        with tempfile.TemporaryDirectory(prefix=".minimise-", dir=finding.resolve().parent) as work:
            yield Path(work)
    except OSError as problem:
        raise OutputError(f"{finding}: cannot be replaced by a shorter one: {problem.strerror}") from problem


def _exchange(finding: Path, successor: Path) -> None:
    """Put a directory in the place of another one, which goes to where the first one was."""
    aside = successor.with_suffix(".before")
    finding.rename(aside)
    successor.rename(finding)
