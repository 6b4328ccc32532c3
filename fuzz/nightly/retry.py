# SPDX-License-Identifier: BSD-2-Clause
"""Findings on tonight's kernels: still there, changed, or fixed?

The program is taken in its readable form and encoded anew, because the numbers in its byte form may
mean something else in a newer call table.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fuzz.nightly.record import Retried, RetryRecord
from fuzz.nightly.words import first_line
from harness.errors import BothworldsError, EnvironmentFailure, MachineError
from harness.findings.bundle import PROGRAM_YAML, Bundle
from harness.findings.filing import Filer, versions
from harness.findings.judge import HARNESS_DEFECT, Judge
from harness.findings.signature import BEFORE_ANY_CALL, Symptom, signature_of
from harness.programs.interfaces import Interface
from harness.programs.program import Program

if TYPE_CHECKING:
    from harness.build.artefacts import Artefacts

ATTEMPTS = 3
"""Runs of a program before it counts as one that shows nothing."""


class Bench:
    """A parked machine on which programs are tried, one after another."""

    def __init__(self, filer: Filer, artefacts: Artefacts) -> None:
        self._filer = filer
        self.interface = Interface.load(artefacts)
        self.versions = versions(filer.judge.executor.machine)
        self._start = filer.judge.judge_start().symptoms

    def load(self, path: Path) -> bytes:
        """A program file, encoded for this build; raises ProgramError."""
        return Program.load(path, self.interface).to_bytes()

    def shown(self, program: bytes, expected: str = "") -> list[str]:
        """Signatures of all that a program shows. It is run again if the expected one is not among them."""
        found: dict[str, None] = {}
        for _ in range(ATTEMPTS):
            for symptom in self._symptoms(program):
                found.setdefault(str(signature_of(symptom, self._label(program, symptom))))
            if not expected or expected in found:
                break
        return list(found)

    def _symptoms(self, program: bytes) -> tuple[Symptom, ...]:
        judge = self._filer.judge
        try:
            symptoms = judge.judge(program).symptoms
            differences = judge.executor.audit()
        except MachineError:
            judge.executor.replace()
            raise
        if differences:
            judge.executor.replace()
            message = f"{len(differences)} differences after a restore"
            symptoms = (*symptoms, Symptom(HARNESS_DEFECT, "", "restore", message))
        known = {symptom.key for symptom in symptoms}
        return (*symptoms, *(symptom for symptom in self._start if symptom.key not in known))

    def _label(self, program: bytes, symptom: Symptom) -> str:
        """The label of the call after which a symptom first shows."""
        if symptom.kind == HARNESS_DEFECT:
            return "-"
        if any(symptom.key == other.key for other in self._start):
            return BEFORE_ANY_CALL
        count = self._filer.first_call(program, symptom)
        return self._filer.label(program, None if count is None else count - 1)


@contextmanager
def bench(artefacts: Artefacts, directory: Path) -> Iterator[Bench]:
    """Boot a machine for trying programs; `directory` is where findings would be filed."""
    from harness.execution.executor import Executor

    with Executor(artefacts, coverage=False) as executor:
        yield Bench(Filer(Judge.of(executor), artefacts, Interface.load(artefacts), directory), artefacts)


def retry(bundle: Bundle, build: str, machine: Bench, origin: Literal["kept", "known"], path: str) -> RetryRecord:
    """Try a finding again; what cannot be tried is not judged, and says why."""
    started = time.monotonic()
    finding = bundle.finding
    record = RetryRecord(
        name=finding.signature if origin == "known" else bundle.path.name,
        path=path,
        origin=origin,
        build=build,
        signature=finding.signature,
        state=Retried.NOT_JUDGED,
        finding_message=finding.message,
    )
    try:
        record.shown = machine.shown(machine.load(bundle.path / PROGRAM_YAML), finding.signature)
        if finding.signature in record.shown:
            record.state = Retried.STILL_THERE
        else:
            record.state = Retried.CHANGED if record.shown else Retried.FIXED
    except EnvironmentFailure as problem:
        record.message = f"the machine failed: {first_line(problem)}"
    except BothworldsError as problem:
        record.message = f"its program does not fit this kernel's calls: {first_line(problem)}"
    record.seconds = round(time.monotonic() - started, 3)
    return record
