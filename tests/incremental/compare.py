# SPDX-License-Identifier: BSD-2-Clause
"""Both judgements of the same memory, side by side."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.build.planted import PlantedBug
from harness.build.system import build
from harness.configs import load_config
from harness.execution.executor import Executor
from harness.execution.observation import Observation
from harness.findings.judge import Judge, of_outcome
from harness.invariants.registry import CheckReport, invariants
from harness.invariants.wrong_answers import FAMILY
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from tests.incremental.programs import programs


@dataclass
class Summary:
    """What came of the programs."""

    programs: int = 0
    cut_short: int = 0
    """Programs after which no invariant is judged: the kernel died."""
    violations: int = 0
    """States in which the whole check found something."""
    invariants: Counter[str] = field(default_factory=Counter)
    """Such states by invariant."""
    left: int = 0
    """States that the judgement of changes left to the whole check, though that found nothing."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why, of all that were left."""
    disagreements: list[str] = field(default_factory=list)
    changes_ms: list[float] = field(default_factory=list)
    """Processor time of judging by what changed, for each state, the whole check included where it was left to that."""
    whole_ms: list[float] = field(default_factory=list)

    def text(self) -> str:
        """The summary for a person."""
        lines = [
            f"{self.programs} programs, {self.cut_short} of them ended the kernel, {self.violations} states with "
            f"violations, {self.left} others left to the whole check, {len(self.disagreements)} disagreements"
        ]
        for name, times in (("what changed", self.changes_ms), ("everything", self.whole_ms)):
            if times:
                median, last = np.percentile(times, (50, 99))
                lines.append(f"judging {name}: median {median:.3f} ms, 99 of 100 within {last:.3f} ms")
        lines += [f"  {count:6d}  {name}" for name, count in self.invariants.most_common()]
        lines.append("left to the whole check:")
        lines += [f"  {count:6d}  {name}" for name, count in self.reasons.most_common()]
        return "\n".join([*lines, *self.disagreements])


def compare(judge: Judge, observation: Observation, program: bytes, summary: Summary) -> None:
    """Judge what a program left by both ways."""
    summary.programs += 1
    if of_outcome(observation, judge.kernel) is not None:
        summary.cut_short += 1
        return
    checker = judge.checker
    reasons = checker.unclear.copy()
    start = time.process_time()
    fast = checker.check_changed(observation, everything=True)
    middle = time.process_time()
    full = checker.check(observation.memory, observation)
    end = time.process_time()
    summary.changes_ms.append((middle - start) * 1000)
    summary.whole_ms.append((end - middle) * 1000)
    summary.reasons.update(checker.unclear - reasons)
    if violated := {invariant for invariant, _ in found(full)}:
        summary.violations += 1
        summary.invariants.update(violated)
    elif fast.whole:
        summary.left += 1
    if found(fast) != found(full):
        missed = sorted({invariant for invariant, _ in found(full) ^ found(fast)})
        summary.disagreements.append(f"{', '.join(missed)} after {program.hex()}")


def found(report: CheckReport) -> set[tuple[str, str]]:
    """What a report says is violated, but for what the program was told: that is not judged by what changed."""
    told = {entry.id for entry in invariants([FAMILY])}
    return {(one.invariant, one.message) for one in report.violations if one.invariant not in told}


def on_kernel(bug: PlantedBug | None, count: int, seed: int, summary: Summary) -> None:
    """So many programs on the kernel with a planted bug, or as it is."""
    patches: list[Path] = [bug.path] if bug is not None else []
    artefacts = build(load_config(), extra_patches=patches)
    interface = Interface.load(artefacts)
    first = Program.load(bug.program, interface).to_bytes() if bug is not None else b""
    with Executor(artefacts, coverage=False) as executor:
        judge = Judge.of(executor)
        for program in itertools.islice(programs(interface, seed, first), count):
            compare(judge, executor.run(program), program, summary)
