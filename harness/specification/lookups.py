# SPDX-License-Identifier: BSD-2-Clause
"""Lookups as the kernel makes them: slots by address, page table entries, address spaces by ASID."""

from __future__ import annotations

from harness.kernel_state.lookup import SlotContent
from harness.specification.answers import (
    DEPTH_MISMATCH,
    GUARD_MISMATCH,
    NO_ROOT,
    Answer,
    LookupFailure,
    NotCoveredError,
    missing,
    range_error,
)
from harness.specification.memory import Memory, Slot

WORD_BITS = 64
ASID_LOW_BITS = 9
"""Of an ASID, the bits that are an index in its pool; the others choose the pool."""
PGD_SHIFT, PUD_SHIFT, PD_SHIFT, PT_SHIFT = 39, 30, 21, 12
_INDEX_BITS = 9
_TABLE = 3
"""The low two bits of an entry that leads to a table; of a last-level entry, to a page."""
_BLOCK = 1
_REMEMBERED = 1 << 16
"""Lookups that are kept."""
_ADDRESS = ((1 << 48) - 1) & ~0xFFF


def resolve(memory: Memory, root: SlotContent, pointer: int, bits: int) -> tuple[Slot, int] | LookupFailure:
    """resolveAddressBits: the slot and the bits that are left, or how the lookup failed."""
    if memory.lookups is None:
        return _resolve(memory, root, pointer, bits)
    key = (root.low, root.high, pointer, bits)
    known = memory.lookups.get(key)
    if known is None:
        own = Memory(memory.layout, memory.ram)
        found = _resolve(own, root, pointer, bits)
        place, left = (found, 0) if isinstance(found, LookupFailure) else (found[0].address, found[1])
        if len(memory.lookups) >= _REMEMBERED:
            memory.lookups.clear()
        known = memory.lookups[key] = (place, left, frozenset(own.reads))
    place, left, reads = known
    memory.reads |= reads
    return place if isinstance(place, LookupFailure) else (memory.slot(place), left)


def _resolve(memory: Memory, root: SlotContent, pointer: int, bits: int) -> tuple[Slot, int] | LookupFailure:
    cap, left = root, bits
    if cap.type != "cnode_cap":
        return NO_ROOT
    while True:
        radix, size = cap.field("capCNodeRadix"), cap.field("capCNodeGuardSize")
        guard, level = cap.field("capCNodeGuard"), radix + size
        if not level:
            raise NotCoveredError("a CNode capability that resolves no bits")
        found = (pointer >> ((left - size) & (WORD_BITS - 1))) & ((1 << size) - 1)
        if size > left or found != guard:
            return LookupFailure((GUARD_MISMATCH, left, guard, size))
        if level > left:
            return LookupFailure((DEPTH_MISMATCH, left, level))
        left -= level
        index = (pointer >> left) & ((1 << radix) - 1)
        slot = memory.slot(cap.base + (index << memory.layout.slot_bits))
        if not left:
            return slot, 0
        cap = slot.cap
        if cap.type != "cnode_cap":
            return slot, left


def cnode_slot(memory: Memory, root: SlotContent, pointer: int, depth: int, *, source: bool = False) -> Slot | Answer:
    """lookupSlotForCNodeOp: the slot, or the error for a root, index and depth that lead nowhere."""
    if root.type != "cnode_cap":
        return NO_ROOT.answer(source=source)
    if not 1 <= depth <= WORD_BITS:
        return range_error(1, WORD_BITS)
    found = resolve(memory, root, pointer, depth)
    if isinstance(found, LookupFailure):
        return found.answer(source=source)
    slot, left = found
    return LookupFailure((DEPTH_MISMATCH, left, 0)).answer(source=source) if left else slot


def vspace_of(memory: Memory, asid: int) -> int:
    """findVSpaceForASID: kernel pointer to the level-0 table of an ASID; 0 if it has none."""
    index = asid >> ASID_LOW_BITS
    pool = memory.variable("armKSASIDTable", index) if index < memory.words_of("armKSASIDTable") else 0
    if not pool:
        return 0
    return memory.word(memory.layout.physical(pool) + 8 * (asid & ((1 << ASID_LOW_BITS) - 1)))


def entry_address(memory: Memory, root: int, address: int, shift: int) -> int | LookupFailure:
    """Where the entry for a virtual address lies at the level that `shift` names; how the lookup failed otherwise.

    `root` is the physical address of the level-0 table.
    """
    table, level = root, PGD_SHIFT
    while True:
        place = table + 8 * ((address >> level) & ((1 << _INDEX_BITS) - 1))
        if level == shift:
            return place
        entry = memory.word(place)
        if entry & 3 != _TABLE:
            return missing(level)
        table, level = entry & _ADDRESS, level - _INDEX_BITS


def is_table(entry: int) -> bool:
    """Whether an entry leads to a table (or, at the last level, to a page)."""
    return entry & 3 == _TABLE


def is_block(entry: int) -> bool:
    """Whether an entry of an upper level maps memory."""
    return entry & 3 == _BLOCK


def translate(memory: Memory, root: int, address: int) -> tuple[int, int] | None:
    """Physical address of the page at a virtual address and the binary logarithm of its size; None for no page."""
    for shift in (PUD_SHIFT, PD_SHIFT, PT_SHIFT):
        place = entry_address(memory, root, address, shift)
        if isinstance(place, LookupFailure):
            return None
        entry = memory.word(place)
        if is_table(entry) if shift == PT_SHIFT else is_block(entry):
            return entry & _ADDRESS, shift
    return None
