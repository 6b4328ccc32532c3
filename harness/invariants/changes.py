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

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.invariants.definitions import Facts
from harness.invariants.regions import RegionMap
from harness.kernel_state.capabilities import KERNEL_OBJECTS, CapTable
from harness.kernel_state.layout import PAGE_BITS
from harness.kernel_state.memory import PAGE_WORDS, Ram
from harness.kernel_state.page_tables import LEVEL_SHIFT, LEVELS
from harness.kernel_state.state import ContainerKind, KernelState

Array = np.ndarray[Any, Any]

_SLOTS, _TABLE, _POOL, _FIXED, _GLOBALS = 1, 2, 4, 8, 16
"""What a page of secure RAM holds in the snapshot (bits)."""
_SLOT_WORDS = 4
_PAGE_SLOTS = PAGE_WORDS // _SLOT_WORDS
_TABLE_LEVELS = {
    "page_global_directory_cap": 0,
    "page_upper_directory_cap": 1,
    "page_directory_cap": 2,
    "page_table_cap": 3,
}
_ADDRESS = ((1 << 48) - 1) & -(1 << PAGE_BITS)
_TTBR_ADDRESS = ((1 << 48) - 1) & ~1
_CACHE_LIMIT = 1 << 17


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
        self._empty = ~self._before.any(axis=1)
        self._verdicts: dict[tuple[int, int], _Verdict] = {}
        self._entries: dict[tuple[int, int], tuple[bool, int]] = {}
        self._smc_type = layout.cap_types.get("smc_cap", -1)
        self._buffer_index = layout.constant("tcbBuffer")

        # One more page, for addresses outside of secure RAM.
        kinds = np.zeros(self._pages + 1, np.uint8)
        masks = np.zeros((self._pages, _PAGE_SLOTS), np.bool_)
        self._buffer_slots: set[int] = set()
        self._containers: set[tuple[int, int]] = set()
        for container in state.containers:
            first = (container.address - ram.base) >> layout.slot_bits
            masks.reshape(-1)[first : first + container.slots] = True
            self._containers.add((first, container.slots))
            if container.kind == ContainerKind.THREAD:
                self._buffer_slots.add(first + self._buffer_index)
        kinds[:-1][masks.any(axis=1)] |= _SLOTS
        self._masks = masks
        levels = self._known_tables()
        self._levels = np.full(self._pages + 1, -1, np.int8)
        for page, level in levels.items():
            self._levels[page] = level
            kinds[page] |= _TABLE
        self._tables = levels
        for _, address in state.asid_pools:
            if ram.holds(address, 1 << PAGE_BITS):
                kinds[(address - ram.base) >> PAGE_BITS] |= _POOL
        for name in ("armKSGlobalKernelPGD", "armKSGlobalKernelPUD", "armKSGlobalKernelPDs", "armKSGlobalKernelPT"):
            self._mark(kinds, name, _FIXED)
        self._mark(kinds, "armKSASIDTable", _GLOBALS)
        self._kinds = kinds
        start = (state.global_address("armKSASIDTable") - ram.base) >> 3
        self._asid_table = slice(start, start + len(state.global_words("armKSASIDTable")))
        self._asid_words = state.global_words("armKSASIDTable").copy()
        self._roots = frozenset(state.vspaces.roots)
        self.exact = all(
            self._entry(level, entry)[0]
            for page, level in levels.items()
            for entry in self._before[page][self._before[page] != 0].tolist()
        )

    def _mark(self, kinds: Array, name: str, kind: int) -> None:
        if name in self._layout.types.variables:
            first = (self._state.global_address(name) - self._base) >> PAGE_BITS
            size = self._layout.variable(name).size
            kinds[first : ((self._state.global_address(name) + size - 1 - self._base) >> PAGE_BITS) + 1] |= kind

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
                verdict = _Verdict(True, False, first, self._layout.tcb_slots, first + self._buffer_index)
            elif name in ("cnode_cap", "zombie_cap"):
                if base & (last - base):
                    verdict = _Verdict(False, False)
                else:
                    verdict = _Verdict(True, False, first, 1 << (bits - self._layout.slot_bits))
            elif name in _TABLE_LEVELS:
                verdict = _Verdict(True, False, table=(base - ram.base) >> PAGE_BITS, level=_TABLE_LEVELS[name])
            else:
                # An ASID pool that is not among the snapshot's makes new address spaces: see the full check.
                verdict = _Verdict(name != "asid_pool_cap" or self._pool_known(base), False)
        else:
            verdict = _Verdict(name in self._layout.cap_types, name == "null_cap")
        if len(self._verdicts) > _CACHE_LIMIT:
            self._verdicts.clear()
        self._verdicts[key] = verdict
        return verdict

    def _pool_known(self, base: int) -> bool:
        return any(address == base for _, address in self._state.asid_pools)

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

    def clean(self, ram: Ram, changed: Array, report: Any) -> bool:
        """Whether the world family certainly holds.

        `ram` is the machine's memory now, `changed` the physical addresses (u64[n]) of all pages that
        differ from the snapshot, `report` EL3's report (protocol.REPORT), or None.
        """
        if not self.exact:
            return False
        root = -1
        if report is not None:
            facts = self._facts
            if int(report["scr_el3"]) != facts.scr_el3:
                return False
            if int(report["ttbr1_el1"]) & _TTBR_ADDRESS != facts.kernel_root:
                return False
            root = int(report["ttbr0_el1"]) & _TTBR_ADDRESS
            if root in self._roots:
                root = -1
        # Addresses below secure RAM wrap around and count as outside, like those above.
        numbers = np.minimum((changed - self._base_word) >> np.uint64(PAGE_BITS), np.uint64(self._pages))
        kinds = self._kinds[numbers]
        present = int(np.bitwise_or.reduce(kinds)) if len(kinds) else 0
        if present & _FIXED:
            return False
        if present & _GLOBALS and not np.array_equal(ram.words[self._asid_table], self._asid_words):
            return False
        work = _Work(self, ram, numbers)
        if present & _SLOTS and not work.known_slots(numbers[(kinds & _SLOTS) != 0]):
            return False
        if present & _TABLE and not work.known_tables(numbers[(kinds & _TABLE) != 0]):
            return False
        if present & _POOL and not work.known_pools(numbers[(kinds & _POOL) != 0]):
            return False
        return work.finish(root)


class _Work:
    """What one program's changes lead to."""

    __slots__ = ("_changed", "_links", "_numbers", "_ram", "_seen", "_tables", "_world")

    def __init__(self, world: WorldChanges, ram: Ram, numbers: Array) -> None:
        self._world = world
        self._ram = ram
        self._numbers = numbers
        self._changed: set[int] | None = None
        self._links: list[tuple[int, int]] = []
        """Tables that entries point to: page, level."""
        self._tables: dict[int, int] = {}
        """Tables that are new: level by page."""
        self._seen: set[tuple[int, int]] = set()

    def _differs(self, first: int, last: int) -> bool:
        """Whether pages first..last differ from the snapshot, or were not empty in it."""
        if self._changed is None:
            self._changed = set(self._numbers.tolist())
        changed, empty = self._changed, self._world._empty
        return any(page in changed or not empty[page] for page in range(first, last + 1))

    def known_slots(self, pages: Array) -> bool:
        """Slots of the snapshot's containers that changed."""
        world = self._world
        after = self._ram.pages[pages]
        unequal: Array = after != world._before[pages]
        differs = unequal.reshape(-1, _PAGE_SLOTS, _SLOT_WORDS).any(axis=2)
        differs &= world._masks[pages]
        where = np.flatnonzero(differs)
        if not len(where):
            return True
        words = after.reshape(-1, _SLOT_WORDS)[where, :2].tolist()
        slots = (pages[where // _PAGE_SLOTS].astype(np.int64) * _PAGE_SLOTS + where % _PAGE_SLOTS).tolist()
        return self._capabilities(slots, words)

    def _capabilities(self, slots: list[int], words: list[list[int]]) -> bool:
        world = self._world
        verdicts, containers, buffers = world._verdicts, world._containers, world._buffer_slots
        for slot, (low, high) in zip(slots, words, strict=True):
            verdict = verdicts.get((low, high)) or world._verdict((low, high))
            if not verdict.good or (slot in buffers and not verdict.buffer):
                return False
            if verdict.slots:
                key = (verdict.first_slot, verdict.slots)
                if key not in containers and key not in self._seen:
                    self._seen.add(key)
                    if not self._new_slots(key, verdict.buffer_slot):
                        return False
            elif verdict.table >= 0 and world._tables.get(verdict.table) != verdict.level:
                self._tables[verdict.table] = verdict.level
        return True

    def _new_slots(self, key: tuple[int, int], buffer_slot: int) -> bool:
        """Slots of a CNode or thread that the snapshot does not have."""
        first, count = key
        if not self._differs(first // _PAGE_SLOTS, (first + count - 1) // _PAGE_SLOTS):
            return True
        part = self._ram.slots[first : first + count]
        where = np.flatnonzero(part[:, 0] | part[:, 1])
        slots = (where + first).tolist()
        words = part[where, :2].tolist()
        if buffer_slot >= 0 and buffer_slot in slots:
            low, high = words[slots.index(buffer_slot)]
            if not (self._world._verdicts.get((low, high)) or self._world._verdict((low, high))).buffer:
                return False
        return self._capabilities(slots, words)

    def known_tables(self, pages: Array) -> bool:
        """Entries of the snapshot's tables that changed."""
        world = self._world
        after = self._ram.pages[pages]
        where = np.flatnonzero(after != world._before[pages])
        entries = after.reshape(-1)[where].tolist()
        levels = world._levels[pages[where // PAGE_WORDS]].tolist()
        return self._check_entries(entries, levels)

    def _check_entries(self, entries: list[int], levels: list[int]) -> bool:
        world = self._world
        for entry, level in zip(entries, levels, strict=True):
            if entry:
                good, table = world._entries.get((level, entry)) or world._entry(level, entry)
                if not good:
                    return False
                if table >= 0:
                    self._links.append((table, level + 1))
        return True

    def known_pools(self, pages: Array) -> bool:
        """Entries of ASID pools that changed: address spaces that are new must have a known root."""
        after = self._ram.pages[pages]
        where = np.flatnonzero(after != self._world._before[pages])
        layout = self._world._layout
        for pointer in after.reshape(-1)[where].tolist():
            if pointer:
                page = (layout.physical(pointer) - self._world._base) >> PAGE_BITS
                self._links.append((page, 0))
        return True

    def finish(self, root: int) -> bool:
        """Tables that are new, and whether every link leads to a table of its level."""
        world = self._world
        if root >= 0:
            self._links.append(((root - world._base) >> PAGE_BITS, 0))
        for page, level in self._tables.items():
            if self._differs(page, page):
                content = self._ram.pages[page]
                entries = content[np.flatnonzero(content)].tolist()
                if not self._check_entries(entries, [level] * len(entries)):
                    return False
        return all(world._tables.get(page) == level or self._tables.get(page) == level for page, level in self._links)
