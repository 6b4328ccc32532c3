# SPDX-License-Identifier: BSD-2-Clause
"""What to look for in a state to see that an odd one was reached, and words to change to reach what programs cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.execution.observation import Observation
from harness.kernel_state.memory import Words
from harness.kernel_state.page_tables import translate
from harness.kernel_state.state import KernelState

Rows = np.ndarray[Any, np.dtype[np.intp]]
ANOTHER_CHUNK = 0x40
"""A free index (units of 16 bytes) at a multiple of the chunk of a reset."""


@dataclass(frozen=True)
class View:
    """A state, and the observation of the program that led to it."""

    state: KernelState
    observation: Observation
    victims: tuple[int, ...]
    """Physical address of each victim's CNode."""
    slots: Callable[[str], int]
    """Number of a slot of the first victim, by name."""

    def row(self, name: str) -> int:
        """Row of a slot of the first victim."""
        caps = self.state.caps
        address = self.victims[0] + (self.slots(name) << self.state.layout.slot_bits)
        return int(caps.rows_at(np.array([address], np.uint64))[0])

    def of(self, name: str, **fields: int) -> Rows:
        """Rows of capabilities of a type with these values in fields."""
        caps = self.state.caps
        rows = caps.of(name)
        for key, value in fields.items():
            rows = rows[caps.field(name, key, rows) == np.uint64(value)]
        return rows

    def held(self, slot: str) -> Rows:
        """Row of each thread's own slot; -1 where it is empty."""
        return self.state.caps.rows_at(self.state.thread_slot(slot))

    @property
    def free_indices(self) -> Words:
        """Free index of the first victim's arena, the only element."""
        return self.state.caps.field("untyped_cap", "capFreeIndex", np.array([self.row("arena")]))

    @property
    def arena_is_empty(self) -> bool:
        """Whether no other capability's object lies in the first victim's arena."""
        caps, row = self.state.caps, self.row("arena")
        inside = caps.physical & (caps.base >= caps.base[row]) & (caps.last <= caps.last[row])
        return bool(inside.sum() == (inside & (caps.bits == caps.bits[row])).sum())

    @property
    def current(self) -> int:
        """Row of the current thread."""
        return self.state.threads.row_of[self.state.pointer("ksCurThread")]

    @property
    def fpu_owner(self) -> int:
        """Row of the thread whose registers are in the FPU."""
        owner, threads = self.state.pointer("ksActiveFPUState"), self.state.threads
        return int(np.flatnonzero((threads.tcb <= owner) & (threads.address + np.uint64(2047) >= owner))[0])

    @property
    def mapped_table(self) -> Rows:
        """Rows of page tables that say they are mapped though no entry of an address space leads to them."""
        caps, walk = self.state.caps, self.state.user_walk
        rows = self.of("page_table_cap", capPTIsMapped=1)
        return rows[~np.isin(caps.base[rows], walk.base[~walk.leaf])]

    def entries(self, rows: Rows) -> bool:
        """Whether each of some tables holds entries."""
        ram = self.state.ram
        pages = (self.state.caps.base[rows] - np.uint64(ram.base)) >> np.uint64(12)
        return bool(len(rows)) and bool(ram.pages[pages.astype(np.int64)].any(axis=1).all())

    @property
    def own_zombies(self) -> Rows:
        """Rows of zombies that lie in the CNode or thread that they stand for."""
        caps = self.state.caps
        rows = caps.of("zombie_cap")
        return rows[(caps.address[rows] >= caps.base[rows]) & (caps.address[rows] <= caps.last[rows])]


def leaves(v: View, virtual: int) -> Words:
    walk = v.state.user_walk
    own = v.state.caps.base[v.row("vspace")]
    root = np.flatnonzero(walk.roots == own)[0]
    found: Words = walk.base[walk.leaf & (walk.virtual == np.uint64(virtual)) & (walk.root == root)]
    return found


def spare_root(v: View) -> bool:
    caps, threads = v.state.caps, v.held("tcbVTable")
    root = caps.base[v.row("spare-pgd")]
    used = caps.base[threads[threads >= 0]]
    leads = [asids for at, asids in zip(v.state.vspaces.roots, v.state.vspaces.asids, strict=True) if at == root]
    return bool(leads and leads[0]) and root not in used


def buffers(v: View) -> Rows:
    rows = v.held("tcbBuffer")
    return rows[rows >= 0]


def named_by_own_zombie(v: View) -> Rows:
    """Threads of which there is nothing but a zombie."""
    caps, threads = v.state.caps, v.state.threads
    named = np.isin(threads.address, caps.base[caps.of("thread_cap")])
    zombie = np.isin(threads.address, caps.base[v.own_zombies])
    return np.flatnonzero(zombie & ~named & threads.in_state("Inactive"))


def names_place_of(v: View) -> Words:
    """What is mapped where the capability of the first victim's mapped page says that it is."""
    caps, row = v.state.caps, np.array([v.row("page-s-mapped")])
    assert int(caps.field("frame_cap", "capFMappedASID", row)[0])
    return leaves(v, int(caps.field("frame_cap", "capFMappedAddress", row)[0]))


def without_window(v: View) -> Any:
    caps, state = v.state.caps, v.state
    frames = caps.of("frame_cap")
    devices = frames[caps.device[frames]]
    return ~translate(state.ram, state.kernel_root, caps.base[devices] + np.uint64(state.layout.offset))[1]


def invalid_entry(v: View) -> dict[int, int]:
    """An entry of a page table that says invalid and holds everything else."""
    caps, ram = v.state.caps, v.state.ram
    table = int(caps.base[v.row("table")])
    free = int(np.flatnonzero(ram.pages[(table - ram.base) >> 12] == 0)[0])
    return {table + 8 * free: (1 << 64) - 2}


def has_invalid_entry(v: View) -> bool:
    page = (int(v.state.caps.base[v.row("table")]) - v.state.ram.base) >> 12
    entries = v.state.ram.pages[page]
    return bool(((entries != 0) & (entries & np.uint64(1) == 0)).any())


def free_index(v: View) -> dict[int, int]:
    where = v.state.layout.block("untyped_cap")["capFreeIndex"]
    row = v.row("arena")
    words = [int(word) for word in v.state.caps.words[row]]
    where.put(words, ANOTHER_CHUNK)
    return {int(v.state.caps.address[row]) + 8 * where.word: words[where.word]}


def empty_zombie(v: View) -> dict[int, int]:
    """The capability of a CNode that was just made becomes a zombie with nothing left."""
    caps, layout = v.state.caps, v.state.layout
    rows = v.of("cnode_cap", capCNodeRadix=2)
    (row,) = rows[np.isin(caps.base[rows], of_one(caps.base[rows]))].tolist()
    identity = layout.virtual(int(caps.base[row]))
    words = layout.block("zombie_cap").encode(
        capType=layout.cap_types["zombie_cap"], capZombieType=2, capZombieID=identity
    )
    return {int(caps.address[row]) + 8 * index: word for index, word in enumerate(words)}


def of_one(values: Words) -> Words:
    """Those that are there once."""
    unique, counts = np.unique(values, return_counts=True)
    once: Words = unique[counts == 1]
    return once


def old_links(v: View, names: str) -> Any:
    """Threads whose links are not null."""
    return (v.state.threads.member(f"{names}Next") != 0) | (v.state.threads.member(f"{names}Prev") != 0)


def bound_and(v: View, state: str) -> bool:
    threads = v.state.threads
    bound = threads.pointer("tcbBoundNotification")
    waits_for = threads.state("blockingObject") - np.uint64(threads.layout.offset)
    return bool((threads.in_state(state) & (bound != 0) & (waits_for != bound)).any())


def has_nothing(v: View) -> Any:
    empty = (v.held("tcbVTable") < 0) & (v.held("tcbCTable") < 0) & (v.held("tcbBuffer") < 0)
    return v.state.threads.runnable & empty


def unanswerable(v: View) -> Any:
    """Threads that wait for a reply that nobody can give."""
    threads, replies = v.state.threads, v.of("reply_cap", capReplyMaster=0)
    named = v.state.caps.field("reply_cap", "capTCBPtr", replies) - np.uint64(threads.layout.offset)
    return threads.in_state("BlockedOnReply") & ~np.isin(threads.tcb, named)


def only_in_itself(v: View) -> bool:
    caps = v.state.caps
    rows = caps.of("cnode_cap")
    inside = (caps.address[rows] >= caps.base[rows]) & (caps.address[rows] <= caps.last[rows])
    return any(bool(inside[caps.base[rows] == base].all()) for base in np.unique(caps.base[rows]))


def badges(v: View, badge: int | None = None) -> int:
    badges = v.state.caps.badge[v.state.caps.of("smc_cap")]
    return (
        int((badges == badge).sum())
        if badge is not None
        else int(np.unique(badges[badges != 0], return_counts=True)[1].max())
    )


def odd_ctable(v: View) -> Any:
    rows, caps = v.held("tcbCTable"), v.state.caps
    used = rows[rows >= 0]
    return ~np.isin(caps.type[used], [v.state.layout.cap_types[name] for name in ("null_cap", "cnode_cap")])


def full(v: View, name: str) -> Any:
    caps = v.state.caps
    owner = v.state.derivation.innermost(caps.base[caps.of(name)], caps.last[caps.of(name)])
    free = caps.field("untyped_cap", "capFreeIndex", owner) << np.uint64(4)
    return free == caps.last[owner] - caps.base[owner] + np.uint64(1)


def containers(v: View) -> Any:
    """How many containers hold capabilities of the first victim's channel."""
    caps = v.state.caps
    rows = caps.of("endpoint_cap")
    rows = rows[caps.base[rows] == caps.base[v.row("channel")]]
    return np.unique(caps.container[rows])


def kept_caller(v: View) -> Any:
    rows, caps = v.held("tcbCaller"), v.state.caps
    return (
        v.state.threads.in_state("BlockedOnNotification")
        & (rows >= 0)
        & (caps.type[rows] == v.state.layout.cap_types["reply_cap"])
    )


def large_buffers(v: View) -> bool:
    return {21, 30} <= set(v.state.caps.bits[buffers(v)].tolist())


def restarting(v: View) -> Any:
    return v.state.threads.in_state("Restart")[v.current]


def idle(v: View) -> bool:
    return v.state.pointer("ksCurThread") == v.state.pointer("ksIdleThread")


def other_root(v: View) -> bool:
    return int(v.state.caps.base[v.held("tcbVTable")[v.current]]) != v.state.vspaces.live


def handed_out(v: View) -> bool:
    """The initial thread has an untyped no more that it was told of."""
    info, found = v.state.boot_info, v.state.initial_cnode
    assert info is not None and found is not None
    caps = v.state.caps
    held = set(caps.index[caps.container == caps.container[found[0]]].tolist())
    return any(untyped.slot not in held for untyped in info.untypeds)


def boot_part(v: View) -> Any:
    caps, rows = v.state.caps, v.state.caps.of("untyped_cap")
    kernel = np.uint64(v.state.config.secure_ram.base)
    return (caps.base[rows] >= kernel) & (caps.last[rows] < np.uint64(v.state.layout.image[0]))
