# SPDX-License-Identifier: BSD-2-Clause
"""The snapshot, decoded once into what the judgement of a program's changes asks for.

The snapshot never changes, so all that can be known of it is looked up: which words matter and what they are, which
slots hold capabilities to one object, where each slot stands in the mapping database, who waits for what, which
entries of tables map an object.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.invariants.attributes import memory_types
from harness.invariants.incremental.decoding import NONE, Cap, Decoder
from harness.kernel_state.capabilities import KERNEL_OBJECTS
from harness.kernel_state.layout import PAGE_BITS
from harness.kernel_state.state import Container, ContainerKind, KernelState

Array = np.ndarray[Any, Any]

SLOT, THREAD, ENDPOINT, NOTIFICATION, TABLE, POOL, POOLS, QUEUE, BITMAP, LINE, FIXED, GLOBAL = range(1, 13)
"""What a word of secure RAM is: part of a slot, of a thread, ..., of a ready queue or its bitmap, the state of an
interrupt, one that no running kernel changes, or another global variable."""
TABLE_NAMES = ("page_global_directory_cap", "page_upper_directory_cap", "page_directory_cap", "page_table_cap")
"""The capability of a table of each level."""
WORD = 8
_REMEMBERED = 1 << 14
"""Answers that are remembered."""
_FIXED_VARIABLES = (
    "armKSGlobalUserPGD",
    "ksDomSchedule",
    "ksIdleThread",
    "intStateIRQNode",
)
_GLOBALS = (
    "ksCurThread",
    "ksSchedulerAction",
    "ksCurDomain",
    "ksDomainTime",
    "ksDomScheduleIdx",
    "ksActiveFPUState",
)
_THREAD_MEMBERS = (
    "tcbBoundNotification",
    "tcbDomain",
    "tcbMCP",
    "tcbPriority",
    "tcbTimeSlice",
    "tcbIPCBuffer",
    "tcbSchedNext",
    "tcbSchedPrev",
    "tcbEPNext",
    "tcbEPPrev",
)
"""Members of a tcb_t that an invariant looks at."""


class Ranges:
    """Ranges of memory that lie in each other or apart."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        """`ranges`: first address and binary logarithm of the size of each; none twice."""
        self.ranges = sorted(ranges, key=lambda one: (one[0], -one[1]))
        self._starts = [base for base, _ in self.ranges]
        self._outer: list[int] = []
        self._known: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
        stack: list[int] = []
        for index, (base, _) in enumerate(self.ranges):
            while stack and self._end(stack[-1]) <= base:
                stack.pop()
            self._outer.append(stack[-1] if stack else NONE)
            stack.append(index)

    def _end(self, index: int) -> int:
        base, bits = self.ranges[index]
        return base + (1 << bits)

    def around(self, base: int, last: int, least_bits: int = 0) -> list[tuple[int, int]]:
        """Those that hold `[base, last]` and have at least so many bits, the innermost first."""
        key = (base, last, least_bits)
        if (known := self._known.get(key)) is not None:
            return known
        found = []
        index = bisect_right(self._starts, base) - 1
        while index >= 0:
            if self._end(index) > last and self.ranges[index][1] >= least_bits:
                found.append(self.ranges[index])
            index = self._outer[index]
        if len(self._known) < _REMEMBERED:
            self._known[key] = found
        return found

    def within(self, base: int, last: int) -> list[tuple[int, int]]:
        """Those that begin in `[base, last]`."""
        return self.ranges[bisect_left(self._starts, base) : bisect_right(self._starts, last)]


@dataclass(frozen=True)
class Place:
    """A table that an address space reaches: where, and the word that leads to it (NONE: the root of one)."""

    root: int
    level: int
    virtual: int
    entry: int
    parent: int
    """Page of the table that holds this word."""


@dataclass(frozen=True)
class Mapping:
    """An entry of a table that an address space reaches: its word, the table's page, and where it maps."""

    word: int
    page: int
    level: int
    virtual: int


class SnapshotIndex:
    """All of one snapshot. `exact` is false if it holds what only the whole check follows."""

    def __init__(self, state: KernelState) -> None:
        self.state = state
        self.layout = state.layout
        self.base = state.ram.base
        self.words = state.ram.words.copy()
        """u64[n]: secure RAM; the snapshot's memory may be a view of a machine."""
        self.slots = self.words.reshape(-1, 4)
        self.decoder = Decoder(state)
        self.roles = np.zeros(len(self.words), np.uint8)
        self.exact = True
        self._slot_tables()
        self._objects()
        self._chains()
        self._threads()
        self._tables()
        self._mark_roles()

    # Slots

    def _slot_tables(self) -> None:
        state, bits = self.state, self.layout.slot_bits
        self.containers: list[Container] = list(state.containers)
        self.firsts = [(container.address - self.base) >> bits for container in self.containers]
        self.container_of = np.full(len(self.slots), NONE, np.int16)
        """i16[slots]: the container of each slot of secure RAM."""
        self.container_at: dict[int, int] = {}
        for index, (container, first) in enumerate(zip(self.containers, self.firsts, strict=True)):
            part = self.container_of[first : first + container.slots]
            self.exact = self.exact and not (part != NONE).any() and container.kind != ContainerKind.ZOMBIE
            part[:] = index
            self.container_at[container.address] = index
        self.caps: dict[int, Cap] = {}
        """What each used slot holds."""
        self.links: dict[int, tuple[int, int]] = {}
        self.groups: dict[int, frozenset[int]] = {}
        """Slots that hold capabilities to one object, by its key."""
        groups: dict[int, list[int]] = {}
        self.used: list[list[int]] = [[] for _ in self.containers]
        """Used slots of each container."""
        where = ((state.caps.address - np.uint64(self.base)) >> np.uint64(bits)).astype(np.int64)
        for slot, words in zip(where.tolist(), self.slots[where].tolist(), strict=True):
            cap = self.decoder.cap(words[0], words[1])
            self.caps[slot] = cap
            self.links[slot] = self.decoder.links(words[2], words[3])
            self.used[int(self.container_of[slot])].append(slot)
            groups.setdefault(cap.key, []).append(slot)
            self.exact = self.exact and cap.good
        self.groups = {key: frozenset(slots) for key, slots in groups.items()}

    def _objects(self) -> None:
        """Objects in memory and untypeds, by address."""
        objects: dict[int, Cap] = {}
        untypeds: set[tuple[int, int]] = set()
        for cap in self.caps.values():
            if cap.bits and cap.name == "untyped_cap":
                untypeds.add((cap.base, cap.bits))
            elif cap.bits:
                objects[cap.key] = cap
        self.objects = sorted(objects.values(), key=lambda cap: cap.base)
        """One capability to each object, in order of address; they share no memory."""
        self._object_starts = [cap.base for cap in self.objects]
        self.untypeds = Ranges(untypeds)
        self.exact = self.exact and not any(
            a.last >= b.base for a, b in zip(self.objects, self.objects[1:], strict=False)
        )

    def free(self, key: int) -> int:
        """Where the free part of an untyped begins that all of its capabilities agree on, by its key."""
        return min(self.caps[slot].free for slot in self.groups[key])

    def objects_in(self, first: int, last: int) -> list[Cap]:
        """Objects that share memory with `[first, last]`."""
        low = bisect_right(self._object_starts, first)
        if low and self.objects[low - 1].last >= first:
            low -= 1
        return self.objects[low : bisect_right(self._object_starts, last)]

    def _chains(self) -> None:
        """Where each slot stands in the mapping database: number of its chain, and place in there."""
        self.position: dict[int, tuple[int, int]] = {}
        for slot, (before, _) in self.links.items():
            if before == NONE:
                at, place = slot, 0
                while at in self.links and at not in self.position:
                    self.position[at] = (slot, place)
                    at, place = self.links[at][1], place + 1
        self.exact = self.exact and len(self.position) == len(self.links)

    # Threads

    def _threads(self) -> None:
        state = self.state
        self.tcbs = frozenset(state.threads.tcb.tolist())
        """Physical addresses of all tcb_t."""
        self.current, self.idle = state.pointer("ksCurThread"), state.pointer("ksIdleThread")
        objects = [("endpoint_cap", state.endpoints), ("notification_cap", state.notifications)]
        self.ipc_objects = {address: name for name, known in objects for address in known.address.tolist()}
        self.current_word = self.word_of(state.global_address("ksCurThread"))

    # Address spaces

    def _tables(self) -> None:
        state = self.state
        walk = state.user_walk
        self.asids = dict(state.asid_map)
        self.asid_of: dict[int, int] = {root: asid for asid, root in state.asid_map.items()}
        """ASID of each root that has one."""
        self.pools = dict(state.asid_pools)
        self.pool_entries = self.layout.struct("asid_pool")["array"].dimensions[0]
        self.empty_root = state.global_address("armKSGlobalUserPGD")
        self.memory_types = frozenset(memory_types(self.layout).values())
        types = self.layout.cap_types
        self.kernel_types = frozenset(types[name] for name in (*KERNEL_OBJECTS, "reply_cap"))
        """The capType of what has an object that is the kernel's own data."""
        self.table_types = frozenset(types[name] for name in TABLE_NAMES)
        """The capType of tables, and of all that can be mapped."""
        self.mapped_types = self.table_types | {types["frame_cap"]}
        self.exact = self.exact and len(self.asid_of) == len(self.asids) and not walk.overflow
        self.places: dict[int, list[Place]] = {}
        """Where the table of each page of secure RAM is reached."""
        self.mappings: dict[int, list[Mapping]] = {}
        """Entries that lead to each page, block or table, by physical address."""
        for root in walk.roots.tolist():
            if state.ram.holds(root, 1 << PAGE_BITS):
                self.places[self.page(root)] = [Place(root, 0, 0, NONE, NONE)]
        columns = (walk.root, walk.level, walk.table, walk.index, walk.leaf, walk.base, walk.virtual)
        for root, level, table, index, leaf, base, virtual in zip(*(c.tolist() for c in columns), strict=True):
            page = self.page(table)
            word = (page << PAGE_BITS) // WORD + index
            self.mappings.setdefault(base, []).append(Mapping(word, page, level, virtual))
            if not leaf:
                place = Place(int(walk.roots[root]), level + 1, virtual, word, page)
                self.places.setdefault(self.page(base), []).append(place)
        self.exact = self.exact and all(len(places) == 1 for places in self.places.values())
        if walk.malformed.any() or walk.stray.any():
            self.exact = False

    def page(self, address: int) -> int:
        """Number of the page of secure RAM at a physical address."""
        return (address - self.base) >> PAGE_BITS

    # Words

    def _mark(self, address: int, size: int, role: int, *, again: bool = False) -> None:
        if not self.state.ram.holds(address, size):
            self.exact = False
            return
        start = (address - self.base) // WORD
        part = self.roles[start : start + size // WORD]
        if (part != (role if again else 0)).any() and part.any():
            self.exact = False
        part[:] = role

    def _mark_variable(self, name: str, role: int) -> None:
        if name in self.layout.types.variables:
            size = max(WORD, self.layout.variable(name).size)
            self._mark(self.state.global_address(name), size, role)

    def _mark_roles(self) -> None:
        layout = self.layout
        for container in self.containers:
            self._mark(container.address, container.slots << layout.slot_bits, SLOT)
        members = layout.struct("tcb").members
        state_fields = [layout.block("thread_state")[name] for name in ("tsType", "blockingObject", "tcbQueued")]
        for tcb in self.tcbs:
            for name in _THREAD_MEMBERS:
                self._mark(tcb + members[name].offset, members[name].size, THREAD)
            for field in [*state_fields, layout.union("seL4_Fault").tag]:
                start = members["tcbFault" if field not in state_fields else "tcbState"].offset
                self._mark(tcb + start + WORD * field.word, WORD, THREAD, again=True)
        for address, name in self.ipc_objects.items():
            role = ENDPOINT if name == "endpoint_cap" else NOTIFICATION
            for field in layout.block("endpoint" if role == ENDPOINT else "notification").fields.values():
                if field.name != "ntfnMsgIdentifier":
                    self._mark(address + WORD * field.word, WORD, role, again=True)
        for cap in self.objects:
            if cap.name in TABLE_NAMES and cap.base != self.empty_root:
                self._mark(cap.base, 1 << PAGE_BITS, TABLE)
        for address in self.pools.values():
            self._mark(address, layout.struct("asid_pool").size, POOL)
        for name, role in (
            ("armKSASIDTable", POOLS),
            ("ksReadyQueues", QUEUE),
            ("ksReadyQueuesL1Bitmap", BITMAP),
            ("ksReadyQueuesL2Bitmap", BITMAP),
            ("intStateIRQTable", LINE),
            *((name, FIXED) for name in _FIXED_VARIABLES),
            *((name, GLOBAL) for name in _GLOBALS),
        ):
            self._mark_variable(name, role)

    def word_of(self, address: int) -> int:
        """Number of the word of secure RAM at a physical address."""
        return (address - self.base) // WORD
