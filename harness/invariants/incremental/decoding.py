# SPDX-License-Identifier: BSD-2-Clause
"""Single capabilities and links, decoded and judged by their own words, once, and remembered."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.invariants.capabilities import TABLES, table_field
from harness.invariants.untyped import MAXIMUM_BITS, MINIMUM_BITS
from harness.kernel_state.bitfields import Field
from harness.kernel_state.capabilities import FRAME_BITS, KERNEL_OBJECTS, POINTER_FIELDS
from harness.kernel_state.layout import Layout
from harness.kernel_state.state import ContainerKind, KernelState

NONE = -1
"""No slot."""
_BAD = -2
"""A link to what cannot be a slot."""
_WORD_BITS = 64
_USER_BITS = 48
_REMEMBERED = 1 << 17
"""Capabilities that are remembered."""


class Unclear(Exception):
    """A state that is not recognised as right: the whole check has to look.

    `suspect`: a rule seems to be broken; otherwise the state is one that is not followed here.
    """

    def __init__(self, reason: str, *, suspect: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.suspect = suspect


@dataclass(slots=True, frozen=True)
class Cap:
    """A capability by its two words.

    `base`, `last`: physical addresses of its object's first and last byte, `bits` the logarithm of its size (0: it has
    none); `key`: one number for all capabilities to the same object; `good`: its fields break no rule by themselves.
    """

    low: int
    high: int
    name: str
    key: int
    base: int = 0
    last: int = 0
    bits: int = 0
    good: bool = True
    slots: int = 0
    """Slots of a CNode or thread object."""
    free: int = 0
    """Where the free part of an untyped begins."""
    mapped: bool = False
    asid: int = 0
    address: int = 0
    """Where a frame or table is mapped."""
    master: bool = False
    """A master reply capability."""


Reader = Callable[[Sequence[int]], int]
"""A value in the words of one structure."""


def reader(field: Field) -> Reader:
    """What `field.get` gives, faster."""
    if field.sign_bit is not None:
        return field.get
    word, shift, mask, left = field.word, field.shift, field.mask, field.left
    return lambda words: (words[word] >> shift & mask) << left


def pointer(layout: Layout, field: Field) -> Reader:
    """The physical address behind a field that points to something; 0 for a null pointer."""
    word, shift, mask, left = field.word, field.shift, field.mask, field.left
    sign, ones, offset, every = field.sign_bit, 0, layout.offset, (1 << _WORD_BITS) - 1
    if sign is not None:
        ones = every & -(1 << sign)

    def physical(words: Sequence[int]) -> int:
        value = (words[word] >> shift & mask) << left
        if not value:
            return 0
        if sign is not None and value >> sign & 1:
            value |= ones
        return (value - offset) & every

    return physical


class Decoder:
    """Decodes words of one kernel; `state` is the snapshot's, whose window and places of its own never change."""

    def __init__(self, state: KernelState) -> None:
        layout = state.layout
        self._state = state
        self._layout = layout
        self._ram = state.ram
        self._tag = layout.union("cap").tag
        self._names = layout.union("cap").blocks
        self._types = layout.cap_types
        self._caps: dict[tuple[int, int], Cap] = {}
        self._window = _window(state)
        self._starts = [start for start, _ in self._window]
        idle = state.pointer("ksIdleThread") & -(1 << layout.tcb_bits)
        self._idle = state.pointer("ksIdleThread")
        first, end = layout.image
        self._reserved = [(first, end - 1), (idle, idle + (1 << layout.tcb_bits) - 1)]
        for container in state.containers:
            if container.kind == ContainerKind.IRQ_NODE:
                self._reserved.append(
                    (container.address, container.address + (container.slots << layout.slot_bits) - 1)
                )
        self.lines = len(state.global_words("intStateIRQTable"))
        self._pool_entries = layout.struct("asid_pool")["array"].dimensions[0]
        node = layout.block("mdb_node")
        self._next, self._previous = pointer(layout, node["mdbNext"]), pointer(layout, node["mdbPrev"])
        self._revocable, self._first_badged = reader(node["mdbRevocable"]), reader(node["mdbFirstBadged"])
        self._base, self._end, self._slot_bits = self._ram.base, self._ram.end, layout.slot_bits
        self.null = self.cap(0, 0)

    def key(self, name: str, place: int) -> int:
        """The key of capabilities of a type to the object at a place (for untypeds see `untyped_key`)."""
        return place << 5 | self._types[name]

    def untyped_key(self, base: int, bits: int) -> int:
        """The key of untypeds that cover the same memory."""
        return self.key("untyped_cap", base << 6 | bits)

    # Links

    def links(self, low: int, high: int) -> tuple[int, int]:
        """Slots before and behind one, from the words of its mdb_node; NONE where there is none."""
        node = (low, high)
        before, behind = self._previous(node), self._next(node)
        return self._slot(before) if before else NONE, self._slot(behind) if behind else NONE

    def _slot(self, address: int) -> int:
        bits = self._slot_bits
        if not self._base <= address < self._end or (address - self._base) & ((1 << bits) - 1):
            return _BAD
        return (address - self._base) >> bits

    def revocable(self, node: tuple[int, int]) -> bool:
        """The mdbRevocable bit of a mdb_node."""
        return bool(self._revocable(node))

    def first_badged(self, node: tuple[int, int]) -> bool:
        """The mdbFirstBadged bit of a mdb_node."""
        return bool(self._first_badged(node))

    # Capabilities

    def cap(self, low: int, high: int) -> Cap:
        """The capability of two words."""
        known = self._caps.get((low, high))
        if known is None:
            known = self._decode(low, high)
            if len(self._caps) > _REMEMBERED:
                self._caps.clear()
            self._caps[(low, high)] = known
        return known

    def _decode(self, low: int, high: int) -> Cap:
        words = (low, high)
        type_ = self._tag.get(words)
        name = self._names.get(type_)
        if name is None:
            return Cap(low, high, f"capType {type_}", type_, good=False)
        if name in POINTER_FIELDS:
            return self._object(words, name)
        fields = self._layout.block(name).fields
        place, good, master = 0, name != "zombie_cap", False
        if name == "reply_cap":
            place = self._physical(fields["capTCBPtr"], words)
            thread = place - self._layout.tcb_offset
            good = self._is_thread(thread) and place != self._idle
            master = bool(fields["capReplyMaster"].get(words))
        elif name == "irq_handler_cap":
            place = fields["capIRQ"].get(words)
            good = place < self.lines
        return Cap(low, high, name, self.key(name, place), good=good, master=master)

    def _physical(self, field: Field, words: tuple[int, int]) -> int:
        return self._layout.physical(field.get(words))

    def _is_thread(self, address: int) -> bool:
        size = 1 << self._layout.tcb_bits
        return not address & (size - 1) and self._ram.holds(address, size)

    def _object(self, words: tuple[int, int], name: str) -> Cap:
        """A capability that points to its object."""
        low, high = words
        layout = self._layout
        fields = layout.block(name).fields
        pointer = base = self._physical(fields[POINTER_FIELDS[name]], words)
        bits = layout.object_bits.get(name, 0)
        good, mapped, asid, address, slots, free = True, False, 0, 0, 0, 0
        device = False
        if name == "untyped_cap":
            bits = fields["capBlockSize"].get(words)
            free = base + (fields["capFreeIndex"].get(words) << MINIMUM_BITS)
            good = MINIMUM_BITS <= bits <= MAXIMUM_BITS and free <= base + (1 << bits)
            device = True  # an untyped need not be in the window
        elif name == "frame_cap":
            size = fields["capFSize"].get(words)
            bits, device = FRAME_BITS[size], bool(fields["capFIsDevice"].get(words))
            asid, address = fields["capFMappedASID"].get(words), fields["capFMappedAddress"].get(words)
            mapped = asid != 0
            good = size < len(FRAME_BITS) - 1
            good = good and not (mapped and (address & ((1 << bits) - 1) or address >> _USER_BITS))
        elif name == "cnode_cap":
            radix, guard_size = fields["capCNodeRadix"].get(words), fields["capCNodeGuardSize"].get(words)
            bits, slots = radix + layout.slot_bits, 1 << radix
            good = (
                radix > 0 and radix + guard_size <= _WORD_BITS and not fields["capCNodeGuard"].get(words) >> guard_size
            )
        elif name == "thread_cap":
            base &= -(1 << bits)
            slots = layout.tcb_slots
            good = pointer == base + layout.tcb_offset
        elif name in TABLES:
            mapped = bool(fields[table_field(name, "IsMapped")].get(words))
            asid = fields[table_field(name, "MappedASID")].get(words)
            field = fields.get(table_field(name, "MappedAddress"))
            address = field.get(words) if field is not None else 0
            good = not (mapped and (not asid or address >> _USER_BITS))
        elif name == "asid_pool_cap":
            address = fields["capASIDBase"].get(words)
            good = not address % self._pool_entries
        last = base + (1 << bits) - 1
        good = (
            good and not base & (last - base) and not any(base <= high and last >= low for low, high in self._reserved)
        )
        if name in KERNEL_OBJECTS:
            good = good and self._ram.holds(base, last - base + 1)
        good = good and (device or self._in_window(base, last))
        key = self.untyped_key(base, bits) if name == "untyped_cap" else self.key(name, base)
        return Cap(low, high, name, key, base, last, bits, good, slots, free, mapped, asid, address)

    def _in_window(self, base: int, last: int) -> bool:
        index = bisect_right(self._starts, base) - 1
        return index >= 0 and last < self._window[index][1]


def _window(state: KernelState) -> list[tuple[int, int]]:
    """Physical memory that the kernel's window maps at its address: first address, address behind the last."""
    walk = state.kernel_walk
    merged: list[tuple[int, int]] = []
    pages = zip(walk.leaf.tolist(), walk.virtual.tolist(), walk.base.tolist(), walk.bits.tolist(), strict=True)
    for start, size in sorted(
        (base, 1 << bits) for leaf, virtual, base, bits in pages if leaf and state.layout.virtual(base) == virtual
    ):
        if merged and merged[-1][1] >= start:
            merged[-1] = (merged[-1][0], max(merged[-1][1], start + size))
        else:
            merged.append((start, start + size))
    return merged
