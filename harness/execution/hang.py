# SPDX-License-Identifier: BSD-2-Clause
"""A machine that does not park: where it hangs, seen from outside."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from harness.errors import MachineError
from harness.execution.observation import Outcome
from harness.machine.qemu import Qemu

_SAMPLES = 16
_SAMPLE_SECONDS = 0.001
_EL0, _EL3 = 0, 3


@dataclass(frozen=True)
class Hang:
    """What the stopped machine shows."""

    outcome: Outcome
    registers: dict[str, int]
    gdb_backtrace: str


def examine(machine: Qemu) -> Hang:
    """Stop the machine, tell a hang of the firmware, of the kernel and of a victim apart, and leave it stopped.

    A victim that calls the kernel for ever is seen outside of it now and then, a kernel that hangs never is; neither
    is a firmware that does not return from a call ever seen below EL3. The vCPU must be out of the plugin, or able to
    leave it. Raises MachineLost if QEMU does not answer.
    """
    levels: set[int] = set()
    for sample in range(_SAMPLES):
        if sample:
            machine.qmp("cont")
            # A period that no loop in the guest keeps step with.
            time.sleep(_SAMPLE_SECONDS * (1 + 0.37 * (sample % 5)))
        machine.qmp("stop")
        registers = read_registers(machine)
        levels.add(_EL0 if _in_normal_world(machine, registers["pc"]) else (registers["cpsr"] >> 2) & 3)
        if _EL0 in levels:
            break
    stack = gdb_backtrace(machine)
    machine.qmp("stop")
    return Hang(_outcome(levels), registers, stack)


def _in_normal_world(machine: Qemu, place: int) -> bool:
    """Whether the normal world's program runs: for a hang it is one of those who make calls, whatever its level."""
    normal = machine.artefacts.config.normal_world
    return normal is not None and normal.memory.base <= place < normal.memory.end


def _outcome(levels: set[int]) -> Outcome:
    """What hangs, by the exception levels at which the CPU was seen."""
    if _EL0 in levels:
        return Outcome.HANG_VICTIM
    return Outcome.HANG_EL3 if levels == {_EL3} else Outcome.HANG_KERNEL


def read_registers(machine: Qemu) -> dict[str, int]:
    """Registers x0-x30, sp, pc and cpsr of the stopped CPU."""
    text = machine.hmp("info registers")
    registers = {name.lower(): int(value, 16) for name, value in re.findall(r"\b(PC|SP|X\d\d)=([0-9a-f]{16})", text)}
    registers = {re.sub(r"^x0(\d)$", r"x\1", name): value for name, value in registers.items()}
    state = re.search(r"PSTATE=([0-9a-f]+)", text)
    return registers | {"cpsr": int(state[1], 16) if state else 0}


def gdb_backtrace(machine: Qemu) -> str:
    """The call stack by gdb, or its complaint if it cannot tell; the guest runs on afterwards."""
    with machine.gdb() as gdb:
        try:
            gdb.attach(machine.gdb_target)
            stack = gdb.backtrace()
            gdb.detach()
            return stack
        except MachineError as error:
            return f"gdb: {error}"
