# SPDX-License-Identifier: BSD-2-Clause
"""From what was observed to what is wrong: liveness outcomes and violated invariants as symptoms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.findings.signature import NOWHERE, Symptom, failing_function

if TYPE_CHECKING:
    from harness.execution.executor import Executor
    from harness.execution.observation import Observation
    from harness.invariants.registry import Checker, CheckReport, Violation

LIVENESS_FINDINGS = frozenset({"assertion", "kernel-fault", "kernel-halt", "el3-panic", "hang-kernel", "hang-victim"})
"""Outcomes that are findings. The others (done, blocked, forged, system-off, system-reset) are ordinary, and `lost`
says that the environment failed."""

HARNESS_DEFECT = "harness-defect"
VIOLATION = "violation"


@dataclass(frozen=True)
class Verdict:
    """An execution and what is wrong with it."""

    observation: Observation
    symptoms: tuple[Symptom, ...]

    def shows(self, symptom: Symptom) -> bool:
        """Whether the same symptom, whatever its message, is among them."""
        return any(other.key == symptom.key for other in self.symptoms)


def of_violations(violations: Iterable[Violation]) -> list[Symptom]:
    """One symptom for each invariant and kind of object that is violated: the first of each."""
    found: dict[tuple[str, str], Symptom] = {}
    for violation in violations:
        symptom = Symptom(
            VIOLATION,
            violation.invariant,
            violation.object_kind or NOWHERE,
            violation.message,
            dict(violation.evidence),
        )
        found.setdefault(symptom.key, symptom)
    return list(found.values())


def of_outcome(observation: Observation) -> Symptom | None:
    """The symptom of an outcome that is a finding, else None."""
    outcome = observation.status.value
    if outcome not in LIVENESS_FINDINGS:
        return None
    functions = [frame.function for frame in observation.backtrace]
    place = failing_function(functions)
    console = observation.console.strip().splitlines()
    message = console[-1] if outcome == "assertion" and console else f"{outcome} in {place}"
    return Symptom(outcome, "", place, message, {"backtrace": functions})


class Judge:
    """Runs programs and judges them with everything there is."""

    def __init__(self, executor: Executor, checker: Checker) -> None:
        self.executor = executor
        self.checker = checker

    def judge(self, program: bytes, *, stop_after: int = 0) -> Verdict:
        """Run a program from the snapshot, up to call `stop_after` (0: all of it), and judge what it leaves."""
        observation = self.executor.run(program, stop_after=stop_after)
        return Verdict(observation, tuple(self.symptoms(observation)))

    def symptoms(self, observation: Observation) -> list[Symptom]:
        """What is wrong after an execution: the outcome first, then every invariant on the machine's memory."""
        liveness = of_outcome(observation)
        if liveness is not None:
            # A kernel that died in the middle of an operation owes no invariant anything.
            return [liveness]
        return of_violations(self.check(observation).violations)

    def check(self, observation: Observation) -> CheckReport:
        """Every invariant on the machine as the execution left it."""
        return self.checker.check(self.executor.memory, observation)
