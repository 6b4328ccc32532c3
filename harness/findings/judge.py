# SPDX-License-Identifier: BSD-2-Clause
"""From what was observed to what is wrong: liveness outcomes and violated invariants as symptoms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.findings.signature import NOWHERE, Symptom, failing_function
from harness.invariants.registry import invariants
from harness.invariants.world import FAMILY as WORLD
from harness.kernel_state.elf import Elf
from harness.protocol import CALL_BYTES

if TYPE_CHECKING:
    from harness.execution.executor import Executor
    from harness.execution.observation import Observation
    from harness.invariants.checker import Checker, CheckReport
    from harness.invariants.registry import Violation

HANGS = frozenset({"hang-el3", "hang-kernel", "hang-victim"})
LIVENESS_FINDINGS = frozenset({"assertion", "kernel-fault", "kernel-halt", "el3-panic"}) | HANGS
"""Outcomes that are findings. The others (done, blocked, forged, system-off, system-reset) are ordinary, and `lost`
says that the environment failed."""

HARNESS_DEFECT = "harness-defect"
VIOLATION = "violation"
OF_ANY_OBJECT = frozenset(
    {
        "mdb_cte_at",
        "no_mloop",
        "untyped_mdb",
        "descendants_inc",
        "ut_revocable",
        "if_unsafe_then_cap",
        "pspace_aligned",
        "pspace_distinct",
        "kernel_objects_in_secure_memory",
    }
)
"""Invariants about memory and derivation, which the kernel keeps by the same code for every kind of object: which
kind breaks them first is chance, and no part of a signature."""
ANY_OBJECT = "object"
"""The place of their symptoms; the kind is part of the evidence."""
REMEMBERED_PREFIXES = 1 << 15
"""Beginnings of programs that are known to leave everything right up to their last call."""


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
        place, evidence = violation.object_kind or NOWHERE, dict(violation.evidence)
        if violation.invariant in OF_ANY_OBJECT:
            place, evidence = ANY_OBJECT, {"kind": place, **evidence}
        symptom = Symptom(VIOLATION, violation.invariant, place, violation.message, evidence)
        found.setdefault(symptom.key, symptom)
    return list(found.values())


def primary(symptoms: Sequence[Symptom]) -> Symptom:
    """The one of several symptoms of one program that names the finding.

    World invariants come first, then the others as they are registered; of several kinds of objects the first by
    name. So it depends on nothing but which symptoms there are.
    """
    order = {entry.id: (entry.family != WORLD, number) for number, entry in enumerate(invariants())}
    return min(symptoms, key=lambda symptom: (order.get(symptom.invariant, (False, -1)), symptom.place))


def of_outcome(observation: Observation, kernel: Elf) -> Symptom | None:
    """The symptom of an outcome that is a finding, else None; `kernel` has the symbols."""
    outcome = observation.status.value
    if outcome not in LIVENESS_FINDINGS:
        return None
    functions = [frame.function for frame in observation.backtrace]
    evidence: dict[str, Any] = {"backtrace": functions}
    place, message = failing_function(functions), ""
    if outcome == "kernel-fault":
        # The backtrace ends in the handler; what EL1 last returned to is what faulted.
        report = observation.report
        address = int(report["elr_el1"])
        symbol = kernel.function_at(address)
        place = symbol.name if symbol is not None else NOWHERE
        evidence |= {name: int(report[name]) for name in ("elr_el1", "esr_el1", "far_el1")}
        message = f"exception in the kernel at {place}, address {int(report['far_el1']):#x}"
    elif outcome == "el3-panic":
        report = observation.report
        evidence |= {name: int(report[name]) for name in ("elr_el3", "esr_el3", "far_el3")}
        place = "firmware"
    elif outcome in HANGS:
        place = NOWHERE  # where it was stopped is chance
    elif outcome == "assertion":
        lines = [line.strip() for line in observation.console.splitlines() if "assert" in line]
        message = lines[-1] if lines else ""
    return Symptom(outcome, "", place, message or f"{outcome} in {place}", evidence)


class Judge:
    """Runs programs and judges them with everything there is.

    What is violated in the snapshot already (`start`) is no program's doing: it is left out of
    what programs are blamed for.
    """

    def __init__(self, executor: Executor, checker: Checker) -> None:
        self.executor = executor
        self.checker = checker
        self.kernel = Elf(executor.artefacts.kernel_elf)
        self._settled: set[tuple[str, bytes]] = set()
        self._at_start: frozenset[tuple[str, str]] | None = None
        self.start: tuple[Symptom, ...] = ()
        """Symptoms of the snapshot itself; known after `judge_start`."""

    @classmethod
    def of(cls, executor: Executor) -> Judge:
        """A judge for a machine that is parked, with every invariant there is."""
        from harness.invariants.checker import Checker
        from harness.kernel_state.layout import Layout
        from harness.programs.interfaces import Interface

        built = executor.artefacts
        checker = Checker(
            Layout.from_artefacts(built),
            built.config,
            executor.snapshot,
            interface=Interface.load(built),
            firmware_elf=built.firmware_elf,
        )
        return cls(executor, checker)

    def judge_start(self) -> Verdict:
        """Judge the machine before any call: the empty program, once."""
        observation = self.executor.run(b"")
        violations = self.check(observation).violations
        self._at_start = frozenset((violation.invariant, violation.message) for violation in violations)
        liveness = of_outcome(observation, self.kernel)
        self.start = tuple([liveness] if liveness is not None else of_violations(violations))
        return Verdict(observation, self.start)

    def judge(self, program: bytes, *, stop_after: int = 0) -> Verdict:
        """Run a program from the snapshot, up to call `stop_after` (0: all of it), and judge what it leaves."""
        if self._at_start is None:
            self.judge_start()
        observation = self.executor.run(program, stop_after=stop_after)
        liveness = of_outcome(observation, self.kernel)
        if liveness is not None:
            # A kernel that died in the middle of an operation owes no invariant anything.
            return Verdict(observation, (liveness,))
        report = self.check(observation)
        if self.settle(report, program):
            observation = self.executor.run(program, stop_after=stop_after)
        return Verdict(observation, tuple(self.new_violations(report)))

    def settle(self, report: CheckReport, program: bytes) -> bool:
        """Give a report what it asks for, the state before some call of the program; whether the program ran again.

        That state depends on nothing but the calls before it, so what held for them once is not looked at again.
        """
        if not report.requests:
            return False
        settled = self._settled
        keys = [(request.invariant, program[: (request.call + 1) * CALL_BYTES]) for request in report.requests]
        open_ = [(key, request) for key, request in zip(keys, report.requests, strict=True) if key not in settled]
        report.requests = [request for _, request in open_]
        if not open_:
            return False
        if not self.checker.settle(report, lambda calls: self.executor.run(program, stop_after=calls)):
            if len(settled) >= REMEMBERED_PREFIXES:
                settled.clear()
            settled.update(key for key, _ in open_)
        return True

    def new_violations(self, report: CheckReport) -> list[Symptom]:
        """Symptoms of a check's violations, without those that the snapshot has."""
        known = self._at_start
        if not known:
            return of_violations(report.violations)
        return of_violations(item for item in report.violations if (item.invariant, item.message) not in known)

    def check(self, observation: Observation) -> CheckReport:
        """Every invariant on the machine as the execution left it."""
        return self.checker.check(self.executor.memory, observation)
