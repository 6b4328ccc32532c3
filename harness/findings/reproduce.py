# SPDX-License-Identifier: BSD-2-Clause
"""Run a finding's program again: from the snapshot and from cold boots.

A cold boot is plain: a flash image with the program in it, which the firmware starts by itself. No
host takes part until the machine has parked, and then only to read its memory.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.build.artefacts import Artefacts
from harness.errors import FindingError, MachineError, StageTimeout
from harness.findings.bundle import (
    FINDING_FILE,
    INTERPRETER_HASHES,
    PROGRAM_BYTES,
    PROGRAM_YAML,
    REBUILT_HASHES,
    Bundle,
    hash_mismatches,
)
from harness.findings.filing import Filer
from harness.findings.judge import HANGS, HARNESS_DEFECT, Judge, of_outcome, of_violations
from harness.findings.signature import BEFORE_ANY_CALL, Signature, Symptom, signature_of
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CALL_BYTES

if TYPE_CHECKING:
    from harness.execution.executor import Executor

Tell = Callable[[str], None]
"""Called with what a person should know and that is no error."""
Watch = Callable[[str, bool, str], None]
"""Called after each run: `snapshot` or `cold`, whether it showed the finding, and what it showed."""


@dataclass(frozen=True)
class Tally:
    """`shown` of `runs` gave the same signature."""

    shown: int = 0
    runs: int = 0

    def __str__(self) -> str:
        return f"{self.shown} of {self.runs}"

    def count(self, shown: bool) -> Tally:
        """With one more run."""
        return Tally(self.shown + shown, self.runs + 1)


@dataclass(frozen=True)
class Reproduction:
    """How often a finding showed again, from the snapshot and from cold boots."""

    signature: Signature
    snapshot: Tally
    cold: Tally

    @property
    def any(self) -> bool:
        """Whether at least one run showed it."""
        return self.snapshot.shown + self.cold.shown > 0


def build_of(bundle: Bundle, *, force: bool = False, tell: Tell | None = None) -> Artefacts:
    """Build the system that a finding was made on, with the same kind of kernel.

    Raises FindingError if the result is another one (kernel source, patches, firmware or config have
    changed since), unless `force`. That only the programs' interpreter has changed does no harm: `tell` says so.
    """
    from harness.build.system import build

    for name in REBUILT_HASHES:
        if name not in bundle.finding.hashes:
            raise FindingError(
                f"{bundle.path / FINDING_FILE}: field 'hashes' has no '{name}'; the finding is incomplete"
            )
    artefacts = build(bundle.config, release=bundle.finding.release, extra_patches=bundle.patches, own=bundle.own)
    different = hash_mismatches(bundle.finding, artefacts.hashes)
    if different and not force:
        raise FindingError(
            f"{bundle.path}: this finding is of another build: {'; '.join(different)}. "
            "Check out the version that it was made with, or try all the same with --force"
        )
    if tell is not None:
        for difference in different or hash_mismatches(bundle.finding, artefacts.hashes, INTERPRETER_HASHES):
            tell(f"not the build of the finding: {difference}")
    return artefacts


def encoded_for(bundle: Bundle, interface: Interface, tell: Tell | None = None) -> Bundle:
    """The finding with its program in the bytes of this build's call table.

    Bytes that were written for another table would be other calls, so the program is then encoded again from
    `program.yaml`, and `tell` says so. Raises ProgramError, naming file, line and field, if that names something
    that no longer exists; FindingError if it is not there.
    """
    if bundle.finding.interface == interface.identity:
        return bundle
    path = bundle.path / PROGRAM_YAML
    if not path.is_file():
        raise FindingError(f"{path}: missing; {PROGRAM_BYTES} is for another call table and cannot be run here")
    program = Program.load(path, interface).to_bytes()
    first = bundle.finding.first_call
    if first is not None and first >= len(program) // CALL_BYTES:
        raise FindingError(f"{path}: has no call {first}, after which {FINDING_FILE} says that it shows")
    if tell is not None:
        tell(f"{PROGRAM_BYTES} is for another call table: the program was encoded again from {PROGRAM_YAML}")
    return dataclasses.replace(bundle, program=program)


def reproduce(
    bundle: Bundle, artefacts: Artefacts, *, times: int = 5, cold: int = 1, watch: Watch | None = None
) -> Reproduction:
    """Run a finding's program `times` times from the snapshot and from `cold` cold boots."""
    from harness.execution.executor import Executor

    if bundle.finding.kind == HARNESS_DEFECT:
        raise FindingError(
            f"{bundle.path}: a defect of the harness, not of the kernel: its evidence lists what the restore missed"
        )
    interface = Interface.load(artefacts)
    bundle = encoded_for(bundle, interface)
    wanted = bundle.finding.identity
    snapshot, cold_runs = Tally(), Tally()
    with Executor(artefacts, coverage=False) as executor:
        filer = Filer(Judge.of(executor), artefacts, interface, bundle.path.parent)
        filer.judge.judge_start()
        for _ in range(times):
            shown, what = _from_snapshot(filer, bundle, wanted)
            snapshot = snapshot.count(shown)
            if watch is not None:
                watch("snapshot", shown, what)
        for _ in range(cold):
            shown, what = _from_cold(bundle, artefacts, filer, wanted)
            cold_runs = cold_runs.count(shown)
            if watch is not None:
                watch("cold", shown, what)
    return Reproduction(wanted, snapshot, cold_runs)


def _symptom(wanted: Signature, bundle: Bundle) -> Symptom:
    """The symptom that a signature asks for."""
    return Symptom(bundle.finding.kind, bundle.finding.invariant or "", wanted.place)


def _from_snapshot(filer: Filer, bundle: Bundle, wanted: Signature) -> tuple[bool, str]:
    """One run in step mode: the label of the call after which the symptom shows is part of the signature."""
    if wanted.label == BEFORE_ANY_CALL:
        symptoms = filer.judge.judge_start().symptoms
        return _match(symptoms, wanted, BEFORE_ANY_CALL)
    symptom = _symptom(wanted, bundle)
    if filer.lasts(symptom):
        filer.judge.executor.replace()
    try:
        symptoms = filer.judge.judge(bundle.program).symptoms
    except MachineError as error:
        filer.judge.executor.replace()
        return False, str(error)
    if not any(other.key == symptom.key for other in symptoms):
        return _match(symptoms, wanted, wanted.label)
    if bundle.finding.first_call is None:
        return _match(symptoms, wanted, wanted.label)
    filer.lasts(symptom)
    count = filer.first_call(bundle.program, symptom)
    return _match(symptoms, wanted, filer.label(bundle.program, None if count is None else count - 1))


def _from_cold(bundle: Bundle, artefacts: Artefacts, filer: Filer, wanted: Signature) -> tuple[bool, str]:
    """One cold boot. It cannot stop after each call, so the label is taken from the finding's own program."""
    from harness.execution.executor import Executor

    try:
        with Executor(cold_build(artefacts, bundle.program), coverage=False) as executor:
            return _match(symptoms_of_boot(filer.judge, executor, bundle), wanted, wanted.label)
    except StageTimeout as error:
        # It never parked. Kernel and victim cannot be told apart any more: what was found decides.
        if bundle.finding.kind in HANGS:
            return True, f"{wanted} (it did not park)"
        return False, str(error)


def symptoms_of_boot(judge: Judge, executor: Executor, bundle: Bundle) -> tuple[Symptom, ...]:
    """What is wrong with a machine that has booted with a finding's program in flash, by a judge of another machine."""
    observation = executor.observe_boot(len(bundle.program) // CALL_BYTES)
    # Without a program the machine stays parked as every program finds it.
    liveness = of_outcome(observation, judge.kernel) if bundle.program else None
    if liveness is not None:
        return (liveness,)
    report = judge.checker.check(executor.memory, observation)
    if bundle.finding.label == BEFORE_ANY_CALL:
        return tuple(of_violations(report.violations))
    judge.settle(report, bundle.program)
    return tuple(judge.new_violations(report))


def _match(symptoms: tuple[Symptom, ...], wanted: Signature, label: str) -> tuple[bool, str]:
    signatures = [signature_of(symptom, label) for symptom in symptoms]
    return wanted in signatures, ", ".join(map(str, signatures)) or "nothing"


def cold_build(artefacts: Artefacts, program: bytes) -> Artefacts:
    """The same system with the program in its flash image."""
    return dataclasses.replace(artefacts, flash=flash_with(artefacts, program))


def flash_with(artefacts: Artefacts, program: bytes) -> Path:
    """A flash image that runs the program by itself when the snapshot is reached."""
    from harness.build.firmware import FirmwareBuild
    from harness.build.flash import build_flash

    elf = artefacts.firmware_elf
    firmware = FirmwareBuild(elf, elf.with_suffix(".bin"), artefacts.hashes["firmware"])
    kernel = types.SimpleNamespace(elf=artefacts.kernel_elf)
    guests = types.SimpleNamespace(root_task_elf=artefacts.root_task_elf)
    normal_world = artefacts.normal_world_elf
    return build_flash(artefacts.config, kernel, guests, firmware, program=program, normal_world=normal_world)
