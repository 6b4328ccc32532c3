# SPDX-License-Identifier: BSD-2-Clause
"""The world family from the pages that a program changed: the answer of the full check, faster.

The snapshot was judged as a whole. A program's state differs from it in the changed pages
only, so only these are looked at: slots and table entries that differ, and what capabilities
that are new lead to. Each capability and each table entry is judged by its own words, once,
and remembered. This pass says "nothing to see" or "look at everything": whatever it does not
recognise as right, be it a violation or a table that it does not know, is left to the full
check, whose judgement is the one that is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness import protocol
from harness.invariants.definitions import Facts
from harness.invariants.regions import RegionMap
from harness.invariants.window import TABLES as WINDOW_TABLES
from harness.kernel_state.capabilities import KERNEL_OBJECTS, CapTable
from harness.kernel_state.layout import PAGE_BITS
from harness.kernel_state.memory import PAGE_WORDS, Ram
from harness.kernel_state.page_tables import LEVEL_SHIFT, LEVELS
from harness.kernel_state.state import TTBR_ADDRESS, ContainerKind, KernelState

Array = np.ndarray[Any, Any]

_SLOTS, _TABLE, _POOL, _FIXED, _POOLS = 1, 2, 3, 4, 5
"""What a page of secure RAM holds in the snapshot: slots, a table, an ASID pool, words that never change, pointers to
ASID pools."""
_SLOT_WORDS = 4
_PAGE_SLOTS = PAGE_WORDS // _SLOT_WORDS
_TABLE_LEVELS = {
    "page_global_directory_cap": 0,
    "page_upper_directory_cap": 1,
    "page_directory_cap": 2,
    "page_table_cap": 3,
}
_ADDRESS = ((1 << 48) - 1) & -(1 << PAGE_BITS)
_PAGE_SHIFT = np.uint64(PAGE_BITS)
_PAGE_WORD_SHIFT = PAGE_BITS - 3
_CACHE_LIMIT = 1 << 17
_MANY = 1 << 14
"""From so many words, or slots behind new capabilities, on the full check is faster."""


def report_word(name: str) -> int:
    """Index of a word of EL3's report by the name of its field."""
    assert protocol.REPORT.fields is not None
    return int(protocol.REPORT.fields[name][1]) // 8


_TTBR0, _TTBR1, _SCR_EL3 = (report_word(name) for name in ("ttbr0_el1", "ttbr1_el1", "scr_el3"))
SMC_COUNT = report_word("smc_count")


@dataclass(frozen=True)
class _Verdict:
    """What a capability's two words say by themselves."""

    good: bool
    buffer: bool
    """It may stand in a thread's IPC buffer slot."""
    first_slot: int = -1
    """Of the slots behind it: number of the first in secure RAM, and how many; buffer_slot is a thread's."""
    slots: int = 0
    buffer_slot: int = -1
    table: int = -1
    """Page of the table behind it, and its level."""
    level: int = -1
    leads: bool = False
    """There are slots or a table behind it."""
    badged: bool = False
    """It is an SMC capability for one function."""


class WorldChanges:
    """Precomputed facts of one snapshot. `exact` is false if the snapshot itself needs the full check."""

    def __init__(self, state: KernelState, regions: RegionMap, facts: Facts) -> None:
        self._state = state
        self._regions = regions
        self._facts = facts
        layout, ram = state.layout, state.ram
        self._layout = layout
        # The snapshot's memory may be a view of a machine: keep a copy.
        self._before = ram.words.copy().reshape(-1, PAGE_WORDS)
        self._base = ram.base
        self._base_word = np.uint64(ram.base)
        self._pages = len(self._before)
        self._outside = np.uint64(self._pages)
        self._empty: Array = np.logical_not(np.any(self._before, axis=1))
        self._verdicts: dict[tuple[int, int], _Verdict] = {}
        self._entries: dict[tuple[int, int], tuple[bool, int]] = {}
        self._buffer_index = layout.constant("tcbBuffer")

        # What each page holds (one more page: for addresses outside of secure RAM), and which of its words matter.
        self._kinds = np.zeros(self._pages + 1, np.uint8)
        self._masks = np.zeros((self._pages, PAGE_WORDS), np.bool_)
        self._buffer_slots: set[int] = set()
        self._containers: set[tuple[int, int]] = set()
        capability = np.array([True, True, False, False])
        for container in state.containers:
            first = (container.address - ram.base) >> layout.slot_bits
            self._masks.reshape(-1, _SLOT_WORDS)[first : first + container.slots] = capability
            self._containers.add((first, container.slots))
            if container.kind == ContainerKind.THREAD:
                self._buffer_slots.add(first + self._buffer_index)
        self._badged_slots(state)
        self._kinds[:-1][self._masks.any(axis=1)] = _SLOTS
        self._tables = self._known_tables()
        for page in self._tables:
            self._mark(page << PAGE_BITS, 1 << PAGE_BITS, _TABLE)
        for _, address in state.asid_pools:
            if ram.holds(address, 1 << PAGE_BITS):
                self._mark(address - ram.base, 1 << PAGE_BITS, _POOL)
        for name in WINDOW_TABLES:
            if name in layout.types.variables:
                self._mark(state.global_address(name) - ram.base, layout.variable(name).size, _FIXED)
        first, size = state.global_address("armKSASIDTable") - ram.base, layout.variable("armKSASIDTable").size
        self._mark(first, size, _POOLS)
        self._asid_table = range(first >> 3, (first + size) >> 3)
        for name in ("intStateIRQNode", "ksIdleThread"):
            offset = state.global_address(name) - ram.base
            kind = int(self._kinds[offset >> PAGE_BITS])
            if kind in (0, _FIXED, _POOLS):
                # Beside the pointers to ASID pools, what is none of them never changes either.
                self._mark(offset, layout.variable(name).size, kind or _FIXED)
        self._interesting = self._kinds != 0
        self._all_masks = self._masks.reshape(-1)
        self._kind_of = self._kinds.tobytes()
        self._roots = frozenset(state.vspaces.roots)
        self.exact = all(
            self._entry(level, entry)[0]
            for page, level in self._tables.items()
            for entry in self._before[page][self._before[page] != 0].tolist()
        )

    def _badged_slots(self, state: KernelState) -> None:
        """Badged SMC capabilities, which may not differ from what they were copied from: their links matter too."""
        caps = state.caps
        rows = caps.of("smc_cap")
        rows = rows[caps.badge[rows] != 0]
        bits = np.uint64(self._layout.slot_bits)
        slots = ((caps.address[rows] - self._base_word) >> bits).astype(np.int64)
        self._masks.reshape(-1, _SLOT_WORDS)[slots] = True
        before = caps.previous[rows[~caps.first_badged[rows]]]
        self._sensitive = frozenset(((before - self._base_word) >> bits).tolist())
        """Slots before such a capability."""

    def _mark(self, offset: int, size: int, kind: int) -> None:
        """Note what the words at an offset in secure RAM are."""
        self._kinds[offset >> PAGE_BITS : ((offset + size - 1) >> PAGE_BITS) + 1] = kind
        self._masks.reshape(-1)[offset >> 3 : (offset + size) >> 3] = True

    def _known_tables(self) -> dict[int, int]:
        """Level of each page that is a table by its capability, and of the kernel's empty root."""
        caps, ram = self._state.caps, self._state.ram
        known: dict[int, int] = {}
        for name, level in _TABLE_LEVELS.items():
            for base in caps.base[caps.of(name)].tolist():
                if ram.holds(base, 1 << PAGE_BITS):
                    known[(base - ram.base) >> PAGE_BITS] = level
        known[(self._state.global_address("armKSGlobalUserPGD") - ram.base) >> PAGE_BITS] = 0
        return known

    # Single words

    def _verdict(self, key: tuple[int, int]) -> _Verdict:
        """Judge a capability; remembered by its words."""
        caps = CapTable(
            self._layout,
            np.zeros(1, np.uint64),
            np.array([[*key, 0, 0]], np.uint64),
            np.zeros(1, np.int64),
            np.zeros(1, np.int64),
        )
        name = caps.type_name(0)
        base, last, bits = int(caps.base[0]), int(caps.last[0]), int(caps.bits[0])
        regions = self._regions
        region = int(regions.covering(caps.base, caps.last)[0]) if bits else -1
        ram = self._state.ram
        if name in ("untyped_cap", "frame_cap"):
            non_secure, device = bool(caps.non_secure[0]), bool(caps.device[0])
            good = bool(
                regions.offered[region]
                and not regions.banked[region]
                and non_secure == bool(regions.non_secure[region])
                and device == bool(regions.device[region])
            )
            verdict = _Verdict(good, good and name == "frame_cap" and not device)
        elif name in KERNEL_OBJECTS:
            good = bool(regions.kernel[region]) and ram.holds(base, last - base + 1)
            first = (base - ram.base) >> self._layout.slot_bits
            if not good:
                verdict = _Verdict(False, False)
            elif name == "thread_cap":
                verdict = _Verdict(True, False, first, self._layout.tcb_slots, first + self._buffer_index, leads=True)
            elif name in ("cnode_cap", "zombie_cap"):
                if base & (last - base):
                    verdict = _Verdict(False, False)
                else:
                    verdict = _Verdict(True, False, first, 1 << (bits - self._layout.slot_bits), leads=True)
            elif name in _TABLE_LEVELS:
                page = (base - ram.base) >> PAGE_BITS
                verdict = _Verdict(True, False, table=page, level=_TABLE_LEVELS[name], leads=True)
            else:
                # An ASID pool matters as soon as armKSASIDTable leads to it.
                verdict = _Verdict(True, False)
        elif name == "reply_cap" and (thread := self._replied(caps)) is not None:
            first = (thread - ram.base) >> self._layout.slot_bits
            verdict = _Verdict(True, False, first, self._layout.tcb_slots, first + self._buffer_index, leads=True)
        else:
            badged = name == "smc_cap" and int(caps.badge[0]) != 0
            verdict = _Verdict(name in self._layout.cap_types, name == "null_cap", badged=badged)
        if len(self._verdicts) > _CACHE_LIMIT:
            self._verdicts.clear()
        self._verdicts[key] = verdict
        return verdict

    def _replied(self, caps: CapTable) -> int | None:
        """The thread object that the first of some capabilities replies to, if it lies in secure RAM."""
        pointer = int(caps.field("reply_cap", "capTCBPtr", np.zeros(1, np.int64))[0])
        thread = self._layout.physical(pointer) & -(1 << self._layout.tcb_bits)
        return thread if self._state.ram.holds(thread, 1 << self._layout.tcb_bits) else None

    def _entry(self, level: int, entry: int) -> tuple[bool, int]:
        """Whether a table entry is right by itself, and the page of the table that it points to (-1: none)."""
        known = self._entries.get((level, entry))
        if known is not None:
            return known
        result = (True, -1)
        if entry & 1:
            address = entry & _ADDRESS
            if level < LEVELS - 1 and entry & 2:
                page = (address - self._base) >> PAGE_BITS
                inside = 0 <= page < self._pages
                result = (inside and not entry >> 63, page if inside else -1)
            elif (level == LEVELS - 1) == bool(entry & 2) and level > 0:
                size = 1 << LEVEL_SHIFT[level]
                base = address & -size
                pair = np.array([base, base + size - 1], np.uint64)
                region = int(self._regions.covering(pair[:1], pair[1:])[0])
                regions = self._regions
                right = regions.non_secure[region] if entry >> 5 & 1 else regions.secure[region]
                firmware = bool(regions.firmware(pair[:1], pair[1:])[0])
                result = (bool(right) and not firmware, -1)
            else:
                result = (False, -1)
        if len(self._entries) > _CACHE_LIMIT:
            self._entries.clear()
        self._entries[(level, entry)] = result
        return result

    # One program

    def clean(self, ram: Ram, changed: Array, report: Sequence[int], words: Array | None = None) -> bool:
        """Whether the world family certainly holds.

        `ram` is the machine's memory now, `changed` the physical addresses (u64[n]) of all pages that
        differ from the snapshot, `report` the words of EL3's report (protocol.REPORT). `words` are the numbers in
        secure RAM of the words that differ, if somebody has looked already.
        """
        if not self.exact or report[_SCR_EL3] not in self._facts.scr_el3:
            return False
        if report[_TTBR1] & TTBR_ADDRESS != self._facts.kernel_root:
            return False
        work = _Work(self, ram)
        root = report[_TTBR0] & TTBR_ADDRESS
        if root not in self._roots:
            work.links.append(((root - self._base) >> PAGE_BITS, 0))
        work.addresses = changed
        # Pages that differ without a word that does: nobody has looked.
        if words is not None and len(words):
            hits = words[self._all_masks[words]]
            pairs = ram.pairs[hits >> 1].tolist()
            return work.changed_words(hits.tolist(), pairs) and work.finish()
        numbers = self.page_numbers(changed)
        pages = numbers[self._interesting[numbers]]
        if not len(pages):
            return not work.links or work.finish()
        after = ram.pages[pages]
        # All words of the changed pages that matter and differ.
        hits = ((after != self._before[pages]) & self._masks[pages]).reshape(-1).nonzero()[0]
        if not len(hits):
            return not work.links or work.finish()
        pairs = after.reshape(-1, 2)[hits >> 1].tolist()
        where = (pages[hits >> _PAGE_WORD_SHIFT].astype(np.int64) * PAGE_WORDS + (hits & (PAGE_WORDS - 1))).tolist()
        return work.changed_words(where, pairs) and work.finish()

    def page_numbers(self, addresses: Array) -> Array:
        """Numbers in secure RAM of the pages at physical addresses; the first behind it for all that lie outside."""
        # Addresses below secure RAM wrap around and count as outside, like those above.
        numbers: Array = np.minimum((addresses - self._base_word) >> _PAGE_SHIFT, self._outside)
        return numbers


class _Work:
    """What one program's changes lead to."""

    __slots__ = ("_changed", "_followed", "_ram", "_seen", "_tables", "_world", "addresses", "links")

    def __init__(self, world: WorldChanges, ram: Ram) -> None:
        self._world = world
        self._ram = ram
        self._changed: set[int] | None = None
        self._followed = 0
        self._tables: dict[int, int] = {}
        """Tables that are new: level by page."""
        self._seen: set[tuple[int, int]] = set()
        self.links: list[tuple[int, int]] = []
        """Tables that entries point to: page, level."""
        self.addresses: Array
        """Of the pages that changed."""

    def changed_words(self, where: list[int], pairs: list[list[int]]) -> bool:
        """Judge words of the snapshot's slots and tables that changed: their number in secure RAM, and their pair."""
        world = self._world
        kinds, buffers, verdicts = world._kind_of, world._buffer_slots, world._verdicts
        if len(where) > _MANY:
            return False
        last = -1
        for at, (low, high) in zip(where, pairs, strict=True):
            kind = kinds[at >> _PAGE_WORD_SHIFT]
            if kind == _SLOTS:
                slot = at >> 2
                if slot == last:
                    continue
                last = slot
                if at & 2:
                    # Only the node behind the capability changed.
                    low, high = self._ram.slots[slot, :2].tolist()
                verdict = verdicts.get((low, high)) or world._verdict((low, high))
                if not verdict.good or (slot in buffers and not verdict.buffer) or slot in world._sensitive:
                    return False
                if verdict.badged and not self._badge_kept(slot, low, high):
                    return False
                if verdict.leads and not self._follow(verdict):
                    return False
            elif kind == _FIXED or (kind == _POOLS and at not in world._asid_table):
                return False
            else:
                entry = high if at & 1 else low
                if kind == _TABLE:
                    if not self._entry(entry, world._tables[at >> _PAGE_WORD_SHIFT]):
                        return False
                elif kind == _POOLS:
                    if entry and not self._pool(entry):
                        return False
                elif entry:
                    # An address space that is new must have a known root.
                    address = world._layout.physical(entry)
                    self.links.append(((address - world._base) >> PAGE_BITS, 0))
        return True

    def _pool(self, pointer: int) -> bool:
        """The address spaces of an ASID pool that is new; False if it cannot be one."""
        world, ram = self._world, self._ram
        address = world._layout.physical(pointer)
        if address & ((1 << PAGE_BITS) - 1) or not ram.holds(address, 1 << PAGE_BITS):
            return False
        words = ram.pages[(address - ram.base) >> PAGE_BITS]
        for root in words[words.nonzero()[0]].tolist():
            self.links.append(((world._layout.physical(root) - world._base) >> PAGE_BITS, 0))
        return True

    def _follow(self, start: _Verdict) -> bool:
        """Slots and tables behind a capability that is new."""
        world = self._world
        waiting = [start]
        while waiting:
            verdict = waiting.pop()
            if not verdict.slots:
                if world._tables.get(verdict.table) != verdict.level:
                    self._tables[verdict.table] = verdict.level
                continue
            first, count = key = (verdict.first_slot, verdict.slots)
            if key in world._containers or key in self._seen:
                continue
            self._seen.add(key)
            if not self._differs(first // _PAGE_SLOTS, (first + count - 1) // _PAGE_SLOTS):
                continue
            part = self._ram.slots[first : first + count]
            used = (part[:, 0] | part[:, 1]).nonzero()[0]
            self._followed += len(used)
            if self._followed > _MANY:
                return False
            for slot, (low, high) in zip((used + first).tolist(), part[used, :2].tolist(), strict=True):
                inner = world._verdicts.get((low, high)) or world._verdict((low, high))
                if not inner.good or (slot == verdict.buffer_slot and not inner.buffer):
                    return False
                if inner.badged and not self._badge_kept(slot, low, high):
                    return False
                if inner.leads:
                    waiting.append(inner)
        return True

    def _badge_kept(self, slot: int, low: int, high: int) -> bool:
        """Whether a badged capability begins a group, or stands behind one that is the same."""
        layout = self._world._layout
        node = self._ram.slots[slot, 2:].tolist()
        block = layout.block("mdb_node")
        if block["mdbFirstBadged"].get(node):
            return True
        address = layout.physical(block["mdbPrev"].get(node))
        if not self._ram.holds(address, layout.slot_bytes):
            return False
        return bool(self._ram.slots[(address - self._ram.base) >> layout.slot_bits, :2].tolist() == [low, high])

    def _differs(self, first: int, last: int) -> bool:
        """Whether pages first..last differ from the snapshot, or were not empty in it."""
        if self._changed is None:
            self._changed = set(self._world.page_numbers(self.addresses).tolist())
        changed, empty = self._changed, self._world._empty
        return any(page in changed or not empty[page] for page in range(first, last + 1))

    def _entry(self, entry: int, level: int) -> bool:
        if entry:
            good, table = self._world._entries.get((level, entry)) or self._world._entry(level, entry)
            if not good:
                return False
            if table >= 0:
                self.links.append((table, level + 1))
        return True

    def finish(self) -> bool:
        """Tables that are new, and whether every link leads to a table of its level."""
        for page, level in self._tables.items():
            if self._differs(page, page):
                content = self._ram.pages[page]
                if not all(self._entry(entry, level) for entry in content[content.nonzero()[0]].tolist()):
                    return False
        known = self._world._tables
        return all(known.get(page) == level or self._tables.get(page) == level for page, level in self.links)
