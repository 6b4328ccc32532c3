# SPDX-License-Identifier: BSD-2-Clause
"""One word of the real kernel's memory is changed: what must report it does, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from harness.execution.executor import Executor
from harness.invariants.registry import Checker, invariants
from harness.kernel_state.layout import Layout
from harness.kernel_state.lookup import lookup_slot
from harness.kernel_state.state import KernelState
from harness.programs.interfaces import Interface
from tests.unit.kernel_state_support import Memory

WORD = (1 << 64) - 1


class Image:
    """A copy of the snapshot's secure RAM, and where things lie in it."""

    def __init__(self, executor: Executor) -> None:
        config = executor.config
        base, end = config.secure_ram.base, config.firmware_ram.end
        self.memory = Memory(base, end - base)
        self.memory.bytes[:] = np.frombuffer(executor.snapshot.read(base, end - base), np.uint8)
        self.layout = Layout.from_artefacts(executor.artefacts)
        self.interface = Interface.load(executor.artefacts)
        self.checker = Checker(self.layout, config, executor.snapshot, interface=self.interface)
        self.state: KernelState = self.checker.snapshot

    def var(self, name: str, index: int = 0) -> int:
        """Physical address of a word of a variable."""
        return self.layout.physical(self.layout.variable(name).address) + 8 * index

    def boot_information(self, member: str, word: int = 0) -> int:
        """Physical address of a word of what the kernel told the initial thread."""
        assert self.state.boot_info is not None
        return self.state.boot_info.address + self.layout.struct("seL4_BootInfo")[member].offset + 8 * word

    def slot(self, name: str, victim: int = 0) -> int:
        """Physical address of a victim's slot that the population names."""
        assert self.checker.smc is not None
        thread = self.checker.smc.victims[victim].thread
        numbers = self.interface.population
        own, number = numbers.slot_number(victim, "cnode"), numbers.slot_number(victim, name)
        assert own is not None and number is not None
        cnode = lookup_slot(self.layout, self.state.ram, thread, own)
        assert cnode is not None
        return cnode.base + (number << self.layout.slot_bits)

    def object(self, name: str) -> int:
        """Physical address of the object that a slot names."""
        row = int(self.state.caps.rows_at(np.array([self.slot(name)], np.uint64))[0])
        return int(self.state.caps.base[row])

    def cap(self, slot: int, field: str, change: Callable[[int], int]) -> tuple[int, int]:
        """Address and new value of the word of a capability with a field of it changed."""
        row = int(self.state.caps.rows_at(np.array([slot], np.uint64))[0])
        return self._changed(self.state.caps.type_name(row), field, slot, change)

    def node(self, slot: int, field: str, value: int) -> tuple[int, int]:
        """Address and new value of the word of a slot's mdb_node with a field of it changed."""
        return self._changed("mdb_node", field, slot + 16, lambda _: value)

    def _changed(self, block: str, field: str, address: int, change: Callable[[int], int]) -> tuple[int, int]:
        where = self.layout.block(block)[field]
        start = (address - self.memory.base) >> 3
        words = self.memory.words[start : start + self.layout.block(block).words].tolist()
        where.put(words, change(where.get(words)))
        return address + 8 * where.word, words[where.word]

    def thread(self, state: str) -> int:
        """Physical address of the tcb_t of the first thread in a state."""
        threads = self.state.threads
        return int(threads.tcb[np.flatnonzero(threads.in_state(state))[0]])

    def member(self, tcb: int, name: str) -> int:
        """Physical address of a member of a tcb_t."""
        return tcb + self.layout.struct("tcb")[name].offset

    def thread_state(self, tcb: int, field: str, value: int) -> tuple[int, int]:
        """Address and new value of the word of a thread's state with a field of it changed."""
        return self._changed("thread_state", field, self.member(tcb, "tcbState"), lambda _: value)


Poke = Callable[[Image], tuple[int, int]]


def _state(name: str, image: Image) -> int:
    return image.layout.constant(f"ThreadState_{name}")


def _zombie_of_victims_cnode(m: Image) -> tuple[int, int]:
    words = m.layout.block("zombie_cap").encode(
        capType=m.layout.cap_types["zombie_cap"], capZombieType=m.interface.population.cnode_bits
    )
    return m.slot("cnode"), words[0]


def _free_entry(m: Image, table: str) -> int:
    entries = m.state.ram.pages[(m.object(table) - m.state.ram.base) >> 12]
    return m.object(table) + 8 * int(np.flatnonzero(entries == 0)[0])


def _window_entry(m: Image) -> tuple[int, int]:
    """Address and value of an entry of the kernel's window, with UXN cleared: EL0 might execute it."""
    walk = m.state.kernel_walk
    row = int(np.flatnonzero(walk.leaf)[0])
    return int(walk.table[row]) + 8 * int(walk.index[row]), int(walk.entry[row]) & ~(1 << 54)


POKES: dict[str, tuple[set[str], Poke]] = {
    "cur_tcb": (set(), lambda m: (m.var("ksSchedulerAction"), m.layout.virtual(m.thread("BlockedOnSend")))),
    "only_idle": (set(), lambda m: m.thread_state(m.thread("Inactive"), "tsType", _state("IdleThreadState", m))),
    "valid_queues": (set(), lambda m: (m.var("ksReadyQueuesL1Bitmap"), 1 << 7)),
    "sym_refs": (
        set(),
        lambda m: m.thread_state(m.thread("BlockedOnSend"), "blockingObject", m.layout.virtual(m.object("channel"))),
    ),
    "valid_reply_caps": (
        set(),
        lambda m: m.thread_state(m.thread("BlockedOnReply"), "tsType", _state("Inactive", m)),
    ),
    "valid_reply_masters": (
        {"valid_reply_caps"},
        lambda m: m.cap(
            (m.thread("BlockedOnSend") & -2048) + (m.layout.constant("tcbReply") << m.layout.slot_bits),
            "capReplyMaster",
            lambda _: 0,
        ),
    ),
    "valid_irq_node": (set(), lambda m: (m.var("intStateIRQTable", 5), 7)),
    "valid_irq_handlers": (set(), lambda m: (m.var("intStateIRQTable", 5), m.layout.constant("IRQSignal"))),
    "if_live_then_nonz_cap": (
        {"only_idle", "sym_refs"},
        lambda m: (
            m.member(m.thread("IdleThreadState"), "tcbBoundNotification"),
            m.layout.virtual(m.object("bell")),
        ),
    ),
    "if_unsafe_then_cap": (
        # The other domain capabilities stand elsewhere.
        {"only_idle", "descendants_inc"},
        lambda m: (
            m.thread("IdleThreadState") & -2048,
            m.layout.block("domain_cap").encode(capType=m.layout.cap_types["domain_cap"])[0],
        ),
    ),
    # It stands between the CNode's other capabilities.
    "zombies_final": ({"descendants_inc"}, _zombie_of_victims_cnode),
    "pspace_aligned": (set(), lambda m: m.cap(m.slot("thread"), "capTCBPtr", lambda pointer: pointer + 8)),
    "pspace_distinct": (
        {"descendants_inc"},
        lambda m: m.cap(m.slot("channel-send"), "capEPPtr", lambda _: m.layout.virtual(m.object("table") + 0x40)),
    ),
    "pspace_in_kernel_window": (
        set(),
        lambda m: (m.var("armKSGlobalKernelPDs") + 8 * (m.object("page-s") >> 21), 0),
    ),
    "valid_global_refs": (
        # It ends the run of slots that descend from its untyped.
        {"untyped_inc", "untyped_mdb"},
        lambda m: m.cap(m.slot("page-s"), "capFBasePtr", lambda _: m.layout.virtual(m.var("ksCurThread") & -4096)),
    ),
    "boot_information": (
        set(),
        lambda m: (m.boot_information("extraBIPages", 1), 1),
    ),
    "valid_objs": (set(), lambda m: (m.member(m.thread("BlockedOnSend"), "tcbPriority"), 999)),
    "untyped_mdb": (
        {"mdb_cte_at", "descendants_inc"},
        lambda m: m.node(int(m.state.caps.previous[_row(m, "channel")]), "mdbNext", 0),
    ),
    "ut_revocable": (set(), lambda m: m.node(m.slot("arena"), "mdbRevocable", 0)),
    "descendants_inc": (
        set(),
        lambda m: m.cap(m.slot("channel-send"), "capEPPtr", lambda _: m.layout.virtual(m.object("lost"))),
    ),
    "mdb_cte_at": (set(), lambda m: m.node(m.slot("smc-echo"), "mdbPrev", 0)),
    "no_mloop": ({"mdb_cte_at", "untyped_mdb", "untyped_inc", "descendants_inc"}, lambda m: _loop(m)),
    "valid_vs_lookup": (
        set(),
        lambda m: m.cap(m.slot("page-s-mapped"), "capFMappedAddress", lambda address: address + 0x3000),
    ),
    "valid_table_caps": (set(), lambda m: (m.object("spare-table-a") + 8 * 7, 2)),
    "unique_table_refs": (
        set(),
        lambda m: m.cap(m.slot("vspace"), "capPGDMappedASID", lambda asid: asid + 100),
    ),
    "valid_arch_state": (set(), lambda m: (m.var("armKSGlobalUserPGD", 3), 2)),
    "valid_global_vspace_mappings": (set(), _window_entry),
    "valid_vspace_objs": (
        {"valid_vs_lookup"},
        lambda m: (_free_entry(m, "table"), m.object("arena") | 0x403),
    ),
    "valid_untyped": (set(), lambda m: m.cap(m.slot("arena"), "capFreeIndex", lambda _: 1 << 30)),
    "untyped_inc": (
        set(),
        lambda m: m.cap(_parent_of(m, "arena"), "capFreeIndex", lambda _: 0),
    ),
    "ns_bit_matches_world": (set(), lambda m: _flip_ns(m)),
}


def _row(m: Image, name: str) -> int:
    return int(m.state.caps.rows_at(np.array([m.slot(name)], np.uint64))[0])


def _loop(m: Image) -> tuple[int, int]:
    """The end of the chain in which the channel stands leads back to its beginning."""
    chains = m.state.derivation.chains
    chain = np.flatnonzero(chains.chain == chains.chain[_row(m, "channel")])
    ordered = m.state.caps.address[chain[np.argsort(chains.position[chain])]]
    return m.node(int(ordered[-1]), "mdbNext", m.layout.virtual(int(ordered[0])))


def _parent_of(m: Image, name: str) -> int:
    """Slot of the untyped from which another was made."""
    rows, outer = m.state.derivation.untypeds
    index = int(np.flatnonzero(rows == _row(m, name))[0])
    return int(m.state.caps.address[rows[outer[index]]])


def _flip_ns(m: Image) -> tuple[int, int]:
    walk = m.state.user_walk
    row = int(np.flatnonzero(walk.leaf & (walk.bits == 12))[0])
    return int(walk.table[row]) + 8 * int(walk.index[row]), int(walk.entry[row]) ^ 0x20


@pytest.fixture(scope="module")
def image(shared_executor: Executor) -> Image:
    return Image(shared_executor)


@pytest.mark.parametrize("name", POKES)
def test_a_changed_word_is_reported_by_what_it_breaks(name: str, image: Image) -> None:
    others, poke = POKES[name]
    address, value = poke(image)
    index = (address - image.memory.base) >> 3
    before = int(image.memory.words[index])
    assert value & WORD != before
    image.memory.put(address, value)
    try:
        violations = image.checker.check(image.memory).violations
    finally:
        image.memory.put(address, before)
    assert {violation.invariant for violation in violations} == {name} | others
    own = next(violation for violation in violations if violation.invariant == name)
    assert own.object_kind
    assert {"field", "found", "expected"} <= set(own.evidence)


def test_each_invariant_that_a_word_can_break_is_poked(image: Image) -> None:
    assert not image.checker.check(image.memory).violations
    # What a call was answered is no word of the kernel's memory.
    elsewhere = {entry.id for entry in invariants(["world", "two-worlds", "answers"])}
    assert {entry.id for entry in invariants()} - elsewhere <= set(POKES)
