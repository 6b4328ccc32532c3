# SPDX-License-Identifier: BSD-2-Clause
"""Links of the mapping database, derivation, and what lies in untyped memory, around the slots that changed.

The snapshot holds all that is judged here, so only what can have become different is looked at. Why that is enough:

- mdb_cte_at: a link that is wrong now begins or ends at a slot that changed, or began or ended at one.
- no_mloop: a loop that is new has a slot in it that changed. Between two such slots the list is that of the snapshot,
  so it is followed in leaps.
- untyped_mdb, untyped_inc: what lies in an untyped U descends from it if, for any two neighbours a, b of the list, the
  innermost untyped that holds b is a, or holds a too, or does not exist. (Then, by induction along the list, all that
  lies between U and b lies in U.) Two neighbours that did not change keep that property if an untyped goes; and if one
  comes, unless something that was there lies in it, which is looked up. Capabilities to one untyped stand next to each
  other, and all but the last are full.
- descendants_inc: capabilities to one object stand next to each other if of n there are n - 1 whose neighbour behind
  is another one.
"""

from __future__ import annotations

from bisect import bisect_right

from harness.invariants.incremental.decoding import NONE, Cap, Unclear
from harness.invariants.incremental.delta import Delta
from harness.invariants.incremental.snapshot import Ranges

_UNTYPED = "untyped_cap"
_MANY = 1 << 10
"""New objects from which on the whole check is faster."""


def judge_links(delta: Delta) -> None:
    """mdb_cte_at, no_mloop, ut_revocable, and that empty slots are not linked."""
    null, node, known = delta.index.decoder.null, delta.node, delta.index.links
    judged = set()
    for slot, changed in delta.slots.items():
        if changed.after is not null:
            judged.add(slot)
            if changed.after.name == _UNTYPED and not delta.index.decoder.revocable(changed.node):
                raise Unclear("an untyped that is not revocable")
        elif changed.links != (NONE, NONE):
            raise Unclear("an empty slot that is linked")
        if slot in known:
            judged.update(known[slot])
    judged.discard(NONE)
    for slot in judged:
        own = node(slot)
        if own is None:
            continue
        before, behind = own
        if behind != NONE and ((other := node(behind)) is None or other[0] != slot):
            raise Unclear("a link that is not answered")
        if before != NONE and ((other := node(before)) is None or other[1] != slot):
            raise Unclear("a link that is not answered")
    _judge_loops(delta)


def _judge_loops(delta: Delta) -> None:
    """Follow the list from each slot that changed to the next one that did."""
    null, slots, position = delta.index.decoder.null, delta.slots, delta.index.position
    chains: dict[int, list[tuple[int, int]]] = {}
    for slot in slots:
        if (place := position.get(slot)) is not None:
            chains.setdefault(place[0], []).append((place[1], slot))
    for places in chains.values():
        places.sort()
    done: set[int] = set()
    for start, changed in slots.items():
        at, path = start, set[int]()
        if changed.after is null:
            continue
        while at != NONE and at not in done:
            if at in path:
                raise Unclear("a loop in the mapping database")
            path.add(at)
            at = slots[at].links[1]
            if at != NONE and at not in slots:
                chain, number = position[at]
                others = chains.get(chain, [])
                index = bisect_right(others, (number, at))
                at = others[index][1] if index < len(others) else NONE
        done |= path


def judge_neighbours(delta: Delta) -> None:
    """descendants_inc, and of untypeds what untyped_inc says: capabilities to one object stand together."""
    links = delta.links
    for group in delta.members.values():
        if len(group) < 2:
            continue
        followed = [slot for slot in group if links(slot)[1] in group]
        if len(followed) != len(group) - 1:
            raise Unclear("capabilities to one object that stand apart")
        for cap in map(delta.cap, followed):
            if cap.name == _UNTYPED and cap.free <= cap.last:
                raise Unclear("an untyped that was copied and is not full")


class Memory:
    """Objects and untypeds that came or went."""

    def __init__(self, delta: Delta) -> None:
        self._delta = delta
        index, null = delta.index, delta.index.decoder.null
        self.objects: list[Cap] = []
        """Objects that are new, by address."""
        untypeds: list[Cap] = []
        for key, group in delta.members.items():
            caps = [delta.cap(slot) for slot in group]
            if not caps or not caps[0].bits:
                continue
            first = caps[0]
            if len(caps) > 1:
                first = min(caps, key=lambda cap: cap.free)
                if any(cap.bits != first.bits for cap in caps):
                    raise Unclear("capabilities that tell different sizes of one object")
            known = next(iter(index.groups.get(key, ())), NONE)
            if known != NONE and index.caps[known].bits == first.bits:
                if first.name == _UNTYPED and first.free < index.free(key):
                    self._judge_reset(first)
            elif first.name == _UNTYPED:
                untypeds.append(first)
            else:
                self.objects.append(first)
        if len(self.objects) + len(untypeds) > _MANY:
            raise Unclear("many new objects", suspect=False)
        self.objects.sort(key=lambda cap: cap.base)
        self._untypeds = Ranges((cap.base, cap.bits) for cap in untypeds)
        self._null = null
        self._parents: dict[int, Cap | None] = {}
        for cap in untypeds:
            self._judge_room(cap)
            self._judge_parent(cap)
        for before, behind in zip(self.objects, self.objects[1:], strict=False):
            if before.last >= behind.base:
                raise Unclear("two new objects share memory")
        for cap in self.objects:
            self._judge_room(cap)
            self._judge_parent(cap)

    def _is_gone(self, cap: Cap) -> bool:
        return not self._delta.holders(cap.key)

    def _judge_room(self, cap: Cap) -> None:
        """No object of the snapshot that is still there shares memory with a new one, no untyped lies in it."""
        index, decoder = self._delta.index, self._delta.index.decoder
        if not all(self._is_gone(other) for other in index.objects_in(cap.base, cap.last)):
            raise Unclear("a new object shares memory with another one")
        for base, bits in index.untypeds.within(cap.base, cap.last):
            if bits < cap.bits and self._delta.holders(decoder.untyped_key(base, bits)):
                raise Unclear("a new object holds an untyped")
        if cap.name != _UNTYPED and any(bits < cap.bits for _, bits in self._untypeds.within(cap.base, cap.last)):
            raise Unclear("a new object holds a new untyped")

    def _judge_reset(self, cap: Cap) -> None:
        """Nothing of the snapshot lies in what an untyped offers again."""
        index, decoder = self._delta.index, self._delta.index.decoder
        if not all(self._is_gone(other) for other in index.objects_in(cap.free, cap.last)):
            raise Unclear("an object in the free part of an untyped")
        for base, bits in index.untypeds.within(cap.free, cap.last):
            if bits < cap.bits and self._delta.holders(decoder.untyped_key(base, bits)):
                raise Unclear("an untyped in the free part of another one")

    def _judge_parent(self, cap: Cap) -> None:
        parent = self.parent(cap)
        if parent is not None and parent.free <= cap.last:
            raise Unclear("a new object in the free part of an untyped")

    def parent(self, cap: Cap) -> Cap | None:
        """The innermost untyped, other than itself, that holds an object."""
        known = self._parents.get(cap.key, self._null)
        if known is self._null:
            known = self._parents[cap.key] = self._find_parent(cap)
        return known

    def _find_parent(self, cap: Cap) -> Cap | None:
        delta, decoder = self._delta, self._delta.index.decoder
        least = cap.bits + 1 if cap.name == _UNTYPED else cap.bits
        ranges = self._untypeds.around(cap.base, cap.last, least)[:1]
        for one in delta.index.untypeds.around(cap.base, cap.last, least):
            if delta.holders(decoder.untyped_key(*one)):
                ranges.append(one)
                break
        if not ranges:
            return None
        innermost = ranges[0] if len(ranges) == 1 else min(ranges, key=lambda one: one[1])
        caps = [delta.cap(slot) for slot in delta.holders(decoder.untyped_key(*innermost))]
        return caps[0] if len(caps) == 1 else min(caps, key=lambda cap: cap.free)

    def judge_order(self) -> None:
        """untyped_mdb, untyped_inc: neighbours in the list, one of which changed."""
        delta = self._delta
        pairs = set()
        for slot, changed in delta.slots.items():
            if changed.after is not self._null:
                pairs.add((changed.links[0], slot))
                if changed.links[1] != NONE:
                    pairs.add((slot, changed.links[1]))
        for before, slot in pairs:
            cap = delta.cap(slot)
            parent = self.parent(cap) if cap.bits else None
            if parent is None:
                continue
            above = delta.cap(before) if before != NONE else self._null
            if not above.bits or above.base < parent.base or above.last > parent.last:
                raise Unclear("an object that does not descend from the untyped that holds it")
