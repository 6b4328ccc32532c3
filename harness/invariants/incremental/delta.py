# SPDX-License-Identifier: BSD-2-Clause
"""What a program changed: slots, the capabilities to each object, and which CNodes and threads came and went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.invariants.incremental import snapshot as roles
from harness.invariants.incremental.decoding import NONE, Cap, Unclear
from harness.invariants.incremental.snapshot import SnapshotIndex
from harness.kernel_state.memory import Ram
from harness.kernel_state.state import ContainerKind

Array = np.ndarray[Any, Any]

_MANY = 1 << 12
"""Slots behind new capabilities from which on the whole check is faster."""
_CONTAINER_NAMES = ("cnode_cap", "thread_cap", "zombie_cap", "reply_cap")


@dataclass(slots=True)
class Slot:
    """A slot that changed: its capability before and after (null where there is none), and its links after."""

    before: Cap
    after: Cap
    node: tuple[int, int]
    links: tuple[int, int]


@dataclass(frozen=True)
class NewContainer:
    """A CNode or thread that the snapshot does not have: first slot, number of slots, physical address."""

    first: int
    slots: int
    address: int


class Delta:
    """The slots of one state against those of the snapshot.

    `words` (integers): numbers of the words of secure RAM that differ and matter. Raises Unclear where the state is not
    followed.
    """

    def __init__(self, index: SnapshotIndex, ram: Ram, words: Array) -> None:
        self.index = index
        self.ram = ram
        self.null = index.decoder.null
        self.slots: dict[int, Slot] = {}
        self.members: dict[int, set[int]] = {}
        """Slots that hold capabilities to an object now, for each key that a changed slot has or had."""
        self.gone: set[int] = set()
        """Containers of the snapshot that no capability names any more."""
        self.new: dict[int, NewContainer] = {}
        """New CNodes and threads, by physical address."""
        self.words: dict[int, list[int]] = {}
        """Words that changed, by what they are."""
        self.current = index.layout.physical(int(ram.words[index.current_word]))
        """Physical address of the current thread's tcb_t."""
        self._read = 0
        for role, word in zip(index.roles[words].tolist(), words.tolist(), strict=True):
            self.words.setdefault(role, []).append(word)
        if roles.FIXED in self.words:
            raise Unclear("a word changed that no running kernel changes")
        self._known_slots(sorted({word >> 2 for word in self.words.get(roles.SLOT, ())}))
        while self._containers():
            pass

    # Slots

    def _known_slots(self, slots: list[int]) -> None:
        null = self.index.decoder.null
        caps = self.index.caps
        if slots:
            for slot, words in zip(slots, self.ram.slots[slots].tolist(), strict=True):
                self._set(slot, caps.get(slot, null), words)

    def _set(self, slot: int, before: Cap, words: list[int]) -> None:
        decoder = self.index.decoder
        low, high, first, second = words
        after = before if (before.low, before.high) == (low, high) else decoder.cap(low, high)
        self.slots[slot] = Slot(before, after, (first, second), decoder.links(first, second))
        if before is not decoder.null:
            self._group(before.key).discard(slot)
        if after is not decoder.null:
            if after.name in ("zombie_cap", "null_cap"):
                raise Unclear(f"a {after.name} that is not empty", suspect=False)
            if not after.good:
                raise Unclear(f"a {after.name} with odd fields")
            self._group(after.key).add(slot)

    def _group(self, key: int) -> set[int]:
        group = self.members.get(key)
        if group is None:
            group = self.members[key] = set(self.index.groups.get(key, ()))
        return group

    def _drop(self, slot: int) -> None:
        """A slot of what is gone: it is none any more, whatever lies there."""
        index = self.index
        null = index.decoder.null
        known = self.slots.get(slot)
        before = known.before if known is not None else index.caps.get(slot, null)
        for cap in (before, known.after if known is not None else null):
            if cap is not null:
                self._group(cap.key).discard(slot)
        self.slots[slot] = Slot(before, null, (0, 0), (NONE, NONE))

    # Containers

    def _containers(self) -> bool:
        """Find containers that came and went; whether there were any."""
        index, layout = self.index, self.index.layout
        came, went = [], []
        names = [layout.cap_types[name] for name in _CONTAINER_NAMES]
        for key in list(self.members):
            if key & 31 not in names:
                continue
            address = key >> 5
            if key & 31 == layout.cap_types["reply_cap"]:
                address -= layout.tcb_offset
            known = index.container_at.get(address)
            if known is not None:
                if self.members[key] and self._is_other(known, self.cap(next(iter(self.members[key])))):
                    raise Unclear("another object where one was", suspect=False)
                if known not in self.gone and not self.is_named(address) and not self._is_root(address):
                    went.append(known)
            elif address not in self.new and self.members[key]:
                came.append((address, next(iter(self.members[key]))))
        for known in went:
            self.gone.add(known)
            first = index.firsts[known]
            inside = set(index.used[known])
            inside.update(slot for slot in self.slots if first <= slot < first + index.containers[known].slots)
            for slot in inside:
                self._drop(slot)
        for address, slot in came:
            if (cap := self.cap(slot)) is not index.decoder.null and address not in self.new:
                self._add(address, cap)
        for address in list(self.new):
            if not self.is_named(address):
                raise Unclear("an object that came and went", suspect=False)
        return bool(came or went)

    def _is_other(self, known: int, cap: Cap) -> bool:
        """Whether a capability names another object than the container of the snapshot at the same address."""
        container = self.index.containers[known]
        if container.kind == ContainerKind.THREAD:
            return cap.name == "cnode_cap"
        return cap.slots != container.slots or cap.name != "cnode_cap"

    def _is_root(self, address: int) -> bool:
        index = self.index
        kind = index.containers[index.container_at[address]].kind
        if kind == ContainerKind.IRQ_NODE:
            return True
        return address + index.layout.tcb_offset in (index.idle, self.current)

    def is_named(self, address: int) -> bool:
        """Whether a capability names the CNode or thread at a physical address."""
        key = self.index.decoder.key
        return bool(
            self.holders(key("cnode_cap", address))
            or self.holders(key("thread_cap", address))
            or self.holders(key("reply_cap", address + self.index.layout.tcb_offset))
        )

    def _add(self, address: int, cap: Cap) -> None:
        index, layout = self.index, self.index.layout
        count = layout.tcb_slots if cap.name == "reply_cap" else cap.slots
        first = (address - index.base) >> layout.slot_bits
        size = count << layout.slot_bits
        self._read += count
        if self._read > _MANY:
            raise Unclear("many new slots", suspect=False)
        if not self.ram.holds(address, size) or (index.container_of[first : first + count] != NONE).any():
            raise Unclear("a new object where another one was", suspect=False)
        if any(first < other.first + other.slots and other.first < first + count for other in self.new.values()):
            raise Unclear("two new objects at one place")
        self.new[address] = NewContainer(first, count, address)
        part = self.ram.slots[first : first + count]
        used = np.flatnonzero(part.any(axis=1))
        if len(used):
            for slot, words in zip((used + first).tolist(), part[used].tolist(), strict=True):
                self._set(slot, index.decoder.null, words)

    # Questions

    def holders(self, key: int) -> set[int] | frozenset[int]:
        """Slots that hold capabilities to an object, by its key."""
        group = self.members.get(key)
        return group if group is not None else self.index.groups.get(key, frozenset())

    def cap(self, slot: int) -> Cap:
        """What a slot holds."""
        changed = self.slots.get(slot)
        return changed.after if changed is not None else self.index.caps.get(slot, self.null)

    def node(self, slot: int) -> tuple[int, int] | None:
        """Slots before and behind one in the mapping database; None if it holds no capability."""
        changed = self.slots.get(slot)
        if changed is None:
            return self.index.links.get(slot)
        return None if changed.after is self.null else changed.links

    def links(self, slot: int) -> tuple[int, int]:
        """Slots before and behind one in the mapping database, also of an empty one."""
        changed = self.slots.get(slot)
        return changed.links if changed is not None else self.index.links.get(slot, (NONE, NONE))

    @property
    def has_new_objects(self) -> bool:
        """Whether there are kernel objects that the snapshot does not have: then more words matter than its own."""
        kernel, groups = self.index.kernel_types, self.index.groups
        return any(key & 31 in kernel and group and key not in groups for key, group in self.members.items())

    def is_thread(self, tcb: int) -> bool:
        """Whether a tcb_t lies at a physical address."""
        index = self.index
        address = tcb - index.layout.tcb_offset
        if address in self.new:
            return self.new[address].slots == index.layout.tcb_slots
        return tcb in index.tcbs and index.container_at[address] not in self.gone

    def is_kept(self, slot: int) -> bool:
        """Whether a slot belongs to a container that is there."""
        container = int(self.index.container_of[slot])
        if container != NONE:
            return container not in self.gone
        return any(new.first <= slot < new.first + new.slots for new in self.new.values())

    # Reach

    def judge_reach(self) -> None:
        """if_unsafe_then_cap: a slot that is used belongs to what a CNode or thread capability names."""
        index, key = self.index, self.index.decoder.key
        types = index.layout.cap_types
        of_slots = (types["cnode_cap"], types["thread_cap"])
        known = {
            index.container_at[place >> 5]
            for place in self.members
            if place & 31 in of_slots and place >> 5 in index.container_at
        }
        for slot in self.slots:
            if (place := int(index.container_of[slot])) != NONE:
                known.add(place)
        for number in known - self.gone:
            container = index.containers[number]
            if container.kind == ContainerKind.IRQ_NODE:
                continue
            name = "thread_cap" if container.kind == ContainerKind.THREAD else "cnode_cap"
            if not self.holders(key(name, container.address)):
                self._judge_empty(index.firsts[number], container.slots)
        for address, new in self.new.items():
            if not self.holders(key("cnode_cap", address)) and not self.holders(key("thread_cap", address)):
                self._judge_empty(new.first, new.slots)

    def _judge_empty(self, first: int, slots: int) -> None:
        null = self.index.decoder.null
        if any(self.cap(slot) is not null for slot in range(first, first + slots)):
            raise Unclear("a capability in a slot that no capability reaches")
