# SPDX-License-Identifier: BSD-2-Clause
"""Which capabilities must and which may go along with a message, as far as the snapshot tells.

Who sends through an endpoint without the right to grant sends none; an answer may always carry some. The first one
goes into the slot that the receiver offers, or, if it names the endpoint that the message goes through, as a badge.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.kernel_state.state import KernelState
from harness.programs.descriptions import Action
from harness.programs.encodings import Decoded
from harness.programs.interfaces import Interface
from harness.specification.answers import Answer, LookupFailure, NotCoveredError
from harness.specification.cnodes import derive, never_copied
from harness.specification.lookups import WORD_BITS, cnode_slot, resolve
from harness.specification.memory import Memory, Slot
from harness.specification.message_info import CAPS, CAPS_SHIFT, LABEL_SHIFT

_ANSWERS = frozenset({"Reply", "ReplyRecv"})


class Grants:
    """What goes along with the messages of one program.

    `made`: the numbers of the calls that were made; `changed`: of the words of secure RAM that it changed, or None.
    Nothing is known of a program that moves capabilities: it may have moved them back.
    """

    def __init__(
        self,
        snapshot: KernelState,
        interface: Interface,
        threads: Sequence[int],
        calls: Sequence[Decoded],
        made: Sequence[int],
        changed: frozenset[int] | None,
    ) -> None:
        self._snapshot, self._interface, self._threads, self._calls = snapshot, interface, threads, calls
        self._made, self._changed = made, changed
        self.known = changed is not None and not any(map(self._moves, calls))
        """Whether capabilities stay where they are, but for empty slots."""

    def _moves(self, call: Decoded) -> bool:
        type_ = self._interface.calls[call.call]
        return type_.name.startswith("CNode_") or (
            type_.action in (Action.SEND, Action.TRANSFER) and bool(call.info >> LABEL_SHIFT)
        )

    def _slot(self, memory: Memory, victim: int, pointer: int) -> Slot | None:
        root = memory.slot(self._threads[victim] + (memory.layout.constant("tcbCTable") << memory.layout.slot_bits))
        found = resolve(memory, root.cap, pointer, WORD_BITS)
        return None if isinstance(found, LookupFailure) else found[0]

    def _endpoint(self, memory: Memory, call: Decoded) -> int | None:
        """Kernel pointer to the endpoint that a message goes through, 0 for none; None if it may bring nothing."""
        if self._interface.calls[call.call].name in _ANSWERS:
            return 0
        slot = self._slot(memory, call.victim, call.target)
        if slot is None or slot.cap.type not in ("endpoint_cap", "reply_cap"):
            raise NotCoveredError("no message")
        if slot.cap.type == "reply_cap":
            return 0
        return slot.cap.field("capEPPtr") if slot.cap.field("capCanGrant") else None

    def _unchanged(self, memory: Memory) -> bool:
        return self._changed is not None and memory.reads.isdisjoint(self._changed)

    def may_bring(self, call: Decoded) -> bool:
        """Whether capabilities may go along with the message of a call; true if that is not known."""
        memory = Memory(self._snapshot.layout, self._snapshot.ram)
        try:
            return not self.known or self._endpoint(memory, call) is not None or not self._unchanged(memory)
        except NotCoveredError:
            return True

    def must_bring(self, call: Decoded, receiving: int) -> bool:
        """Whether the first capability of a call's message must reach a receiver: the call of that number."""
        number = call.info >> CAPS_SHIFT & CAPS
        if not self.known or not number or number > len(call.caps):
            return False
        memory = Memory(self._snapshot.layout, self._snapshot.ram)
        try:
            endpoint = self._endpoint(memory, call)
            slots = [self._slot(memory, call.victim, pointer) for pointer in call.caps[:number]]
            first = slots[0]
            if endpoint is None or first is None or not all(slots):
                return False
            if first.cap.type != "endpoint_cap" or first.cap.field("capEPPtr") != endpoint:
                if never_copied(first.cap) or first.cap.type == "null_cap" or derive(first) is not None:
                    return False
                if not self._has_room(memory, receiving):
                    return False
            return self._unchanged(memory)
        except NotCoveredError:
            return False

    def _has_room(self, memory: Memory, receiving: int) -> bool:
        """Whether the receiver offers an empty slot: what it said when it last received."""
        victim = self._calls[receiving].victim
        offers = [
            call
            for call in (self._calls[number] for number in self._made if number <= receiving)
            if call.victim == victim and self._interface.calls[call.call].action is Action.RECEIVE
        ]
        if not offers:
            return False
        root, index, depth = offers[-1].words[:3]
        slot = self._slot(memory, victim, root)
        found = cnode_slot(memory, slot.cap, index, depth) if slot is not None else None
        return found is not None and not isinstance(found, Answer) and found.cap.type == "null_cap"
