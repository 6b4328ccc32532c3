# SPDX-License-Identifier: BSD-2-Clause
"""Whether a capability is well formed by itself: l4v's valid_cap, as far as other invariants do not say it."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.invariants.definitions import MAXIMUM_VIOLATIONS, Judgement
from harness.kernel_state.capabilities import FRAME_BITS, ONE, ZOMBIE_TCB, CapTable
from harness.kernel_state.memory import Words, contains
from harness.kernel_state.state import KernelState

Array = np.ndarray[Any, Any]

_WORD_BITS = 64
_USER_BITS = 48
"""Addresses of user level have no bit at or above this one."""
TABLES = {
    "page_table_cap": "PT",
    "page_directory_cap": "PD",
    "page_upper_directory_cap": "PUD",
    "page_global_directory_cap": "PGD",
}
"""What the names of a table capability's fields begin with, behind `cap`."""


def table_field(name: str, field: str) -> str:
    """Name of a field of a table capability: `MappedASID` of a page_table_cap is `capPTMappedASID`."""
    return f"cap{TABLES[name]}{field}"


def judge_capabilities(state: KernelState, judgement: Judgement) -> None:
    """Judge each capability's fields."""
    caps, layout = state.caps, state.layout
    known = np.zeros(256, np.bool_)
    known[list(layout.union("cap").blocks)] = True
    for row in np.flatnonzero(~known[caps.type]).tolist()[:MAXIMUM_VIOLATIONS]:
        judgement.fail_cap(caps, row, "capType", int(caps.type[row]), "a type of capability")
    _judge_cnodes(caps, judgement)
    _judge_frames(caps, judgement)
    for name in TABLES:
        _judge_tables(caps, name, judgement)
    _judge_zombies(state, judgement)
    threads = state.threads
    replies = caps.of("reply_cap")
    pointers = caps.field("reply_cap", "capTCBPtr", replies) - np.uint64(layout.offset)
    _fail(caps, replies, ~contains(threads.tcb, pointers), "capTCBPtr", pointers, "the address of a thread", judgement)
    handlers = caps.of("irq_handler_cap")
    lines = caps.field("irq_handler_cap", "capIRQ", handlers)
    limit = len(state.global_words("intStateIRQTable"))
    _fail(caps, handlers, lines >= np.uint64(limit), "capIRQ", lines, f"below {limit}", judgement)
    pools = caps.of("asid_pool_cap")
    bases = caps.field("asid_pool_cap", "capASIDBase", pools)
    entries = layout.struct("asid_pool")["array"].dimensions[0]
    _fail(caps, pools, bases % np.uint64(entries) != 0, "capASIDBase", bases, f"a multiple of {entries}", judgement)


def _fail(
    caps: CapTable, rows: Array, wrong: Array, field: str, values: Words, expected: str, judgement: Judgement
) -> None:
    for index in np.flatnonzero(wrong).tolist()[:MAXIMUM_VIOLATIONS]:
        judgement.fail_cap(caps, int(rows[index]), field, hex(int(values[index])), expected)


def _judge_cnodes(caps: CapTable, judgement: Judgement) -> None:
    rows = caps.of("cnode_cap")
    names = ("capCNodeRadix", "capCNodeGuardSize", "capCNodeGuard")
    radix, size, guard = (caps.field("cnode_cap", name, rows) for name in names)
    _fail(caps, rows, radix == 0, "capCNodeRadix", radix, "at least 1", judgement)
    too_long = radix + size > np.uint64(_WORD_BITS)
    _fail(caps, rows, too_long, "capCNodeGuardSize", size, f"at most {_WORD_BITS} with capCNodeRadix", judgement)
    wide = (size < np.uint64(_WORD_BITS - 1)) & (guard >> np.minimum(size, np.uint64(_WORD_BITS - 1)) != 0)
    _fail(caps, rows, wide, "capCNodeGuard", guard, "of no more bits than capCNodeGuardSize", judgement)


def _judge_frames(caps: CapTable, judgement: Judgement) -> None:
    rows = caps.of("frame_cap")
    size = caps.field("frame_cap", "capFSize", rows)
    unknown = size == np.uint64(len(FRAME_BITS) - 1)
    _fail(caps, rows, unknown, "capFSize", size, "a size of a page", judgement)
    address = caps.field("frame_cap", "capFMappedAddress", rows)
    mapped = (caps.field("frame_cap", "capFMappedASID", rows) != 0) & ~unknown
    bytes_ = ONE << caps.bits[rows].astype(np.uint64)
    crooked = mapped & (address & (bytes_ - ONE) != 0)
    _fail(caps, rows, crooked, "capFMappedAddress", address, "a multiple of the page's size", judgement)
    outside = mapped & (address >> np.uint64(_USER_BITS) != 0)
    _fail(caps, rows, outside, "capFMappedAddress", address, "an address of user level", judgement)


def _judge_tables(caps: CapTable, name: str, judgement: Judgement) -> None:
    rows = caps.of(name)
    mapped = caps.field(name, table_field(name, "IsMapped"), rows) != 0
    asid = caps.field(name, table_field(name, "MappedASID"), rows)
    _fail(caps, rows, mapped & (asid == 0), table_field(name, "MappedASID"), asid, "not 0, as it is mapped", judgement)
    field = table_field(name, "MappedAddress")
    if field in caps.layout.block(name):
        address = caps.field(name, field, rows)
        outside = mapped & (address >> np.uint64(_USER_BITS) != 0)
        _fail(caps, rows, outside, field, address, "an address of user level", judgement)


def _judge_zombies(state: KernelState, judgement: Judgement) -> None:
    caps = state.caps
    rows = caps.of("zombie_cap")
    if not len(rows):
        return
    kind = caps.field("zombie_cap", "capZombieType", rows)
    thread = kind == np.uint64(ZOMBIE_TCB)
    odd = ~thread & ((kind == 0) | (kind >= np.uint64(ZOMBIE_TCB)))
    _fail(caps, rows, odd, "capZombieType", kind, "that of a thread or a CNode's radix", judgement)
    number = caps.zombie_number(rows)
    most = np.where(thread, np.uint64(state.layout.tcb_slots), ONE << np.minimum(kind, np.uint64(_WORD_BITS - 1)))
    _fail(caps, rows, ~odd & (number > most), "capZombieNumber", number, "at most the slots of its object", judgement)
