# SPDX-License-Identifier: BSD-2-Clause
"""System registers that the kernel sets while it boots and never again: its stack and its exception vectors."""

from __future__ import annotations

from harness.build.registers import bank
from harness.invariants.definitions import Context, Judgement
from harness.kernel_state.elf import Elf
from harness.kernel_state.memory import read_optional
from harness.kernel_state.state import KernelState

_BANK = "snapshot_bank"
_STACK, _VECTORS = "tpidr_el1", "vbar_el1"
_WORD = 8


def registers_at(snapshot: KernelState, firmware: Elf) -> dict[str, int]:
    """The registers that EL3 restores before each program, as it keeps them in its own memory.

    Empty where the memory holds none, and beside a normal world, of which that bank may be.
    """
    if snapshot.config.normal_world is not None or snapshot.report is None or _BANK not in firmware.symbols:
        return {}
    base = firmware.symbols[_BANK].address
    found = {}
    for register in bank(snapshot.config):
        if register.name in (_STACK, _VECTORS):
            data = read_optional(snapshot.memory, base + register.offset, _WORD)
            if data is None:
                return {}
            found[register.name] = int.from_bytes(data, "little")
    return found


def judge_registers(context: Context, judgement: Judgement) -> None:
    """TPIDR_EL1, from which the kernel takes its stack, is the end of kernel_stack_alloc; VBAR_EL1 its vectors."""
    symbols, registers = context.state.layout.elf.symbols, context.facts.registers
    for name, symbol, at_end in ((_STACK, "kernel_stack_alloc", True), (_VECTORS, "arm_vector_table", False)):
        if name not in registers or symbol not in symbols:
            continue
        judgement.judged += 1
        place = symbols[symbol]
        expected = place.address + (place.size if at_end else 0)
        if registers[name] != expected:
            where = f"{expected:#x}, the {'end' if at_end else 'beginning'} of {symbol}"
            judgement.fail_field("CPU", "register", name.upper(), hex(registers[name]), where)
