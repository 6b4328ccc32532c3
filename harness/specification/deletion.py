# SPDX-License-Identifier: BSD-2-Clause
"""What deleting and revoking capabilities leaves: which slots are empty, which objects go, what is mapped no more.

An object goes when all capabilities to it do, and then those in it go, too. That is worked out for all at once, and
not in the kernel's order.
"""

from __future__ import annotations

from collections import defaultdict

from harness.protocol import PAGE
from harness.specification.answers import NotCoveredError
from harness.specification.lookups import ASID_LOW_BITS
from harness.specification.memory import Slot
from harness.specification.model import Model
from harness.specification.tables import KINDS, entry_of_frame, entry_of_table

_CONTAINERS = ("cnode_cap", "thread_cap")
_VSPACE, _POOL, _HANDLER = "page_global_directory_cap", "asid_pool_cap", "irq_handler_cap"
_COUNTED = (*_CONTAINERS, *KINDS, _VSPACE, _POOL, _HANDLER)
"""Capabilities with whose last one something goes that slots and tables show."""


class _Going:
    """The slots that will be empty, and the objects that go with them."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.slots: dict[int, None] = {}
        self.containers = 0
        """CNodes and threads that go."""
        self._left: dict[tuple[str, int], int] = defaultdict(int)
        caps = model.state.caps
        if len(caps.of("zombie_cap")):
            raise NotCoveredError("a deletion that another one has left behind")
        for kind in _COUNTED:
            rows = caps.of(kind)
            objects = caps.field(kind, "capIRQ", rows) if kind == _HANDLER else caps.base[rows]
            for address in objects.tolist():
                self._left[kind, address] += 1

    def add(self, slots: list[int]) -> None:
        """Empty slots, and all that goes with them."""
        waiting = list(slots)
        while waiting:
            slot = waiting.pop()
            cap = self.model.cap(slot)
            if slot in self.slots or cap.type == "null_cap":
                continue
            self.slots[slot] = None
            if cap.type not in _COUNTED:
                continue
            name = cap.field("capIRQ") if cap.type == _HANDLER else self._base(slot)
            self._left[cap.type, name] -= 1
            if not self._left[cap.type, name]:
                waiting += self._inside(slot)

    def _base(self, slot: int) -> int:
        cap = self.model.cap(slot)
        return cap.base & -(1 << self.model.layout.tcb_bits) if cap.type == "thread_cap" else cap.base

    def last(self, slot: int) -> bool:
        """Whether no capability to the object in a slot is left."""
        return not self._left[self.model.cap(slot).type, self._base(slot)]

    def _inside(self, slot: int) -> list[int]:
        """The slots that go with the last capability to an object."""
        model, cap, base = self.model, self.model.cap(slot), self._base(slot)
        layout = model.layout
        if cap.type in _CONTAINERS:
            self.containers += 1
        if cap.type == "cnode_cap":
            count = 1 << cap.field("capCNodeRadix")
        elif cap.type == "thread_cap":
            count = layout.tcb_slots
            reply = base + (layout.constant("tcbReply") << layout.slot_bits)
            answer = model.neighbour(reply, "mdbNext") if model.cap(reply).type == "reply_cap" else 0
            extra = [answer] if answer and model.cap(answer).type == "reply_cap" else []
            model.gone.append((base, base + (1 << layout.tcb_bits)))
            return extra + [base + (i << layout.slot_bits) for i in range(count)]
        elif cap.type == _HANDLER:
            node = layout.physical(model.memory.variable("intStateIRQNode"))
            return [node + (cap.field("capIRQ") << layout.slot_bits)]
        else:
            return []
        model.gone.append((base, base + (count << layout.slot_bits)))
        return [base + (i << layout.slot_bits) for i in range(count)]


def _unmapped(model: Model, going: _Going) -> None:
    """What is mapped by the capabilities that go."""
    caps = {slot: model.cap(slot) for slot in going.slots}
    places: list[int] = []
    spaces = False
    for slot, cap in caps.items():
        place = None
        if cap.type == "frame_cap":
            place = entry_of_frame(model, cap)
        elif cap.type in KINDS and going.last(slot):
            place = entry_of_table(model, cap)
            spaces = spaces or place is not None
        elif cap.type in (_VSPACE, _POOL) and going.last(slot):
            spaces = True
        if place is not None:
            places.append(place)
    if len(places) > 1 and spaces:
        # Whatever is unmapped first takes what lies below it out of reach.
        model.maybe.update(places)
    else:
        model.words |= dict.fromkeys(places, 0)
    table = model.layout.physical(model.layout.variable("armKSASIDTable").address)
    pools = [cap for slot, cap in caps.items() if cap.type == _POOL and going.last(slot)]
    for cap in pools:
        place = table + 8 * (cap.field("capASIDBase") >> ASID_LOW_BITS)
        if model.word(place) == cap.field("capASIDPool"):
            model.words[place] = 0
        model.gone.append((cap.base, cap.base + PAGE))
    for slot, cap in caps.items():
        if cap.type != _VSPACE or not going.last(slot) or not cap.field("capPGDIsMapped"):
            continue
        asid = cap.field("capPGDMappedASID")
        pool = model.memory.variable("armKSASIDTable", asid >> ASID_LOW_BITS)
        place = model.layout.physical(pool) + 8 * (asid & ((1 << ASID_LOW_BITS) - 1)) if pool else 0
        if place and model.memory.word(place) == cap.field("capPGDBasePtr"):
            if pools:
                model.maybe.add(place)
            else:
                model.words[place] = 0


def _leave(model: Model, going: _Going) -> None:
    _unmapped(model, going)
    for slot in going.slots:
        model.empty(slot)
    # Of a CNode or thread in another one that goes, something stays in the mapping database.
    model.links_known = going.containers < 2


def delete(model: Model, slot: int) -> None:
    """Empty a slot. NotCoveredError where a deletion was left unfinished before."""
    going = _Going(model)
    going.add([slot])
    _leave(model, going)


def revoke(model: Model, slot: Slot) -> None:
    """Empty all slots that descend from one. NotCoveredError where a deletion was left unfinished before."""
    going = _Going(model)
    after = slot.next
    while after is not None and (after.address in going.slots or slot.is_parent_of(after)):
        going.add([after.address])
        after = after.next
    _leave(model, going)
