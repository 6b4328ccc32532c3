# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's memory as the rules read it: slots, capabilities, globals; what was read is remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.kernel_state.capabilities import CapTable
from harness.kernel_state.layout import Layout
from harness.kernel_state.lookup import SlotContent, slot_content
from harness.kernel_state.memory import Ram
from harness.specification.answers import NotCoveredError

Lookups = dict[tuple[int, int, int, int], tuple[Any, int, frozenset[int]]]
"""Lookups that were made: by the root's words, pointer and bits, the slot's address with the bits that are left, or how
it failed; and the words that were read for it."""


class Memory:
    """Words of secure RAM. `reads`: numbers of the words that were read, counted from its start.

    `lookups` keeps what lookups find, for a memory that never changes.
    """

    def __init__(self, layout: Layout, ram: Ram, lookups: Lookups | None = None) -> None:
        self.layout = layout
        self.lookups = lookups
        self.ram = ram
        self._base, self._longs = ram.base, ram.longs
        self.reads: set[int] = set()

    def word(self, address: int) -> int:
        """The word at a physical address; NotCoveredError outside of secure RAM."""
        number = (address - self._base) >> 3
        if not 0 <= number < len(self._longs) or address & 7:
            raise NotCoveredError(f"no word of secure RAM at {address:#x}")
        self.reads.add(number)
        return self._longs[number]

    def variable(self, name: str, index: int = 0) -> int:
        """A word of a global variable of the kernel."""
        return self.word(self.layout.physical(self.layout.variable(name).address) + 8 * index)

    def words_of(self, name: str) -> int:
        """How many words a global variable of the kernel has."""
        return self.layout.variable(name).size // 8

    def slot(self, address: int) -> Slot:
        """The slot at a physical address."""
        return Slot(self, address)


@dataclass(frozen=True)
class Slot:
    """A capability slot: physical address in a memory."""

    memory: Memory
    address: int

    @property
    def cap(self) -> SlotContent:
        """The capability in it."""
        memory = self.memory
        return slot_content(memory.layout, memory.word(self.address), memory.word(self.address + 8))

    def _node(self, field: str) -> int:
        words = self.memory.word(self.address + 16), self.memory.word(self.address + 24)
        return self.memory.layout.block("mdb_node")[field].get(words)

    def _neighbour(self, field: str) -> Slot | None:
        pointer = self._node(field)
        return Slot(self.memory, self.memory.layout.physical(pointer)) if pointer else None

    @property
    def next(self) -> Slot | None:
        """The slot behind it in the mapping database."""
        return self._neighbour("mdbNext")

    @property
    def previous(self) -> Slot | None:
        """The slot before it in the mapping database."""
        return self._neighbour("mdbPrev")

    def has_children(self) -> bool:
        """Whether a capability is derived from its; of untypeds, objects as well."""
        after = self.next
        return after is not None and self.is_parent_of(after)

    def is_parent_of(self, other: Slot) -> bool:
        """Whether a capability behind it in the mapping database is derived from its (isMDBParentOf)."""
        if not self._node("mdbRevocable"):
            return False
        first, second = self.cap, other.cap
        if not same_region(first, second):
            return False
        field = {"endpoint_cap": "capEPBadge", "notification_cap": "capNtfnBadge", "smc_cap": "capSMCBadge"}
        badge = first.field(field[first.type]) if first.type in field else 0
        return not badge or (badge == second.field(field[second.type]) and not other._node("mdbFirstBadged"))

    def is_final(self) -> bool:
        """Whether no neighbour in the mapping database stands for the same object."""
        cap = self.cap
        before, after = self.previous, self.next
        if before is not None and same_object(before.cap, cap):
            return False
        return after is None or not same_object(cap, after.cap)


def extent(cap: SlotContent) -> tuple[int, int] | None:
    """First and last physical address of a capability's object; None for capabilities without one."""
    words = np.array([[cap.low, cap.high, 0, 0]], np.uint64)
    number = np.zeros(1, np.int64)
    table = CapTable(cap.layout, np.zeros(1, np.uint64), words, number, number)
    return (int(table.base[0]), int(table.last[0])) if table.physical[0] else None


_REGION_FIELDS = {
    "endpoint_cap": ("capEPPtr",),
    "notification_cap": ("capNtfnPtr",),
    "cnode_cap": ("capCNodePtr", "capCNodeRadix"),
    "thread_cap": ("capTCBPtr",),
    "reply_cap": ("capTCBPtr",),
    "irq_handler_cap": ("capIRQ",),
    "page_table_cap": ("capPTBasePtr",),
    "page_directory_cap": ("capPDBasePtr",),
    "page_upper_directory_cap": ("capPUDBasePtr",),
    "page_global_directory_cap": ("capPGDBasePtr",),
    "asid_pool_cap": ("capASIDPool",),
    "domain_cap": (),
    "irq_control_cap": (),
    "asid_control_cap": (),
    "smc_cap": (),
}
"""What two capabilities of a type must have in common to be of the same region."""


def same_region(first: SlotContent, second: SlotContent) -> bool:
    """sameRegionAs: whether the second capability may be derived from the first."""
    if first.type == "irq_control_cap" and second.type == "irq_handler_cap":
        return True
    if first.type == "untyped_cap" or (first.type == second.type == "frame_cap"):
        outer, inner = extent(first), extent(second)
        return outer is not None and inner is not None and outer[0] <= inner[0] and inner[1] <= outer[1]
    if first.type != second.type or first.type not in _REGION_FIELDS:
        return False
    return all(first.field(name) == second.field(name) for name in _REGION_FIELDS[first.type])


def same_object(first: SlotContent, second: SlotContent) -> bool:
    """sameObjectAs: whether both capabilities stand for one object."""
    if first.type == "untyped_cap" or (first.type, second.type) == ("irq_control_cap", "irq_handler_cap"):
        return False
    if first.type == second.type == "frame_cap":
        names = ["capFBasePtr", "capFSize", "capFIsDevice"]
        names += ["capFIsNonSecure"] if first.layout.world_field("frame_cap") is not None else []
        return all(first.field(name) == second.field(name) for name in names)
    return same_region(first, second)
