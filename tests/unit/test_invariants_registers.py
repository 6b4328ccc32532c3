# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's stack and vectors: which registers are judged, and by what."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.build.registers import bank_register
from harness.invariants.definitions import Context, Judgement
from harness.invariants.registers import judge_registers, registers_at
from harness.kernel_state.elf import Elf, Symbol
from harness.kernel_state.state import KernelState

SYMBOLS = {
    "kernel_stack_alloc": Symbol("kernel_stack_alloc", 0x1000, 0x1000, "OBJECT"),
    "arm_vector_table": Symbol("arm_vector_table", 0x8000, 0, "FUNC"),
}
RIGHT = {"tpidr_el1": 0x2000, "vbar_el1": 0x8000}
BANK = 0x100


class Bytes:
    """Memory of one page."""

    def __init__(self, size: int = 0x1000) -> None:
        self.data = bytearray(size)

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.data[address : address + size])


def judged(registers: dict[str, int], symbols: dict[str, Symbol] = SYMBOLS) -> Judgement:
    state = SimpleNamespace(layout=SimpleNamespace(elf=SimpleNamespace(symbols=symbols)))
    judgement = Judgement()
    judge_registers(cast(Context, SimpleNamespace(state=state, facts=SimpleNamespace(registers=registers))), judgement)
    return judgement


def test_the_stack_ends_where_its_array_does() -> None:
    assert judged(RIGHT) == Judgement(2)


@pytest.mark.parametrize(("name", "value"), [("tpidr_el1", 0x3000), ("tpidr_el1", 0x1000), ("vbar_el1", 0x8800)])
def test_another_stack_or_vector_table_is_told(name: str, value: int) -> None:
    (message, evidence, kind), *others = judged(RIGHT | {name: value}).broken
    assert not others
    assert kind == "register"
    assert name.upper() in message
    assert evidence["found"] == hex(value)


def test_a_kernel_without_the_symbols_is_not_judged() -> None:
    assert judged(RIGHT, {}) == Judgement()
    assert judged({}) == Judgement()


def at(memory: Bytes, *, normal_world: Any = None, report: Any = True, symbols: dict[str, Symbol] | None = None) -> Any:
    state = SimpleNamespace(config=SimpleNamespace(normal_world=normal_world), memory=memory, report=report)
    known = {"snapshot_bank": Symbol("snapshot_bank", BANK, 0, "OBJECT")} if symbols is None else symbols
    return registers_at(cast(KernelState, state), cast(Elf, SimpleNamespace(symbols=known)))


def test_they_are_read_from_the_bank_that_el3_restores() -> None:
    memory = Bytes()
    for name, value in RIGHT.items():
        offset = BANK + bank_register(name).offset
        memory.data[offset : offset + 8] = value.to_bytes(8, "little")
    assert at(memory) == RIGHT


def test_nothing_is_known_without_a_bank_or_before_the_first_park() -> None:
    assert at(Bytes(), symbols={}) == {}
    assert at(Bytes(), report=None) == {}
    assert at(Bytes(BANK + 8)) == {}
