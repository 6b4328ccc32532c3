# SPDX-License-Identifier: BSD-2-Clause
"""The commands that take a finding: show it, run it again, make it smaller, take it elsewhere."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.options import ForceOption
from harness.commands.output import say, warn, working
from harness.errors import InputError, OutputError

if TYPE_CHECKING:
    from harness.findings.minimise import Budget

NOT_REPRODUCED = 1

FindingArgument = Annotated[Path, typer.Argument(metavar="FINDING", help="The directory of a finding.")]


def show(finding: FindingArgument) -> None:
    """Print what a finding says: what is wrong, the program, the evidence, the backtrace. Nothing runs."""
    from harness.findings.bundle import read_bundle
    from harness.findings.report import describe, details

    bundle = read_bundle(finding)
    for line in [*describe(bundle), *details(bundle)]:
        say(line)


def repro(
    finding: FindingArgument,
    times: Annotated[int, typer.Option("--times", min=0, help="Runs from the snapshot.")] = 5,
    cold: Annotated[int, typer.Option("--cold", min=0, help="Runs from a cold boot, with the program in flash.")] = 1,
    gdb: Annotated[
        bool, typer.Option("--gdb", help="Stop right before the call that shows it, in gdb with symbols.")
    ] = False,
    script: Annotated[
        Path | None,
        typer.Option("--script", "-x", metavar="FILE", help="With --gdb: run gdb's commands there and end."),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Run a finding again: how often it shows, from the snapshot and from cold boots."""
    from harness.findings.bundle import read_bundle
    from harness.findings.report import describe
    from harness.findings.reproduce import build_of, encoded_for, reproduce
    from harness.programs.interfaces import Interface

    if script is not None and not (gdb and script.is_file()):
        raise InputError(f"--script {script}: " + ("there is no such file" if gdb else "works together with --gdb"))
    bundle = read_bundle(finding)
    with working("building what the finding was made on"):
        artefacts = build_of(bundle, force=force, tell=warn)
    bundle = encoded_for(bundle, Interface.load(artefacts), warn)
    for line in describe(bundle):
        say(line)
    if gdb:
        from harness.findings.replay import replay

        raise typer.Exit(replay(bundle, artefacts, script))

    def watch(how: str, shown: bool, what: str) -> None:
        say(f"{how}: {'shown' if shown else 'NOT shown'}: {what}", "green" if shown else "yellow")

    result = reproduce(bundle, artefacts, times=times, cold=cold, watch=watch)
    say(f"{result.signature} on the {bundle.finding.kernel} kernel:")
    say(f"from the snapshot {result.snapshot}, from cold boots {result.cold}", "bold")
    if not result.any:
        raise typer.Exit(NOT_REPRODUCED)


def minimise(
    finding: FindingArgument,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="Time to spend.")] = 60.0,
    force: ForceOption = False,
) -> None:
    """Make a finding's program smaller while it shows the same: fewer calls, plainer arguments and values.

    What was reached is kept when time is up or at Ctrl-C; the next run goes on from there.
    """
    from harness.execution.executor import Executor
    from harness.findings.bundle import read_bundle
    from harness.findings.improve import improve
    from harness.findings.minimise import Budget, Limits
    from harness.findings.reproduce import build_of, encoded_for
    from harness.programs.interfaces import Interface

    bundle = read_bundle(finding)
    with working("building what the finding was made on"):
        artefacts = build_of(bundle, force=force, tell=warn)
    bundle = encoded_for(bundle, Interface.load(artefacts), warn)
    budget = Budget(Limits(seconds=seconds))
    with (
        _replacement(bundle.path) as work,
        Executor(artefacts, coverage=False) as executor,
        working("making it smaller"),
        _ends_on_interrupt(budget),
    ):
        change = improve(bundle, executor, work, budget)
    if change is None:
        say(f"{bundle.finding.signature} does not show, so there is nothing to go by; see 'bothworlds repro'", "yellow")
        raise typer.Exit(NOT_REPRODUCED)
    for line in change.lines():
        say(line, "green" if change.smaller else "")
    if budget.over:
        say("time was up before all was tried: run it again to go on")


def export(
    finding: FindingArgument,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory that is not there yet, or empty.")],
    force: ForceOption = False,
) -> None:
    """Write a reproducer that needs nothing of this project: plain QEMU, gdb and scripts."""
    from harness.findings.bundle import read_bundle
    from harness.findings.export import export_finding
    from harness.findings.reproduce import build_of, encoded_for
    from harness.programs.interfaces import Interface

    bundle = read_bundle(finding)
    with working("building what the finding was made on"):
        artefacts = build_of(bundle, force=force, tell=warn)
    bundle = encoded_for(bundle, Interface.load(artefacts), warn)
    with working("booting it once, to see that it shows"):
        exported = export_finding(bundle, artefacts, directory)
    say(f"{directory}: {exported.shown}", "green" if exported.shows else "yellow")
    say(f"  {directory / 'run.sh'} shows it again, with QEMU and gdb alone; {directory / 'README.md'} says the rest")
    if not exported.shows:
        raise typer.Exit(NOT_REPRODUCED)


@contextmanager
def _ends_on_interrupt(budget: Budget) -> Iterator[None]:
    """Ctrl-C ends the work on a program, and what was reached is kept."""

    def end(_number: int, _frame: FrameType | None) -> None:
        budget.end()

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _replacement(finding: Path) -> Iterator[Path]:
    """A directory beside a finding, to write its successor in; raises OutputError if that is not possible."""
    try:
        with tempfile.TemporaryDirectory(prefix=".minimise-", dir=finding.resolve().parent) as work:
            yield Path(work)
    except OSError as problem:
        raise OutputError(f"{finding}: cannot be replaced by a smaller one: {problem.strerror}") from problem
