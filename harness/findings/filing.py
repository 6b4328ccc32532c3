# SPDX-License-Identifier: BSD-2-Clause
"""From a program that misbehaved to a finding's directory: make it small, name it, keep everything."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from harness.errors import MachineError
from harness.findings.bundle import Finding, Material, write_bundle
from harness.findings.judge import HARNESS_DEFECT, Judge, Verdict
from harness.findings.minimise import Limits, remove_items, subset
from harness.findings.signature import (
    BEFORE_ANY_CALL,
    NOWHERE,
    Signature,
    Symptom,
    first_showing,
    signature_of,
)
from harness.programs.program import Program
from harness.programs.yaml import format_call
from harness.protocol import CALL_BYTES, MAXIMUM_CALLS, REPORT, CallState

if TYPE_CHECKING:
    from harness.build.artefacts import Artefacts
    from harness.execution.observation import Observation
    from harness.machine.qemu import Qemu
    from harness.programs.interfaces import Interface

SYSTEM_REGISTERS = tuple(name for name in REPORT.names or () if name.endswith(("_el1", "_el3")))
"""System registers in EL3's report."""
REPEATS = 3
"""Times that a symptom is looked for again before it counts as one that does not repeat."""


@dataclass(frozen=True)
class Reduced:
    """A program as small as it could be made, its signature, and the last verdict on it."""

    program: bytes
    signature: Signature
    first_call: int | None
    repeatable: bool
    verdict: Verdict | None
    symptom: Symptom


@dataclass
class Origin:
    """Where a finding comes from; goes into `finding.yaml`."""

    executions: int | None = None
    seconds: float | None = None
    extra_patches: list[Path] = field(default_factory=list)


def calls_of(program: bytes) -> int:
    """Calls in a program: whole records, as many as are performed."""
    return min(len(program) // CALL_BYTES, MAXIMUM_CALLS)


class Filer:
    """Reduces and files what a judge found."""

    def __init__(self, judge: Judge, artefacts: Artefacts, interface: Interface, directory: Path) -> None:
        self.judge = judge
        self.artefacts = artefacts
        self.interface = interface
        self.directory = directory

    def label(self, program: bytes, index: int | None) -> str:
        """The label of a call of a program."""
        if index is None:
            return BEFORE_ANY_CALL
        return self.interface.calls[program[index * CALL_BYTES] % len(self.interface.calls)].name

    def verdict(self, program: bytes, symptom: Symptom, stop_after: int = 0) -> Verdict | None:
        """The verdict on a program if the symptom shows, else None; a lost machine is replaced."""
        try:
            verdict = self.judge.judge(program, stop_after=stop_after)
        except MachineError:
            self.judge.executor.replace()
            return None
        return verdict if verdict.shows(symptom) else None

    def first_call(self, program: bytes, symptom: Symptom) -> int | None:
        """How many calls it takes until the symptom shows; None if it does not."""

        def shows(count: int) -> bool:
            return self.verdict(program, symptom, count) is not None

        return first_showing(shows, calls_of(program))

    def reduce(self, program: bytes, symptom: Symptom, limits: Limits | None = None) -> Reduced:
        """The shortest program that could be found in which the symptom first shows after a call of the same label."""
        limits = limits or Limits()
        program = program[: calls_of(program) * CALL_BYTES]
        verdict = None
        for _ in range(REPEATS):
            if verdict is None:
                verdict = self.verdict(program, symptom)
        count = None if verdict is None else self.first_call(program, symptom)
        if count is None:
            return Reduced(program, signature_of(symptom, NOWHERE), None, False, None, symptom)
        smaller = self._shorten(program[: count * CALL_BYTES], symptom, limits)
        count = self.first_call(smaller, symptom)
        smaller = smaller[: (count or 0) * CALL_BYTES]
        verdict = self.verdict(smaller, symptom) if count else None
        if verdict is None or count is None:
            return Reduced(program, signature_of(symptom, NOWHERE), None, False, None, symptom)
        found = next(other for other in verdict.symptoms if other.key == symptom.key)
        return Reduced(smaller, signature_of(found, self.label(smaller, count - 1)), count - 1, True, verdict, found)

    def at_start(self, symptom: Symptom, verdict: Verdict) -> Reduced:
        """A symptom of the snapshot itself."""
        return Reduced(b"", signature_of(symptom, BEFORE_ANY_CALL), None, True, verdict, symptom)

    def _shorten(self, program: bytes, symptom: Symptom, limits: Limits) -> bytes:
        """Leave out calls before the last one."""

        def holds(indices: list[int]) -> bool:
            return self.verdict(self._subset(program, indices), symptom) is not None

        indices = list(range(calls_of(program)))
        if not holds(indices):
            return program
        return self._subset(program, remove_items(indices, holds, limits=limits))

    def _subset(self, program: bytes, indices: list[int]) -> bytes:
        """The calls with these indices; what they take from earlier calls' results stays the same."""
        return subset(Program.from_bytes(program, self.interface), indices).to_bytes()

    def file(self, reduced: Reduced, origin: Origin) -> tuple[Path, bool]:
        """Write the finding; returns its directory and whether it is new there."""
        symptom, verdict = reduced.symptom, reduced.verdict
        observation = verdict.observation if verdict is not None else None
        message = symptom.message
        if not reduced.repeatable and symptom.kind != HARNESS_DEFECT:
            message += f" (seen once, and in none of {REPEATS} repetitions)"
        path = self.directory / reduced.signature.directory_name
        program = Program.from_bytes(reduced.program, self.interface)
        config = self.artefacts.config
        finding = Finding(
            signature=str(reduced.signature),
            kind=symptom.kind,
            invariant=symptom.invariant or None,
            message=message,
            evidence=dict(symptom.evidence),
            place=reduced.signature.place,
            label=reduced.signature.label,
            first_call=reduced.first_call,
            outcome=observation.status.value if observation is not None else "unknown",
            calls=decoded_calls(program, observation.results if observation is not None else None),
            config=config.name,
            release=self.artefacts.release,
            extra_patches=[f"{number:02}-{patch.name}" for number, patch in enumerate(origin.extra_patches)],
            hashes=dict(self.artefacts.hashes),
            versions=versions(self.judge.executor.machine),
            qemu_command=list(self.judge.executor.machine.command),
            reproduce=f"bothworlds repro {path}",
            executions=origin.executions,
            seconds=origin.seconds,
        )
        material = Material(
            program=reduced.program,
            program_yaml=program.to_yaml(),
            config=config,
            patches=origin.extra_patches,
        )
        if observation is not None:
            self._add_machine(material, observation)
        return write_bundle(self.directory, finding, material)

    def _add_machine(self, material: Material, observation: Observation) -> None:
        """What the machine shows of the last execution: memory, consoles, registers, backtrace."""
        executor = self.judge.executor
        try:
            material.consoles = {"secure": observation.console}
            material.registers = dict(observation.registers) | {
                name: observation.report[name] for name in SYSTEM_REGISTERS
            }
            material.backtrace = [str(frame) for frame in observation.backtrace]
            material.backtrace += observation.gdb_backtrace.splitlines()
            material.memory = executor.memory.image()
        except MachineError:
            return  # the machine died of the program: that there is nothing to read is a fact, too


def decoded_calls(program: Program, results: NDArray[np.void] | None) -> list[dict[str, Any]]:
    """Each call with what became of it, for people: the fields of its YAML form, state and error."""
    rows: list[dict[str, Any]] = []
    for index, call in enumerate(program.calls):
        row: dict[str, Any] = {"index": index, **yaml.safe_load(format_call(call, program.interface))[0]}
        if results is not None and index < len(results):
            row["state"] = CallState(int(results[index]["state"])).name.lower()
            row["error"] = int(results[index]["error"])
        rows.append(row)
    return rows


def versions(machine: Qemu) -> dict[str, str]:
    """Versions of what a finding may depend on beside the hashed build."""
    found = {"python": platform.python_version(), "qemu": ".".join(map(str, machine.version))}
    for package in ("bothworlds", "atheris", "numpy"):
        try:
            found[package] = version(package)
        except ModuleNotFoundError:
            continue
    return found
