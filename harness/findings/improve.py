# SPDX-License-Identifier: BSD-2-Clause
"""Make a finding that exists smaller, in its place.

The smallest program so far is kept in the finding's directory while the work goes on, so that one
that is ended goes on from there the next time.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ProgramError
from harness.files import replace_directory, write_whole
from harness.findings.bundle import FINDING_FILE, Bundle
from harness.findings.filing import Filer, Origin
from harness.findings.judge import Judge
from harness.findings.signature import Symptom
from harness.findings.simplify import weight
from harness.programs.interfaces import Interface
from harness.programs.program import Program

if TYPE_CHECKING:
    from harness.execution.executor import Executor
    from harness.findings.minimise import Budget

PROGRESS_FILE = ".smaller.yaml"


@dataclass(frozen=True)
class Change:
    """A finding's program before and after; `weight` says what is counted."""

    signature: str
    path: Path
    before: tuple[int, int]
    after: tuple[int, int]

    @property
    def smaller(self) -> bool:
        """Whether anything became smaller."""
        return self.after < self.before

    def lines(self) -> list[str]:
        """What became smaller, for a person."""
        if not self.smaller:
            return [f"{self.before[0]} calls, and no smaller program was found that shows {self.signature}"]
        return [
            f"{self.before[0]} calls before, {self.after[0]} now; arguments and values that are not the plainest: "
            f"{self.before[1]} before, {self.after[1]} now",
            f"{self.signature}: {self.path}",
        ]


def improve(bundle: Bundle, executor: Executor, work: Path, budget: Budget) -> Change | None:
    """Replace a finding by a smaller one with the same signature, which is written in `work` first.

    Returns None if the finding does not show at all. Raises OutputError or OSError if it cannot be written.
    """
    content = bundle.finding
    interface = Interface.load(executor.artefacts)
    filer = Filer(Judge.of(executor), executor.artefacts, interface, work)
    symptom = Symptom(content.kind, content.invariant or "", content.place)
    progress = bundle.path / PROGRESS_FILE
    original = Program.from_bytes(bundle.program, interface)

    def keep(program: Program) -> None:
        write_whole(progress, program.to_yaml())

    reduced = None
    for start in [*_earlier(progress, interface), original]:
        reduced = filer.reduce(start.to_bytes(), symptom, budget=budget, keep=keep)
        if reduced.repeatable and str(reduced.signature) == content.signature:
            break
    if reduced is None or not reduced.repeatable:
        return None
    after = Program.from_bytes(reduced.program, interface)
    change = Change(content.signature, bundle.path, weight(original), weight(after))
    same = str(reduced.signature) == content.signature
    if same and change.smaller:
        origin = Origin(content.executions, content.seconds)
        made, _ = filer.file(reduced, origin)
        # The command that reproduces it names the directory.
        text = (made / FINDING_FILE).read_text().replace(str(made), str(bundle.path))
        (made / FINDING_FILE).write_text(text)
        replace_directory(bundle.path, made)
    else:
        change = Change(content.signature, bundle.path, change.before, change.before)
    (bundle.path / PROGRESS_FILE).unlink(missing_ok=True)
    return change


def _earlier(progress: Path, interface: Interface) -> list[Program]:
    """What an earlier run that was ended had reached, if it can be used."""
    with contextlib.suppress(ProgramError):
        if progress.is_file():
            return [Program.load(progress, interface)]
    return []
