# SPDX-License-Identifier: BSD-2-Clause
"""From a program that misbehaved to a finding's directory: make it small, name it, keep everything."""

from __future__ import annotations

import platform
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import MachineError
from harness.findings.bundle import Material, write_bundle
from harness.findings.finding import Finding
from harness.findings.judge import HARNESS_DEFECT, Judge, Verdict, primary
from harness.findings.minimise import Budget, Limits
from harness.findings.places import Places
from harness.findings.signature import (
    BEFORE_ANY_CALL,
    NOWHERE,
    Signature,
    Symptom,
    first_showing,
    signature_of,
)
from harness.findings.simplify import resolve, smaller
from harness.findings.words import program_words
from harness.programs.descriptions import Action
from harness.programs.program import Program
from harness.protocol import CALL_BYTES, MAXIMUM_CALLS, REPORT

if TYPE_CHECKING:
    from harness.build.artefacts import Artefacts
    from harness.execution.observation import Observation
    from harness.machine.qemu import Qemu
    from harness.programs.interfaces import Interface

SYSTEM_REGISTERS = tuple(name for name in REPORT.names or () if name.endswith(("_el1", "_el3")))
"""System registers in EL3's report."""
LABEL_IS_MESSAGE = ("endpoint", "notification", "reply")
"""Types of slots whose capabilities hand an invocation's label on, and do not look at it."""
MESSAGE_LABEL = "Call"
"""The system call that an invocation of these is."""
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
    later: tuple[str, ...] = ()
    """Signatures of what a longer program shows, and what the symptom is the cause of."""


@dataclass
class Origin:
    """Where a finding comes from; goes into `finding.yaml`."""

    executions: int | None = None
    seconds: float | None = None


def calls_of(program: bytes) -> int:
    """Calls in a program: whole records, as many as are performed."""
    return min(len(program) // CALL_BYTES, MAXIMUM_CALLS)


def label_of(program: Program, index: int) -> str:
    """The label of a call, as the kernel sees it: endpoints, notifications and replies take any label as a message."""
    call = program.calls[index]
    type_ = program.interface.call(call.name)
    if type_.action is Action.INVOKE and call.target is not None:
        number = resolve(program, index, call.target)
        slots = program.interface.population.slots(call.victim)
        if any(slot.number == number and slot.type in LABEL_IS_MESSAGE for slot in slots):
            return MESSAGE_LABEL
    return call.name


class Filer:
    """Reduces and files what a judge found."""

    def __init__(self, judge: Judge, artefacts: Artefacts, interface: Interface, directory: Path) -> None:
        self.judge = judge
        self.artefacts = artefacts
        self.interface = interface
        self.directory = directory
        self.lasting: set[tuple[str, str]] = set()
        """Keys of symptoms that no restore takes back: what they are in is not part of the snapshot."""
        self._named: dict[tuple[tuple[str, str], str], Signature] = {}
        """How findings with a symptom and a label were named."""

    def label(self, program: bytes, index: int | None) -> str:
        """The label of a call of a program."""
        if index is None:
            return BEFORE_ANY_CALL
        parsed = Program.from_bytes(program[: (index + 1) * CALL_BYTES], self.interface)
        return label_of(parsed, index)

    def verdict(self, program: bytes, symptom: Symptom, stop_after: int = 0) -> Verdict | None:
        """The verdict on a program if the symptom shows, else None.

        A machine that is lost is replaced and asked once more: it may have been the host's doing.
        """
        verdict = self._run(program, symptom, stop_after)
        return verdict if verdict is not None and verdict.shows(symptom) else None

    def _run(self, program: bytes, symptom: Symptom, stop_after: int) -> Verdict | None:
        """All that a program shows, on a machine on which the symptom was not before; None if it cannot be told."""
        for _ in range(2):
            try:
                if symptom.key in self.lasting:
                    self.judge.executor.replace()
                return self.judge.judge(program, stop_after=stop_after)
            except MachineError:
                self.judge.executor.replace()
        return None

    def lasts(self, symptom: Symptom) -> bool:
        """Whether a symptom that a program has shown outlasts the restore: only a new machine is good then."""
        if symptom.key not in self.lasting and self.verdict(b"", symptom) is not None:
            self.lasting.add(symptom.key)
        return symptom.key in self.lasting

    def first_call(self, program: bytes, symptom: Symptom) -> int | None:
        """How many calls it takes until the symptom shows; None if it does not."""

        def shows(count: int) -> bool:
            return self.verdict(program, symptom, count) is not None

        return first_showing(shows, calls_of(program))

    def reduce(
        self,
        program: bytes,
        symptom: Symptom,
        limits: Limits | None = None,
        *,
        budget: Budget | None = None,
        keep: Callable[[Program], None] | None = None,
    ) -> Reduced:
        """The smallest program that could be found in which the symptom first shows after a call of the same label.

        It is named by the first of all symptoms that the smallest program shows (`primary`): one bug often breaks
        several invariants at once, and is one finding all the same. A program that shows what was reduced before,
        after a call of the same label, is only cut off behind that call.
        `budget` can be ended from outside, unlike `limits`; `keep` is called with each smaller program on the way.
        """
        budget = budget or Budget(limits)
        program = program[: calls_of(program) * CALL_BYTES]
        self.lasts(symptom)
        count = None
        for _ in range(REPEATS):
            if count is None and self.verdict(program, symptom) is not None:
                count = self.first_call(program, symptom)
        if count is None:
            return self._unrepeatable(program, symptom)
        cut = Program.from_bytes(program[: count * CALL_BYTES], self.interface)
        if (known := self._known(cut, symptom)) is not None:
            return known
        for candidate in (self._smaller(cut, symptom, budget, keep), cut):
            # A symptom that comes and goes may show earlier in the smaller program, after another call.
            shown = self.first_call(candidate.to_bytes(), symptom)
            if shown is not None and label_of(candidate, shown - 1) == label_of(cut, count - 1):
                return self._reduced(candidate.to_bytes()[: shown * CALL_BYTES], symptom, smallest=not budget.over)
        return self._unrepeatable(program, symptom)

    def _known(self, cut: Program, symptom: Symptom) -> Reduced | None:
        """The result for a program whose finding has a name already; None if it has none."""
        signature = self._named.get((symptom.key, label_of(cut, len(cut.calls) - 1)))
        verdict = self.verdict(cut.to_bytes(), symptom) if signature is not None else None
        if signature is None or verdict is None:
            return None
        found = next((one for one in verdict.symptoms if one.key == (signature.name, signature.place)), None)
        if found is None:
            return None
        return Reduced(cut.to_bytes(), signature, len(cut.calls) - 1, True, verdict, found)

    def _unrepeatable(self, program: bytes, symptom: Symptom) -> Reduced:
        return Reduced(program, signature_of(symptom, NOWHERE), None, False, None, symptom)

    def _reduced(self, program: bytes, symptom: Symptom, *, smallest: bool) -> Reduced:
        """The result for a program whose last call is the one after which the symptom first shows."""
        last = calls_of(program) - 1
        own = str(signature_of(symptom, self.label(program, last)))
        for count in range(1, last + 1 if smallest else 1):
            earlier = self._run(program, symptom, count)
            if earlier is not None and earlier.symptoms:
                # None of the calls can be done without, so what was wrong first is the cause of the rest.
                verdict: Verdict | None = earlier
                program, last = program[: count * CALL_BYTES], count - 1
                break
        else:
            verdict = self.verdict(program, symptom)
        if verdict is None:
            return self._unrepeatable(program, symptom)
        found = primary(verdict.symptoms)
        signature = signature_of(found, self.label(program, last))
        self._named.update({(one.key, signature.label): signature for one in verdict.symptoms})
        later = () if symptom.key in {one.key for one in verdict.symptoms} else (own,)
        return Reduced(program, signature, last, True, verdict, found, later)

    def at_start(self, symptom: Symptom, verdict: Verdict) -> Reduced:
        """A symptom of the snapshot itself; all of them are one finding."""
        found = primary(verdict.symptoms or (symptom,))
        return Reduced(b"", signature_of(found, BEFORE_ANY_CALL), None, True, verdict, found)

    def _smaller(
        self, program: Program, symptom: Symptom, budget: Budget, keep: Callable[[Program], None] | None
    ) -> Program:
        """The program made smaller such that the symptom shows after its last call, and not before that."""

        def holds(candidate: Program) -> bool:
            data = candidate.to_bytes()
            if self.verdict(data, symptom) is None:
                return False
            before = len(candidate.calls) - 1
            if before and self.verdict(data, symptom, before) is not None:
                return False
            if keep is not None:
                keep(candidate)
            return True

        return smaller(program, holds, budget) if holds(program) else program

    def file(self, reduced: Reduced, origin: Origin) -> tuple[Path, bool]:
        """Write the finding; returns its directory and whether it is new there."""
        symptom, verdict = reduced.symptom, reduced.verdict
        observation = verdict.observation if verdict is not None else None
        message = symptom.message
        if not reduced.repeatable and symptom.kind != HARNESS_DEFECT:
            message += f" (seen once, and in none of {REPEATS} repetitions)"
        path = self.directory / reduced.signature.directory_name
        program = Program.from_bytes(reduced.program, self.interface)
        config, layout = self.artefacts.config, self.judge.checker.layout
        own = self.artefacts.own
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
            program=program_words(
                program, observation.results if observation is not None else None, layout, reduced.first_call
            ),
            also=self._others(reduced),
            where=self._places.annotate(symptom.evidence),
            config=config.name,
            kernel="release" if self.artefacts.release else "debug",
            interface=self.interface.identity,
            extra_patches=[_kept_name(number, patch) for number, patch in enumerate(self.artefacts.extra_patches)],
            own_kernel_source=own.source_patch is not None,
            series=own.series,
            own_firmware=own.firmware is not None,
            hashes=dict(self.artefacts.hashes),
            versions=versions(self.judge.executor.machine),
            qemu_command=shlex.join(self.judge.executor.machine.command),
            reproduce=f"bothworlds repro {path}",
            executions=origin.executions,
            seconds=origin.seconds,
        )
        material = Material(
            program=reduced.program,
            program_yaml=program.to_yaml(),
            config=config,
            patches=self.artefacts.extra_patches,
            own=own if own.firmware is None else replace(own, firmware=self.artefacts.firmware_elf),
        )
        if observation is not None:
            self._add_machine(material, observation)
        return write_bundle(self.directory, finding, material)

    def _others(self, reduced: Reduced) -> list[str]:
        """What else the program shows, named as if it were a finding of its own."""
        if reduced.verdict is None:
            return []
        others = [other for other in reduced.verdict.symptoms if other.key != reduced.symptom.key]
        return [*(str(signature_of(other, reduced.signature.label)) for other in others), *reduced.later]

    @cached_property
    def _places(self) -> Places:
        snapshot = self.judge.executor.snapshot
        return Places.of(self.artefacts.config, self.judge.checker.layout, self.interface.population, snapshot)

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


def versions(machine: Qemu) -> dict[str, str]:
    """Versions of what a finding may depend on beside the hashed build."""
    found = {"python": platform.python_version(), "qemu": ".".join(map(str, machine.version))}
    for package in ("bothworlds", "atheris", "numpy"):
        try:
            found[package] = version(package)
        except ModuleNotFoundError:
            continue
    return found


def _kept_name(number: int, patch: Path) -> str:
    """How a finding calls a patch that it keeps, whose place in the order leads; one kept before has its number."""
    return f"{number:02}-{re.sub(r'^[0-9]{2}-', '', patch.name)}"
