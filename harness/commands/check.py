# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds check`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from harness.build.artefacts import PROJECT
from harness.commands.options import ExtraPatchOption, ForceOption, ReleaseOption, built
from harness.commands.output import say, table, working
from harness.commands.run import FOUND
from harness.configs import DEFAULT_CONFIG

if TYPE_CHECKING:
    from harness.invariants.checker import CheckReport

EXAMPLES = PROJECT / "examples"


@dataclass
class Tally:
    """What all checks together found: objects judged and violations, by invariant."""

    judged: dict[str, int] = field(default_factory=dict)
    messages: dict[str, dict[str, str]] = field(default_factory=dict)
    """By invariant: each violation's message, and in what it was found first."""
    other: list[str] = field(default_factory=list)
    """What is wrong besides invariants: a kernel that halted, a hang."""

    def add(self, report: CheckReport, where: str) -> None:
        """Add one report; `where` tells in what it was found."""
        for name, objects in report.judged.items():
            self.judged[name] = self.judged.get(name, 0) + objects
        for violation in report.violations:
            self.messages.setdefault(violation.invariant, {}).setdefault(violation.message, where)


def check(
    what: Annotated[
        str, typer.Argument(metavar="[CONFIG|FINDING]", help="A machine config, or a finding's directory.")
    ] = DEFAULT_CONFIG,
    release: ReleaseOption = False,
    extra_patch: ExtraPatchOption = None,
    force: ForceOption = False,
) -> None:
    """Run the example programs (or take a finding's memory), and print every invariant."""
    is_config = "/" not in what or Path(what).suffix in (".yaml", ".yml")
    if not is_config or Path(what).name == "finding.yaml" or Path(what).is_dir():
        tally = _check_finding(Path(what), force=force)
    else:
        tally = _check_examples(what, release=release, extra=extra_patch)
    _show(tally)
    if tally.messages or tally.other:
        raise typer.Exit(FOUND)


def _check_finding(path: Path, *, force: bool) -> Tally:
    """Judge the memory that a finding keeps; no machine takes part."""
    from harness.findings.bundle import read_bundle
    from harness.findings.reproduce import build_of
    from harness.invariants.checker import Checker
    from harness.kernel_state.layout import Layout

    bundle = read_bundle(path)
    memory = bundle.memory()
    with working("building what the finding was made on"):
        artefacts = build_of(bundle, force=force)
    # A finding keeps one memory, so what must not have changed since the snapshot is only judged by itself.
    checker = Checker(Layout.from_artefacts(artefacts), bundle.config, memory, firmware_elf=artefacts.firmware_elf)
    tally = Tally()
    tally.add(checker.check(memory), bundle.path.name)
    return tally


def _check_examples(config: str, *, release: bool, extra: list[Path] | None) -> Tally:
    """Judge the machine as it parks, and after each example program."""
    artefacts = built(config, release=release, extra=extra)
    from harness.execution.executor import Executor
    from harness.findings.judge import Judge, of_outcome
    from harness.programs.interfaces import Interface
    from harness.programs.program import Program

    interface = Interface.load(artefacts)
    programs = {path.name: Program.load(path, interface).to_bytes() for path in sorted(EXAMPLES.glob("*.yaml"))}
    tally = Tally()
    with ExitStack() as stack:
        with working("booting"):
            executor = stack.enter_context(Executor(artefacts, coverage=False))
        judge = Judge.of(executor)
        for name, program in {"as it parks": b"", **programs}.items():
            with working(name):
                observation = executor.run(program)
                if symptom := of_outcome(observation, judge.kernel):
                    tally.other.append(f"{name}: {symptom.kind} in {symptom.place}: {symptom.message}")
                    continue
                report = judge.check(observation)
                judge.settle(report, program)
                tally.add(report, name)
    say(f"{artefacts.config.name}: the machine as it parks, and after {len(programs)} example programs")
    return tally


def _show(tally: Tally) -> None:
    from harness.invariants.registry import invariants

    rows = []
    for entry in invariants():
        judged, broken = tally.judged.get(entry.id, 0), tally.messages.get(entry.id, {})
        if broken:
            state = Text("VIOLATED", "red")
        elif judged:
            state = Text("held", "green")
        else:
            state = Text("not judged", "yellow")
        rows.append((entry.id, entry.family, state, str(judged), entry.summary))
    table(("invariant", "family", "", "objects", "what it says"), rows)
    for name, messages in tally.messages.items():
        for message, where in messages.items():
            say(f"{name}: {where}: {message}", "red")
    for message in tally.other:
        say(message, "red")
