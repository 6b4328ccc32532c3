# SPDX-License-Identifier: BSD-2-Clause
"""The rules of answers, on a kernel state made by hand: each case is an invocation and what the manual says of it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from harness.kernel_state.memory import Ram
from harness.programs.population import OBJECT_TYPES
from harness.protocol import CallState
from harness.specification.answers import (
    ALIGNMENT_ERROR,
    DELETE_FIRST,
    DONE,
    ILLEGAL_OPERATION,
    REVOKE_FIRST,
    TRUNCATED_MESSAGE,
    Answer,
    NotCoveredError,
    invalid_argument,
    invalid_capability,
    not_enough_memory,
    range_error,
)
from harness.specification.effects import unmet
from harness.specification.invocations import Invocation
from harness.specification.memory import Memory
from harness.specification.oracle import AnswerOracle
from harness.specification.table import RULES, expected
from tests.unit.kernel_state_support import Machine

CNODE, VSPACE, UNTYPED, EMPTY_UNTYPED, PAGE, LARGE, FREE_SLOT, UNMAPPED = 2, 3, 20, 22, 60, 61, 70, 62
TYPE = {name: number for number, name in enumerate(OBJECT_TYPES)}
ALL = 64
FAR = 0x40000000000
"""An address without tables."""


@pytest.fixture(scope="module")
def machine() -> Machine:
    machine = Machine()
    machine.set(machine.slot(PAGE), machine.frame(machine.page + 0x1000))
    machine.set(machine.slot(LARGE), machine.frame(machine.large, 1))
    machine.set(machine.slot(UNMAPPED), machine.cap("page_table_cap", capPTBasePtr=machine.virtual(machine.page)))
    machine.member(machine.thread, "tcbMCP", 100)
    return machine


def answer(
    machine: Machine, target: int, label: str, words: tuple[int, ...], extra: tuple[int, ...] = (), length: int = -1
) -> Answer | None:
    memory = Memory(machine.layout, Ram(machine.memory, machine.config.secure_ram))
    slot = memory.slot(machine.slot(target))
    slots = tuple(memory.slot(machine.slot(number)) for number in extra)
    count = len(words) if length < 0 else length
    return expected(Invocation(memory, machine.thread, slot, slot.cap, count, words, slots), label).answer


def failed(source: bool, *words: int) -> Answer:
    return Answer("seL4_FailedLookup", (int(source), *words))


def retype(type_: str, bits: int = 0, offset: int = FREE_SLOT, count: int = 1) -> tuple[int, ...]:
    return (TYPE.get(type_, 99), bits, 0, 0, offset, count)


CASES: dict[str, tuple[int, str, tuple[int, ...], tuple[int, ...], Answer]] = {
    "an empty slot": (FREE_SLOT, "CNodeCopy", (), (), invalid_capability(0)),
    "a label of another object": (CNODE, "UntypedRetype", (), (), ILLEGAL_OPERATION),
    "a short message": (CNODE, "CNodeDelete", (0,), (), TRUNCATED_MESSAGE),
    "depth 0": (CNODE, "CNodeDelete", (0, 0), (), range_error(1, 64)),
    "depth 65": (CNODE, "CNodeDelete", (0, 65), (), range_error(1, 64)),
    "a wrong guard": (CNODE, "CNodeDelete", (1 << 40, ALL), (), failed(False, 4, 64, 0, 55)),
    "fewer bits than the guard": (CNODE, "CNodeDelete", (0, 7), (), failed(False, 4, 7, 0, 55)),
    "fewer bits than a level": (CNODE, "CNodeDelete", (0, 60), (), failed(False, 3, 60, 64)),
    "delete": (CNODE, "CNodeDelete", (1, ALL), (), DONE),
    "a copy": (CNODE, "CNodeCopy", (FREE_SLOT, ALL, PAGE, ALL, 7), (CNODE,), DONE),
    "a copy onto something": (CNODE, "CNodeCopy", (PAGE, ALL, PAGE, ALL, 7), (CNODE,), DELETE_FIRST),
    "a copy of nothing": (CNODE, "CNodeCopy", (FREE_SLOT, ALL, 71, ALL, 7), (CNODE,), failed(True, 2, 64)),
    "a copy from no CNode": (CNODE, "CNodeCopy", (FREE_SLOT, ALL, 1, ALL, 7), (PAGE,), failed(True, 1)),
    "a copy without root": (CNODE, "CNodeCopy", (FREE_SLOT, ALL, 1, ALL, 7), (), TRUNCATED_MESSAGE),
    "a copy of a used untyped": (CNODE, "CNodeCopy", (FREE_SLOT, ALL, UNTYPED, ALL, 7), (CNODE,), REVOKE_FIRST),
    "a move of a used untyped": (CNODE, "CNodeMove", (FREE_SLOT, ALL, UNTYPED, ALL), (CNODE,), DONE),
    "a copy of a table that is not mapped": (
        CNODE, "CNodeCopy", (FREE_SLOT, ALL, UNMAPPED, ALL, 7), (CNODE,), ILLEGAL_OPERATION,
    ),
    "a guard that is too long": (
        CNODE, "CNodeMint", (FREE_SLOT, ALL, CNODE, ALL, 7, 63 << 2), (CNODE,), ILLEGAL_OPERATION,
    ),
    "a second SMC badge": (CNODE, "CNodeMint", (FREE_SLOT, ALL, 31, ALL, 7, 9), (CNODE,), ILLEGAL_OPERATION),
    "a first SMC badge": (CNODE, "CNodeMint", (FREE_SLOT, ALL, 30, ALL, 7, 9), (CNODE,), DONE),
    "a type that is none": (EMPTY_UNTYPED, "UntypedRetype", retype("none"), (CNODE,), invalid_argument(0)),
    "an object that is too large": (
        EMPTY_UNTYPED, "UntypedRetype", retype("untyped", 48), (CNODE,), range_error(0, 61),
    ),
    "a CNode of one slot": (EMPTY_UNTYPED, "UntypedRetype", retype("cnode", 0), (CNODE,), invalid_argument(1)),
    "too small an untyped": (EMPTY_UNTYPED, "UntypedRetype", retype("untyped", 3), (CNODE,), invalid_argument(1)),
    "no CNode for the objects": (EMPTY_UNTYPED, "UntypedRetype", retype("tcb"), (PAGE,), failed(False, 2, 0)),
    "a slot behind the CNode": (
        EMPTY_UNTYPED, "UntypedRetype", retype("endpoint", 0, 512), (CNODE,), range_error(0, 511),
    ),
    "no objects": (EMPTY_UNTYPED, "UntypedRetype", retype("endpoint", 0, 70, 0), (CNODE,), range_error(1, 256)),
    "too many objects": (EMPTY_UNTYPED, "UntypedRetype", retype("endpoint", 0, 70, 257), (CNODE,), range_error(1, 256)),
    "a window beyond the CNode": (
        EMPTY_UNTYPED, "UntypedRetype", retype("endpoint", 0, 510, 3), (CNODE,), range_error(1, 2),
    ),
    "an occupied slot": (EMPTY_UNTYPED, "UntypedRetype", retype("endpoint", 0, 53, 2), (CNODE,), DELETE_FIRST),
    "no room": (UNTYPED, "UntypedRetype", retype("page-2m"), (CNODE,), not_enough_memory((1 << 18) - 0x1000)),
    "retype": (EMPTY_UNTYPED, "UntypedRetype", retype("page-4k", 0, 70, 4), (CNODE,), DONE),
    "map": (PAGE, "ARMPageMap", (0x5000, 3, 3), (VSPACE,), DONE),
    "map a mapped frame": (10, "ARMPageMap", (0x5000, 3, 3), (VSPACE,), invalid_capability(0)),
    "map into no address space": (PAGE, "ARMPageMap", (0x5000, 3, 3), (CNODE,), invalid_capability(1)),
    "map unaligned": (PAGE, "ARMPageMap", (0x5008, 3, 3), (VSPACE,), ALIGNMENT_ERROR),
    "map a large frame unaligned": (LARGE, "ARMPageMap", (0x5000, 3, 3), (VSPACE,), ALIGNMENT_ERROR),
    "map above the user's addresses": (PAGE, "ARMPageMap", (1 << 48, 3, 3), (VSPACE,), invalid_argument(0)),
    "map without tables": (PAGE, "ARMPageMap", (FAR, 3, 3), (VSPACE,), failed(False, 2, 39)),
    "map where something is": (PAGE, "ARMPageMap", (0, 3, 3), (VSPACE,), DELETE_FIRST),
    "map a large frame where a table is": (LARGE, "ARMPageMap", (0, 3, 3), (VSPACE,), DELETE_FIRST),
    "remap": (10, "ARMPageRemap", (1, 3), (VSPACE,), DONE),
    "remap a frame that is mapped nowhere": (PAGE, "ARMPageRemap", (1, 3), (VSPACE,), invalid_capability(0)),
    "clean a frame that is mapped nowhere": (PAGE, "ARMPageClean_Data", (0, 8), (), ILLEGAL_OPERATION),
    "clean backwards": (10, "ARMPageClean_Data", (8, 8), (), invalid_argument(1)),
    "clean beyond the frame": (10, "ARMPageClean_Data", (0, 0x1001), (), invalid_argument(0)),
    "clean two pages": (VSPACE, "ARMPageGlobalDirectoryClean_Data", (0xFC0, 0x1040), (), range_error(0xFC0, 0xFFF)),
    "clean what is not mapped": (VSPACE, "ARMPageGlobalDirectoryClean_Data", (FAR, FAR + 1), (), DONE),
    "map a mapped table": (6, "ARMPageTableMap", (0, 0), (VSPACE,), invalid_capability(0)),
    "map a table where one is": (UNMAPPED, "ARMPageTableMap", (0, 0), (VSPACE,), DELETE_FIRST),
    "a priority": (1, "TCBSetPriority", (100,), (), DONE),
    "a priority above the maximum": (1, "TCBSetPriority", (101,), (), range_error(0, 100)),
    "the caller's own registers": (1, "TCBWriteRegisters", (0, 0), (), ILLEGAL_OPERATION),
    "fewer registers than said": (50, "TCBWriteRegisters", (0, 1), (), TRUNCATED_MESSAGE),
    "a second notification": (1, "TCBBindNotification", (), (54,), ILLEGAL_OPERATION),
    "an unaligned IPC buffer": (50, "TCBSetIPCBuffer", (0x10,), (PAGE,), ALIGNMENT_ERROR),
    "a device as IPC buffer": (50, "TCBSetIPCBuffer", (0x200,), (12,), ILLEGAL_OPERATION),
    "an SMC of few words": (30, "ARMSMCCall", (1, 2, 3), (), TRUNCATED_MESSAGE),
    "an SMC of another function": (31, "ARMSMCCall", (1, 0, 0, 0, 0, 0, 0, 0), (), ILLEGAL_OPERATION),
    "an SMC": (31, "ARMSMCCall", (7, 0, 0, 0, 0, 0, 0, 0), (), DONE),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_first_broken_rule_decides(machine: Machine, case: str) -> None:
    target, label, words, extra, wanted = CASES[case]
    assert answer(machine, target, label, words, extra) == wanted


def test_what_the_program_does_not_say_is_not_covered(machine: Machine) -> None:
    with pytest.raises(NotCoveredError):
        answer(machine, CNODE, "CNodeDelete", (1,), length=2)


def test_each_rule_says_what_it_wants() -> None:
    texts = [rule.text for table in RULES.values() for rules in table.values() for rule in rules]
    assert texts and all(texts)


def test_a_decision_names_the_words_that_it_depends_on(machine: Machine) -> None:
    memory = Memory(machine.layout, Ram(machine.memory, machine.config.secure_ram))
    slot = memory.slot(machine.slot(PAGE))
    memory.reads.clear()
    assert slot.cap.type == "frame_cap"
    first = (machine.slot(PAGE) - machine.config.secure_ram.base) // 8
    assert memory.reads == {first, first + 1}


@pytest.mark.parametrize(
    ("label", "length", "words", "agrees"),
    [
        (4, 2, (1, 64), True),
        (4, 2, (1, 63), False),
        (4, 1, (1, 64), False),
        (6, 2, (1, 64), False),
        (0, 0, (0, 0), False),
    ],
)
def test_answers_are_compared_with_their_details(label: int, length: int, words: tuple[int, int], agrees: bool) -> None:
    oracle = cast(Any, object.__new__(AnswerOracle))
    oracle._errors, oracle._cap_fault = {"seL4_RangeError": 4}, 1
    assert oracle._agrees(range_error(1, 64), CallState.DONE, 0, label << 12 | length, [*words, 0, 0]) is agrees


@pytest.mark.parametrize(("guard", "size", "right"), [(3, 3, True), (3, 4, False), (1, 3, False)])
@pytest.mark.parametrize(("label", "data"), [("CNodeMint", 5), ("CNodeMutate", 4)])
def test_a_guard_is_the_one_that_was_asked_for(
    machine: Machine, label: str, data: int, guard: int, size: int, right: bool
) -> None:
    node = {"capCNodePtr": machine.virtual(machine.page), "capCNodeRadix": 4}
    machine.set(machine.slot(90), machine.cap("cnode_cap", **node, capCNodeGuard=guard, capCNodeGuardSize=size))
    machine.set(machine.slot(91), machine.cap("cnode_cap", **node) if label == "CNodeMint" else (0, 0))
    memory = Memory(machine.layout, Ram(machine.memory, machine.config.secure_ram))
    slot, root = memory.slot(machine.slot(CNODE)), memory.slot(machine.slot(CNODE))
    words = [90, ALL, 91, ALL, 7, 0]
    words[data] = 0xB << 8 | 3 << 2  # three bits of the guard count
    wrong = unmet(label, Invocation(memory, machine.thread, slot, slot.cap, len(words), tuple(words), (root,)))
    assert (not wrong) is right and (right or "guard" in wrong)
