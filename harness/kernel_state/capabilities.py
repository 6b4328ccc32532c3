# SPDX-License-Identifier: BSD-2-Clause
"""Capability slots (cte_t), decoded column by column."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from harness.kernel_state.bitfields import Field
from harness.kernel_state.layout import HUGE_PAGE_BITS, LARGE_PAGE_BITS, PAGE_BITS, Layout
from harness.kernel_state.memory import Words

Indices = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Array = np.ndarray[Any, Any]

ONE = np.uint64(1)
ZOMBIE_TCB = 1 << 5
"""ZombieType_ZombieTCB: the capZombieType of a thread's zombie; a CNode's is its radix."""

# Which field of each capability points to its object.
POINTER_FIELDS = {
    "untyped_cap": "capPtr",
    "endpoint_cap": "capEPPtr",
    "notification_cap": "capNtfnPtr",
    "cnode_cap": "capCNodePtr",
    "thread_cap": "capTCBPtr",
    "frame_cap": "capFBasePtr",
    "page_table_cap": "capPTBasePtr",
    "page_directory_cap": "capPDBasePtr",
    "page_upper_directory_cap": "capPUDBasePtr",
    "page_global_directory_cap": "capPGDBasePtr",
    "asid_pool_cap": "capASIDPool",
}
KERNEL_OBJECTS = (*(name for name in POINTER_FIELDS if name not in ("untyped_cap", "frame_cap")), "zombie_cap")
"""Capabilities whose object is the kernel's own data."""
FRAME_BITS = (PAGE_BITS, LARGE_PAGE_BITS, HUGE_PAGE_BITS, 63)
"""Binary logarithm of a frame's bytes, by capFSize; the last value of the field means nothing."""


def _set(values: Array) -> Mask:
    mask: Mask = values != 0
    return mask


@dataclass(frozen=True)
class _Shapes:
    """Tables by capType: binary logarithm of the object's bytes, and which of `fields` points to it."""

    bits: Array
    group: Array
    fields: tuple[Field, ...]
    offset: np.uint64
    thread_mask: np.uint64
    frame_bits: Array


_SHAPES: WeakKeyDictionary[Layout, _Shapes] = WeakKeyDictionary()


def _shapes(layout: Layout) -> _Shapes:
    known = _SHAPES.get(layout)
    if known is None:
        bits = np.zeros(256, np.uint8)
        group = np.full(256, -1, np.int8)
        fields: list[Field] = []
        for name, pointer in POINTER_FIELDS.items():
            if name in layout.cap_types:
                value = layout.cap_types[name]
                field = replace(layout.block(name)[pointer], name="")
                if field not in fields:
                    fields.append(field)
                group[value] = fields.index(field)
                bits[value] = layout.object_bits.get(name, 0)
        offset, mask = np.uint64(layout.offset), ~np.uint64((1 << layout.tcb_bits) - 1)
        known = _SHAPES[layout] = _Shapes(bits, group, tuple(fields), offset, mask, np.array(FRAME_BITS, np.uint8))
    return known


@dataclass(frozen=True)
class CapTable:
    """Used slots: one row a slot that holds a capability or anything else that is not zero.

    `address`: u64[n], physical address of the slot; `words`: u64[n, 4], its content;
    `container`: i64[n], index of what holds it; `index`: i64[n], its number in there.
    """

    layout: Layout
    address: Words
    words: Words
    container: Indices
    index: Indices

    def __len__(self) -> int:
        return len(self.address)

    @cached_property
    def type(self) -> Array:
        """The capType of each slot."""
        return self.layout.union("cap").tag.of_word(self.words[:, 0]).astype(np.uint8)

    @cached_property
    def _by_type(self) -> tuple[Indices, Array]:
        order = np.argsort(self.type, kind="stable")
        return order, np.searchsorted(self.type[order], np.arange(257))

    def of(self, name: str) -> Indices:
        """Rows that hold a capability of a type, such as `frame_cap`; none if the kernel lacks the type."""
        value = self.layout.cap_types.get(name)
        if value is None:
            return np.zeros(0, np.int64)
        order, bounds = self._by_type
        return order[bounds[value] : bounds[value + 1]]

    def field(self, block: str, field: str, rows: Indices | None = None) -> Words:
        """A field (u64) of rows that hold a `block`; of all rows of that type by default."""
        where = self.layout.block(block)[field]
        return where.of_word(self.words[self.of(block) if rows is None else rows, where.word])

    @cached_property
    def _objects(self) -> tuple[Words, Array]:
        shapes = _shapes(self.layout)
        type_ = self.type
        bits = shapes.bits[type_]
        base = np.zeros(len(self), np.uint64)
        group_of = shapes.group[type_]
        for group, field in enumerate(shapes.fields):
            rows = (group_of == group).nonzero()[0]
            if len(rows):
                base[rows] = field.of_word(self.words[rows, field.word]) - shapes.offset
        rows = self.of("thread_cap")
        if len(rows):
            # The capability points to the tcb_t, behind the thread's own slots.
            base[rows] &= shapes.thread_mask
        rows = self.of("untyped_cap")
        if len(rows):
            bits[rows] = self.field("untyped_cap", "capBlockSize", rows)
        rows = self.of("frame_cap")
        if len(rows):
            bits[rows] = shapes.frame_bits[self.field("frame_cap", "capFSize", rows)]
        rows = self.of("cnode_cap")
        if len(rows):
            radix = self.field("cnode_cap", "capCNodeRadix", rows) + np.uint64(self.layout.slot_bits)
            bits[rows] = np.minimum(radix, np.uint64(63))
        rows = self.of("zombie_cap")
        if len(rows):
            kind = self.field("zombie_cap", "capZombieType", rows)
            is_tcb = kind == np.uint64(ZOMBIE_TCB)
            radix = self._zombie_radix(rows)
            identity = self.field("zombie_cap", "capZombieID", rows)
            base[rows] = (identity & ~((ONE << (radix + ONE)) - ONE)) - shapes.offset
            slots = radix + np.uint64(self.layout.slot_bits)
            bits[rows] = np.where(is_tcb, np.uint64(self.layout.tcb_bits), slots)
        return base, bits

    def _zombie_radix(self, rows: Indices) -> Words:
        kind = self.field("zombie_cap", "capZombieType", rows)
        is_tcb = kind == np.uint64(ZOMBIE_TCB)
        radix: Words = np.where(is_tcb, np.uint64(self.layout.tcb_slots_radix), kind & np.uint64(ZOMBIE_TCB - 1))
        return radix

    def zombie_number(self, rows: Indices) -> Words:
        """How many slots of its object each zombie has left to delete (capZombieNumber)."""
        mask = (ONE << (self._zombie_radix(rows) + ONE)) - ONE
        return self.field("zombie_cap", "capZombieID", rows) & mask

    @property
    def base(self) -> Words:
        """Physical address of each capability's object; 0 for capabilities without one."""
        return self._objects[0]

    @property
    def bits(self) -> Array:
        """Binary logarithm (u8) of the object's bytes; 0 for capabilities without an object."""
        return self._objects[1]

    @cached_property
    def last(self) -> Words:
        """Physical address of the last byte of each capability's object."""
        return self.base + ((ONE << self.bits.astype(np.uint64)) - ONE)

    @cached_property
    def physical(self) -> Mask:
        """Whether a capability stands for an object in memory."""
        return _set(self.bits)

    @cached_property
    def next(self) -> Words:
        """Physical address of the next slot of the mapping database; 0 for none."""
        return self._link("mdbNext")

    @cached_property
    def previous(self) -> Words:
        """Physical address of the previous slot of the mapping database; 0 for none."""
        return self._link("mdbPrev")

    def _link(self, name: str) -> Words:
        field = self.layout.block("mdb_node")[name]
        pointer = field.of_word(self.words[:, 2 + field.word])
        return np.where(pointer == 0, pointer, pointer - np.uint64(self.layout.offset))

    @cached_property
    def revocable(self) -> Mask:
        """The mdbRevocable bit."""
        field = self.layout.block("mdb_node")["mdbRevocable"]
        return _set(field.of_word(self.words[:, 2 + field.word]))

    @cached_property
    def first_badged(self) -> Mask:
        """The mdbFirstBadged bit."""
        field = self.layout.block("mdb_node")["mdbFirstBadged"]
        return _set(field.of_word(self.words[:, 2 + field.word]))

    @cached_property
    def badge(self) -> Words:
        """Badges of endpoint, notification and SMC capabilities; 0 for others."""
        badge = np.zeros(len(self), np.uint64)
        for name in ("endpoint_cap", "notification_cap", "smc_cap"):
            field = next((f for f in self._fields(name) if f.endswith("Badge")), None)
            rows = self.of(name)
            if field is not None and len(rows):
                badge[rows] = self.field(name, field, rows)
        return badge

    def _fields(self, block: str) -> list[str]:
        return list(self.layout.block(block).fields) if block in self.layout.cap_types else []

    @cached_property
    def non_secure(self) -> Mask:
        """Whether an untyped or frame capability says that its memory is non-secure."""
        return self._flag("untyped_cap", "frame_cap")

    @cached_property
    def device(self) -> Mask:
        """Whether an untyped or frame capability says that its memory is a device's."""
        result = np.zeros(len(self), np.bool_)
        for name, field in (("untyped_cap", "capIsDevice"), ("frame_cap", "capFIsDevice")):
            rows = self.of(name)
            result[rows] = self.field(name, field, rows) != 0
        return result

    def _flag(self, *names: str) -> Mask:
        result = np.zeros(len(self), np.bool_)
        for name in names:
            field = self.layout.world_field(name)
            rows = self.of(name)
            if field is not None and len(rows):
                result[rows] = field.of_word(self.words[rows, field.word]) != 0
        return result

    @cached_property
    def _order(self) -> Indices:
        return np.argsort(self.address, kind="stable")

    def rows_at(self, addresses: Words) -> Indices:
        """Row of the slot at each physical address; -1 where no used slot lies."""
        if not len(self):
            return np.full(len(addresses), -1, np.int64)
        order = self._order
        position = np.minimum(np.searchsorted(self.address[order], addresses), len(self) - 1)
        rows = order[position]
        return np.where(self.address[rows] == addresses, rows, -1)

    def type_name(self, row: int) -> str:
        """Name of the type of a row's capability, such as `frame_cap`."""
        return self.layout.union("cap").blocks.get(int(self.type[row]), f"capType {int(self.type[row])}")

    def describe(self, row: int) -> dict[str, Any]:
        """A row for people and findings: type, address of the slot, all fields of the capability."""
        name = self.type_name(row)
        words = [int(word) for word in self.words[row, :2]]
        fields = self.layout.block(name).decode(words) if name in self.layout.bitfields.blocks else {}
        shown = {field: hex(value) if value > 9 else value for field, value in fields.items() if field != "capType"}
        return {"slot": hex(int(self.address[row])), "cap": name, **shown}
