# SPDX-License-Identifier: BSD-2-Clause
"""Which oracles see a planted bug: its stored program, judged by everything there is after each of its calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.build.planted import PlantedBug
from harness.build.system import build
from harness.configs import MachineConfig
from harness.execution.executor import Executor
from harness.findings.judge import Judge
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CALL_BYTES


@dataclass(frozen=True)
class Sight:
    """What sees a bug, by name: ids of invariants, and outcomes that are findings.

    `at_start`: in the snapshot, before any call. `by_calls`: for each number of calls of the stored program, from 1,
    what it shows then and the snapshot does not.
    """

    at_start: frozenset[str]
    by_calls: tuple[frozenset[str], ...]

    @property
    def oracles(self) -> frozenset[str]:
        """All of them."""
        return self.at_start.union(*self.by_calls)


def sight(judge: Judge, program: bytes) -> Sight:
    """Judge the snapshot, and the program cut off after each of its calls."""
    start = frozenset(symptom.name for symptom in judge.judge_start().symptoms)
    by_calls = []
    for calls in range(1, len(program) // CALL_BYTES + 1):
        by_calls.append(frozenset(symptom.name for symptom in judge.judge(program, stop_after=calls).symptoms))
    return Sight(start, tuple(by_calls))


def sight_of(bug: PlantedBug, config: MachineConfig, *, release: bool = False) -> Sight:
    """Build the kernel with a bug, boot it, and run the stored program."""
    artefacts = build(bug.on(config), release=release, extra_patches=[bug.path])
    program = Program.load(bug.program, Interface.load(artefacts)).to_bytes()
    with Executor(artefacts, coverage=False) as executor:
        return sight(Judge.of(executor), program)


def alone(oracles: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """For each oracle the bugs that no other one sees; `oracles` are those that see each bug, by its name."""
    found: dict[str, list[str]] = {}
    for name, seen_by in oracles.items():
        names = set(seen_by)
        if len(names) == 1:
            found.setdefault(names.pop(), []).append(name)
    return found
