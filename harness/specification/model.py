# SPDX-License-Identifier: BSD-2-Clause
"""Slots, tables and new objects as an invocation must leave them, worked out from the state before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.kernel_state.lookup import SlotContent
from harness.kernel_state.state import KernelState
from harness.specification.memory import Memory

_CAP_WORDS = 2
NODE = 8 * _CAP_WORDS
"""Where in a slot its node of the mapping database begins."""


def changed(cap: SlotContent, **fields: int) -> SlotContent:
    """A capability with other values in some of its fields."""
    words = [cap.low, cap.high]
    for name, value in fields.items():
        cap.layout.block(cap.type)[name].put(words, value)
    return SlotContent(cap.layout, *words)


@dataclass(frozen=True)
class Fresh:
    """Memory of a new object: zero, but for some words.

    `start`, `end`: physical addresses; `words`: by physical address, the bits that count, and their value.
    """

    start: int
    end: int
    words: Mapping[int, tuple[int, int]] = field(default_factory=dict)


class Model:
    """What an invocation writes. Addresses are physical.

    `words`: the words that it writes; `maybe`: words that it may clear or leave; `gone`: ranges that are nobody's
    afterwards; `fresh`: new objects; `told`: the first words of its answer; `links_known`: whether nodes of the mapping
    database are as `words` says.
    """

    def __init__(self, state: KernelState, memory: Memory) -> None:
        self.state = state
        self.layout = state.layout
        self.memory = memory
        self.words: dict[int, int] = {}
        self.maybe: set[int] = set()
        self.gone: list[tuple[int, int]] = []
        self.fresh: list[Fresh] = []
        self.told: tuple[int, ...] = ()
        self.links_known = True

    def word(self, address: int) -> int:
        """A word as it is so far; NotCoveredError outside of secure RAM."""
        known = self.words.get(address)
        return self.memory.word(address) if known is None else known

    def cap(self, slot: int) -> SlotContent:
        """The capability in a slot."""
        return SlotContent(self.layout, self.word(slot), self.word(slot + 8))

    def put(self, slot: int, cap: SlotContent) -> None:
        """Replace the capability in a slot, and nothing else."""
        self.words[slot], self.words[slot + 8] = cap.low, cap.high

    def new(self, kind: str, **fields: int) -> SlotContent:
        """A capability of a kind, such as `frame_cap`."""
        low, high = self.layout.block(kind).encode(capType=self.layout.cap_types[kind], **fields)
        return SlotContent(self.layout, low, high)

    # The mapping database

    def node(self, slot: int, name: str) -> int:
        """A field of a slot's node."""
        return self.layout.block("mdb_node")[name].get((self.word(slot + NODE), self.word(slot + NODE + 8)))

    def set_node(self, slot: int, **fields: int) -> None:
        """Write fields of a slot's node."""
        words = [self.word(slot + NODE), self.word(slot + NODE + 8)]
        for name, value in fields.items():
            self.layout.block("mdb_node")[name].put(words, value)
        self.words[slot + NODE], self.words[slot + NODE + 8] = words

    def neighbour(self, slot: int, name: str) -> int:
        """The next (`mdbNext`) or previous slot (`mdbPrev`); 0 for none."""
        pointer = self.node(slot, name)
        return self.layout.physical(pointer) if pointer else 0

    def link(self, first: int, second: int) -> None:
        """Make two slots neighbours; 0 is the end of the list."""
        if first:
            self.set_node(first, mdbNext=self.layout.virtual(second) if second else 0)
        if second:
            self.set_node(second, mdbPrev=self.layout.virtual(first) if first else 0)

    def insert(self, parent: int, slot: int, cap: SlotContent, *, revocable: bool, first_badged: bool) -> None:
        """Put a capability into an empty slot, in the database right behind its parent."""
        after = self.neighbour(parent, "mdbNext")
        self.put(slot, cap)
        self.set_node(slot, mdbRevocable=revocable, mdbFirstBadged=first_badged)
        self.link(slot, after)
        self.link(parent, slot)

    def _flags(self, slot: int) -> dict[str, int]:
        return {name: self.node(slot, name) for name in ("mdbRevocable", "mdbFirstBadged")}

    def _clear(self, slot: int) -> None:
        self.words |= dict.fromkeys(range(slot, slot + self.layout.slot_bytes, 8), 0)

    def move(self, source: int, destination: int, cap: SlotContent) -> None:
        """Move a capability, as `cap`, into an empty slot; its place in the database stays."""
        before, after = (self.neighbour(source, name) for name in ("mdbPrev", "mdbNext"))
        flags = self._flags(source)
        self._clear(source)
        self.put(destination, cap)
        self.set_node(destination, **flags)
        self.link(before, destination)
        self.link(destination, after)

    def exchange(self, first: int, second: int, cap: SlotContent, other: SlotContent) -> None:
        """Exchange two slots, places in the database included: the first gets `other`, the second `cap`."""
        flags, others = self._flags(first), self._flags(second)
        places = {s: [self.neighbour(s, name) for name in ("mdbPrev", "mdbNext")] for s in (first, second)}
        self.put(first, other)
        self.put(second, cap)
        self.set_node(first, **others)
        self.set_node(second, **flags)
        twin = {first: second, second: first}
        for slot, (before, after) in places.items():
            self.link(twin.get(before, before), twin[slot])
            self.link(twin[slot], twin.get(after, after))

    def empty(self, slot: int) -> None:
        """Empty a slot: its neighbours come together, and the next is the first of its badge if this one was."""
        if self.cap(slot).type == "null_cap":
            return
        before, after = (self.neighbour(slot, name) for name in ("mdbPrev", "mdbNext"))
        if after and self.node(slot, "mdbFirstBadged"):
            self.set_node(after, mdbFirstBadged=1)
        self.link(before, after)
        self._clear(slot)
