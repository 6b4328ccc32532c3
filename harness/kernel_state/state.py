# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's state as typed tables, read from memory.

Names are the kernel's own. All addresses are physical unless a name says otherwise. Memory
may hold anything: walks are bounded, pointers that lead out of secure RAM are not followed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np

from harness.configs import MachineConfig
from harness.errors import ImageError
from harness.kernel_state.capabilities import CapTable
from harness.kernel_state.derivation import Derivation
from harness.kernel_state.layout import Layout
from harness.kernel_state.memory import MemoryImage, Ram, Words
from harness.kernel_state.objects import BootInfo, read_boot_info
from harness.kernel_state.page_tables import Walk, walk
from harness.kernel_state.threads import IpcObjects, ReadyQueues, Threads, ipc_objects, ready_queues

Array = np.ndarray[Any, Any]

MAXIMUM_SLOTS = 1 << 19
"""Bound of the search for slots: all of secure RAM."""
MAXIMUM_NESTING = 1 << 12
"""Bound of CNodes within CNodes that the search follows; what lies deeper is not found, and links to it are wrong."""
TTBR_ADDRESS = ((1 << 48) - 1) & ~1
"""The address of a table in TTBR0 or TTBR1."""
TTBR_ASID_SHIFT = 48
"""Where the ASID begins in TTBR0."""


class ContainerKind(IntEnum):
    """What holds slots."""

    IRQ_NODE = 0
    THREAD = 1
    CNODE = 2
    ZOMBIE = 3


@dataclass(frozen=True)
class Container:
    """A run of slots: its kind, physical address and number of slots."""

    kind: ContainerKind
    address: int
    slots: int


@dataclass(frozen=True)
class VSpaces:
    """Address spaces.

    `roots`: level-0 tables; `asids`: for each root, the ASIDs that lead to it; `live`: the root in TTBR0.
    """

    roots: tuple[int, ...]
    asids: tuple[tuple[int, ...], ...]
    live: int | None


class KernelState:
    """All that the kernel keeps, decoded lazily from one memory.

    `report`: EL3's account of the park (harness.protocol.REPORT), for the live TTBRs; without it
    they are taken from the kernel's globals. `hints`: containers of an earlier state of the same
    machine, which save a search of all memory.

    Raises ImageError if the memory does not hold the config's secure RAM.
    """

    def __init__(
        self,
        layout: Layout,
        config: MachineConfig,
        memory: MemoryImage,
        *,
        report: Any = None,
        hints: Iterable[Container] = (),
        ram: Ram | None = None,
    ) -> None:
        self.layout = layout
        self.config = config
        self.memory = memory
        self.report = report
        self.ram = ram if ram is not None else Ram(memory, config.secure_ram)
        self._hints = tuple(hint for hint in hints if hint.kind != ContainerKind.IRQ_NODE)

    # Globals

    def global_word(self, name: str, index: int = 0) -> int:
        """A word of a global variable of the kernel."""
        return self.ram.word(self.layout.physical(self.layout.variable(name).address) + 8 * index)

    def global_words(self, name: str) -> Words:
        """All words of a global variable of the kernel."""
        variable = self.layout.variable(name)
        start = (self.layout.physical(variable.address) - self.ram.base) >> 3
        return self.ram.words[start : start + variable.size // 8]

    def global_address(self, name: str) -> int:
        """Physical address of a global variable of the kernel."""
        return self.layout.physical(self.layout.variable(name).address)

    # Slots

    def _thread_container(self, tcb_pointer: int) -> Container | None:
        address = self.layout.physical(tcb_pointer) & -(1 << self.layout.tcb_bits)
        if not self.ram.holds(address, 1 << self.layout.tcb_bits):
            return None
        return Container(ContainerKind.THREAD, address, self.layout.tcb_slots)

    def _first_containers(self) -> list[Container]:
        found = []
        node = self.layout.physical(self.global_word("intStateIRQNode"))
        size = len(self.global_words("intStateIRQTable"))
        if self.ram.holds(node, size * self.layout.slot_bytes) and not node & (self.layout.slot_bytes - 1):
            found.append(Container(ContainerKind.IRQ_NODE, node, size))
        queues = self.global_words("ksReadyQueues")
        pointers = [self.global_word("ksCurThread"), self.global_word("ksIdleThread")]
        pointers += [int(pointer) for pointer in queues[queues != 0]]
        for pointer in pointers:
            container = self._thread_container(pointer)
            if container is not None:
                found.append(container)
        return found

    @cached_property
    def _search(self) -> tuple[list[Container], CapTable]:
        containers: list[Container] = []
        known: set[tuple[int, int]] = set()
        total = 0
        first = self._first_containers()
        waiting = [*first, *self._hints]
        pieces: list[CapTable] = []
        asked = False
        for _ in range(MAXIMUM_NESTING):
            fresh = []
            for container in waiting:
                key = (container.address, container.slots)
                if key not in known and total + container.slots <= MAXIMUM_SLOTS:
                    known.add(key)
                    total += container.slots
                    fresh.append(container)
            if fresh:
                piece = self._read_slots(fresh, len(containers))
                containers += fresh
                pieces.append(piece)
                waiting = self._containers_of(piece, known)
                asked = False
                continue
            if asked:
                break  # nothing more fits
            waiting = self._owners(containers, self._join(pieces))
            asked = True
            if not waiting:
                break
        table = self._join(pieces)
        return self._backed(containers, table, {container.address for container in first})

    def _read_slots(self, fresh: list[Container], first: int) -> CapTable:
        bits = self.layout.slot_bits
        starts = [(c.address - self.ram.base) >> bits for c in fresh]
        words = [self.ram.slots[start : start + c.slots] for start, c in zip(starts, fresh, strict=True)]
        all_words = np.concatenate(words) if len(words) > 1 else words[0]
        used = np.flatnonzero(all_words[:, 0] | all_words[:, 1] | all_words[:, 2] | all_words[:, 3])
        ends = np.cumsum([c.slots for c in fresh])
        owner = np.searchsorted(ends, used, side="right")
        index = used - (ends - [c.slots for c in fresh])[owner]
        address = np.array([c.address for c in fresh], np.uint64)[owner] + (index.astype(np.uint64) << np.uint64(bits))
        return CapTable(self.layout, address, all_words[used], owner + first, index)

    def _containers_of(self, table: CapTable, known: set[tuple[int, int]]) -> list[Container]:
        """Containers behind the capabilities of a table that are not known yet."""
        found = []
        slot_bits, tcb_bits, tcb_slots = self.layout.slot_bits, self.layout.tcb_bits, self.layout.tcb_slots
        base, bits = table.base, table.bits
        rows = table.of("cnode_cap")
        for address, size in set(zip(base[rows].tolist(), bits[rows].tolist(), strict=True)):
            if (address, 1 << (size - slot_bits)) not in known:
                found.append(Container(ContainerKind.CNODE, address, 1 << (size - slot_bits)))
        for row in table.of("zombie_cap").tolist():
            address, size = int(base[row]), int(bits[row])
            if size == tcb_bits and self._zombie_thread(table, row):
                found.append(Container(ContainerKind.THREAD, address, tcb_slots))
            else:
                found.append(Container(ContainerKind.ZOMBIE, address, 1 << (size - slot_bits)))
        threads = set(base[table.of("thread_cap")].tolist())
        replies = table.of("reply_cap")
        if len(replies):
            for pointer in set(table.field("reply_cap", "capTCBPtr", replies).tolist()):
                threads.add(self.layout.physical(pointer) & -(1 << tcb_bits))
        found += [Container(ContainerKind.THREAD, a, tcb_slots) for a in threads if (a, tcb_slots) not in known]
        return [c for c in found if self._holds_container(c)]

    def _holds_container(self, container: Container) -> bool:
        size = container.slots << self.layout.slot_bits
        # A CNode is aligned to its size, and a thread (whose used slots are fewer) at least to that of a slot.
        alignment = size if size & (size - 1) == 0 else self.layout.slot_bytes
        return self.ram.holds(container.address, size) and not container.address & (alignment - 1)

    def _zombie_thread(self, table: CapTable, row: int) -> bool:
        kind = self.layout.block("zombie_cap")["capZombieType"]
        return bool(kind.get([int(word) for word in table.words[row, :2]]) & 32)

    def _join(self, pieces: list[CapTable]) -> CapTable:
        if len(pieces) == 1:
            return pieces[0]
        if not pieces:
            empty, number = np.zeros(0, np.uint64), np.zeros(0, np.int64)
            return CapTable(self.layout, empty, np.zeros((0, 4), np.uint64), number, number)
        return CapTable(
            self.layout,
            np.concatenate([p.address for p in pieces]),
            np.concatenate([p.words for p in pieces]),
            np.concatenate([p.container for p in pieces]),
            np.concatenate([p.index for p in pieces]),
        )

    def _owners(self, containers: list[Container], table: CapTable) -> list[Container]:
        """CNodes that hold slots to which mapping database links lead, and which no capability found so far reaches."""
        links = np.concatenate([table.next, table.previous])
        links = links[links != 0]
        starts = np.array([c.address for c in containers], np.uint64)
        ends = starts + (np.array([c.slots for c in containers], np.uint64) << np.uint64(self.layout.slot_bits))
        if len(starts):
            order = np.argsort(starts, kind="stable")
            starts, ends = starts[order], ends[order]
            position = np.maximum(np.searchsorted(starts, links, side="right") - 1, 0)
            links = links[(links < starts[position]) | (links >= ends[position])]
        if not len(links) and any(c.kind == ContainerKind.CNODE for c in containers):
            return []
        known = {(c.address, c.slots) for c in containers}
        return self._lone_zombies(links, known) or self._search_memory(links, known)

    def _lone_zombies(self, links: Words, known: set[tuple[int, int]]) -> list[Container]:
        """Zombies in the memory that they stand for, found by links to them: no capability elsewhere names them.

        That is what remains of a CNode in a CNode that was deleted, until the untyped memory below is revoked.
        """
        bits = self.layout.slot_bits
        first = np.uint64(self.ram.base)
        links = np.sort(links[(links >= first) & ((links - first) >> np.uint64(bits) < len(self.ram.slots))])
        links = links[np.append(True, links[1:] != links[:-1])] if len(links) else links
        where = ((links - first) >> np.uint64(bits)).astype(np.int64)
        table = CapTable(self.layout, links, self.ram.slots[where], np.zeros(len(where), np.int64), where)
        rows = table.of("zombie_cap")
        rows = rows[(table.base[rows] <= links[rows]) & (links[rows] <= table.last[rows])]
        alone = CapTable(self.layout, links[rows], table.words[rows], np.zeros(len(rows), np.int64), where[rows])
        return [c for c in self._containers_of(alone, known) if (c.address, c.slots) not in known]

    def _search_memory(self, links: Words, known: set[tuple[int, int]]) -> list[Container]:
        """CNode capabilities anywhere in secure RAM whose CNode holds themselves, as the initial thread's does."""
        layout = self.layout
        tag = layout.union("cap").tag
        where = np.flatnonzero(tag.of_word(self.ram.slots[:, 0]) == np.uint64(layout.cap_types["cnode_cap"]))
        address = np.uint64(self.ram.base) + (where.astype(np.uint64) << np.uint64(layout.slot_bits))
        table = CapTable(layout, address, self.ram.slots[where], np.zeros(len(where), np.int64), where)
        itself = np.flatnonzero((table.base <= address) & (address <= table.last))
        found = []
        for row in itself.tolist():
            base, bits = int(table.base[row]), int(table.bits[row])
            slots = 1 << max(0, bits - layout.slot_bits)
            if (base, slots) in known or not self.ram.holds(base, 1 << bits) or base & ((1 << bits) - 1):
                continue
            if not len(links) or bool(((links >= table.base[row]) & (links <= table.last[row])).any()):
                found.append(Container(ContainerKind.CNODE, base, slots))
        return found[:1]

    def _backed(
        self, containers: list[Container], table: CapTable, roots: set[int]
    ) -> tuple[list[Container], CapTable]:
        """Without containers that came from hints and that no capability names any more."""
        rows = np.concatenate([table.of(name) for name in ("cnode_cap", "zombie_cap", "thread_cap")])
        replies = table.of("reply_cap")
        pointers = table.field("reply_cap", "capTCBPtr", replies) - np.uint64(self.layout.offset)
        threads = pointers & ~np.uint64((1 << self.layout.tcb_bits) - 1)
        named = np.concatenate([table.base[rows], threads]).tolist()
        backed = roots.union(named)
        if all(container.address in backed for container in containers):
            return containers, table
        # Whoever is not named goes, and with it what only it names.
        holders = np.concatenate([table.container[rows], table.container[replies]]).tolist()
        counts: dict[int, int] = dict.fromkeys(roots, 1)
        names: dict[int, list[int]] = {}
        at: dict[int, list[int]] = {}
        for address, holder in zip(named, holders, strict=True):
            counts[address] = counts.get(address, 0) + 1
            names.setdefault(holder, []).append(address)
        for index, container in enumerate(containers):
            at.setdefault(container.address, []).append(index)
        waiting = [index for index, container in enumerate(containers) if not counts.get(container.address)]
        gone: set[int] = set()
        while waiting:
            index = waiting.pop()
            gone.add(index)
            for address in names.get(index, ()):
                counts[address] -= 1
                if not counts[address]:
                    waiting += at.get(address, ())
        kept = [index for index in range(len(containers)) if index not in gone]
        position = np.full(len(containers), -1, np.int64)
        position[kept] = np.arange(len(kept))
        keep = position[table.container] >= 0
        owner = position[table.container[keep]]
        table = CapTable(self.layout, table.address[keep], table.words[keep], owner, table.index[keep])
        return [containers[index] for index in kept], table

    @property
    def containers(self) -> list[Container]:
        """Everything that holds slots: the IRQ node, threads, CNodes, and CNodes that are being deleted."""
        return self._search[0]

    @property
    def caps(self) -> CapTable:
        """All used slots."""
        return self._search[1]

    @cached_property
    def slot_count(self) -> int:
        """Slots of all containers, used or not."""
        return sum(container.slots for container in self.containers)

    # Objects

    @cached_property
    def threads(self) -> Threads:
        """All threads, the idle thread included."""
        addresses = sorted({c.address for c in self.containers if c.kind == ContainerKind.THREAD})
        return Threads(self.layout, self.ram, np.array(addresses, np.uint64))

    @cached_property
    def endpoints(self) -> IpcObjects:
        """All endpoints that a capability names or a thread waits at."""
        return self._ipc_objects("endpoint", self.threads.in_state("BlockedOnSend", "BlockedOnReceive"))

    @cached_property
    def notifications(self) -> IpcObjects:
        """All notifications that a capability names, a thread waits for or is bound to."""
        found = self._ipc_objects("notification", self.threads.in_state("BlockedOnNotification"))
        bound = self.threads.pointer("tcbBoundNotification")
        others = set(bound[bound != 0].tolist()) - set(found.address.tolist())
        return ipc_objects(self.layout, self.ram, "notification", set(found.address.tolist()) | others)

    def _ipc_objects(self, kind: str, waiting: Any) -> IpcObjects:
        caps = self.caps
        named = set(caps.base[caps.of(f"{kind}_cap")].tolist())
        objects = self.threads.state("blockingObject")[waiting]
        named.update((objects - np.uint64(self.layout.offset)).tolist())
        return ipc_objects(self.layout, self.ram, kind, named)

    @cached_property
    def ready_queues(self) -> ReadyQueues:
        """The scheduler's queues and bitmaps."""
        names = ("ksReadyQueues", "ksReadyQueuesL1Bitmap", "ksReadyQueuesL2Bitmap")
        return ready_queues(self.layout, *(self.global_words(name) for name in names))

    @cached_property
    def derivation(self) -> Derivation:
        """The order of the mapping database, and who descends from whom."""
        return Derivation(self.caps)

    def pointer(self, name: str) -> int:
        """Physical address that a global pointer of the kernel (`ksCurThread`) holds; 0 for a null pointer."""
        value = self.global_word(name)
        return self.layout.physical(value) if value else 0

    @cached_property
    def initial_cnode(self) -> tuple[int, int] | None:
        """Rows of the capabilities to the initial thread's CNode, in itself, and to the frame of its boot information.

        None if one of them is gone.
        """
        own, frame = self.layout.constant("seL4_CapInitThreadCNode"), self.layout.constant("seL4_CapBootInfoFrame")
        caps = self.caps
        for row in caps.of("cnode_cap")[caps.index[caps.of("cnode_cap")] == own].tolist():
            if self.containers[int(caps.container[row])].address != int(caps.base[row]):
                continue
            slot = caps.rows_at(caps.base[row : row + 1] + np.uint64(frame << self.layout.slot_bits))
            if slot[0] >= 0 and caps.type_name(int(slot[0])) == "frame_cap":
                return row, int(slot[0])
        return None

    @cached_property
    def boot_info(self) -> BootInfo | None:
        """Boot information, found by the initial thread's CNode; None if it is gone."""
        if self.initial_cnode is None:
            return None
        return read_boot_info(self.layout, self.memory, int(self.caps.base[self.initial_cnode[1]]))

    # Address spaces

    @cached_property
    def asid_pools(self) -> list[tuple[int, int]]:
        """Index in armKSASIDTable and physical address of each ASID pool."""
        table = self.global_words("armKSASIDTable")
        return [(int(i), self.layout.physical(int(table[i]))) for i in np.flatnonzero(table)]

    @cached_property
    def asid_map(self) -> dict[int, int]:
        """Physical address of the level-0 table of each ASID that has one."""
        entries = self.layout.struct("asid_pool")["array"].dimensions[0]
        found: dict[int, int] = {}
        for index, address in self.asid_pools:
            if self.ram.holds(address, 8 * entries) and not address & 7:
                start = (address - self.ram.base) >> 3
                pool = self.ram.words[start : start + entries]
                for low in np.flatnonzero(pool).tolist():
                    found[index * entries + low] = self.layout.physical(int(pool[low]))
        return found

    @cached_property
    def vspaces(self) -> VSpaces:
        """Address spaces that an ASID or TTBR0 leads to."""
        by_root: dict[int, list[int]] = {}
        for asid, root in self.asid_map.items():
            by_root.setdefault(root, []).append(asid)
        live: int | None = None
        if self.report is not None:
            live = int(self.report["ttbr0_el1"]) & TTBR_ADDRESS
            by_root.setdefault(live, [])
        by_root.setdefault(self.global_address("armKSGlobalUserPGD"), [])
        return VSpaces(tuple(by_root), tuple(tuple(asids) for asids in by_root.values()), live)

    @cached_property
    def user_walk(self) -> Walk:
        """All valid entries of all address spaces."""
        return walk(self.ram, self.vspaces.roots)

    @cached_property
    def kernel_root(self) -> int:
        """Physical address of the level-0 table in TTBR1."""
        if self.report is not None:
            return int(self.report["ttbr1_el1"]) & TTBR_ADDRESS
        return self.global_address("armKSGlobalKernelPGD")

    @cached_property
    def kernel_walk(self) -> Walk:
        """All valid entries of the kernel's own window."""
        return walk(self.ram, [self.kernel_root], upper=True)

    def thread_slot(self, name: str) -> Words:
        """Addresses of one slot (`tcbCTable`, `tcbVTable`, `tcbBuffer` ...) of all threads."""
        index = self.layout.constant(name)
        return self.threads.address + np.uint64(index << self.layout.slot_bits)


def open_state(layout: Layout, config: MachineConfig, memory: MemoryImage, report: Any = None) -> KernelState:
    """A kernel state whose slots were found; ImageError if the memory holds no kernel state at all."""
    state = KernelState(layout, config, memory, report=report)
    if not any(container.kind == ContainerKind.CNODE for container in state.containers):
        raise ImageError("the memory holds no CNode: it is not of this kernel build, or the kernel has not booted")
    return state
