# SPDX-License-Identifier: BSD-2-Clause
"""Rules of the invocations of CNodes; and what copying a capability requires, which other invocations share."""

from __future__ import annotations

from collections.abc import Callable

from harness.kernel_state.lookup import SlotContent
from harness.specification.answers import DELETE_FIRST, ILLEGAL_OPERATION, REVOKE_FIRST, Answer, missing
from harness.specification.invocations import Invocation, Rule, Rules, lookup, message, refuse
from harness.specification.memory import Slot

_MAPPED_FIELDS = {
    "page_table_cap": "capPTIsMapped",
    "page_directory_cap": "capPDIsMapped",
    "page_upper_directory_cap": "capPUDIsMapped",
    "page_global_directory_cap": "capPGDIsMapped",
}
_NEVER_COPIED = ("zombie_cap", "irq_control_cap", "reply_cap")
_BADGES = {"endpoint_cap": "capEPBadge", "notification_cap": "capNtfnBadge", "smc_cap": "capSMCBadge"}
GUARD_SIZE_SHIFT, GUARD_SIZE_MASK = 2, 0x3F
GUARD_SHIFT, GUARD_MASK = 8, (1 << 18) - 1
"""Where the data that a capability of a CNode is given has size and bits of its guard (cnode_capdata)."""
_WORD_BITS = 64
_TARGET = "index and depth name a slot"


def derive(slot: Slot) -> Answer | None:
    """Why the capability in a slot has no copy (deriveCap); None if it has one, or if the copy is empty."""
    cap = slot.cap
    if cap.type in _MAPPED_FIELDS and not cap.field(_MAPPED_FIELDS[cap.type]):
        return ILLEGAL_OPERATION
    if cap.type == "untyped_cap" and slot.has_children():
        return REVOKE_FIRST
    return None


def never_copied(cap: SlotContent) -> bool:
    """Whether the copy of a capability is an empty one."""
    return cap.type in _NEVER_COPIED


def refuses_data(cap: SlotContent, data: int, *, preserve: bool) -> bool:
    """Whether a capability cannot take a badge or guard (updateCapData); `preserve`: it keeps the badge it has."""
    if cap.type in _BADGES:
        return preserve or cap.field(_BADGES[cap.type]) != 0
    if cap.type == "cnode_cap":
        size = data >> GUARD_SIZE_SHIFT & GUARD_SIZE_MASK
        return size + cap.field("capCNodeRadix") > _WORD_BITS
    return False


def empty(text: str, slot: Callable[[Invocation], Slot]) -> Rule:
    """A slot has to be empty."""
    return refuse(text, lambda call: slot(call).cap.type != "null_cap", DELETE_FIRST)


def _destination(call: Invocation) -> Slot:
    return call.found(call.cap, 0)


def _source(call: Invocation) -> Slot:
    return call.found(call.given(0), 2)


def _full(text: str, slot: Callable[[Invocation], Slot], depth: int, *, source: bool) -> Rule:
    def refusal(call: Invocation) -> Answer | None:
        return missing(call.word(depth)).answer(source=source) if slot(call).cap.type == "null_cap" else None

    return Rule(text, refusal)


def _cap(call: Invocation) -> SlotContent:
    return call.cap


_FIRST: Rules = (message(2), lookup(f"{_TARGET} under the invoked CNode", _cap, 0))
_FROM_SOURCE: Rules = (
    *_FIRST,
    message(4, 1),
    empty("the destination is empty", _destination),
    lookup(f"{_TARGET} under the source's root", lambda call: call.given(0), 2, source=True),
    _full("the source holds a capability", _source, 3, source=True),
)


def _copied(data: int | None) -> Rules:
    """A copy, with the data in that message word."""

    def refusal(call: Invocation) -> Answer | None:
        source = _source(call)
        if data is not None and refuses_data(source.cap, call.word(data), preserve=False):
            return ILLEGAL_OPERATION
        refused = derive(source)
        return refused or (ILLEGAL_OPERATION if never_copied(source.cap) else None)

    return (Rule("the source has a copy, and takes the badge or guard", refusal),)


def _pivot(call: Invocation) -> Slot:
    return call.found(call.given(0), 3)


def _rotated(call: Invocation) -> Slot:
    return call.found(call.given(1), 6)


_ROTATE: Rules = (
    *_FIRST,
    message(8, 2),
    lookup(f"{_TARGET} under the source's root", lambda call: call.given(1), 6, source=True),
    lookup(f"{_TARGET} under the pivot's root", lambda call: call.given(0), 3, source=True),
    refuse(
        "the pivot is neither source nor destination",
        lambda call: _pivot(call).address in (_rotated(call).address, _destination(call).address),
        ILLEGAL_OPERATION,
    ),
    refuse(
        "the destination is empty, or the source",
        lambda call: _rotated(call).address != _destination(call).address and _destination(call).cap.type != "null_cap",
        DELETE_FIRST,
    ),
    _full("the source holds a capability", _rotated, 7, source=True),
    _full("the pivot holds a capability", _pivot, 4, source=False),
    refuse(
        "the source takes its guard, and has no badge to lose",
        lambda call: refuses_data(_rotated(call).cap, call.word(5), preserve=True),
        ILLEGAL_OPERATION,
    ),
    refuse(
        "the pivot takes its guard, and has no badge to lose",
        lambda call: refuses_data(_pivot(call).cap, call.word(2), preserve=True),
        ILLEGAL_OPERATION,
    ),
)

_ALL_RIGHTS = ("capCanSend", "capCanReceive", "capCanGrant")


def _cannot_cancel(call: Invocation) -> bool:
    cap = _destination(call).cap
    return cap.type != "endpoint_cap" or not all(cap.field(right) for right in _ALL_RIGHTS)


CNODE: dict[str, Rules] = {
    "CNodeRevoke": _FIRST,
    "CNodeDelete": _FIRST,
    "CNodeCancelBadgedSends": (
        *_FIRST,
        refuse("the slot holds an endpoint with all rights", _cannot_cancel, ILLEGAL_OPERATION),
    ),
    "CNodeCopy": (*_FROM_SOURCE, message(5), *_copied(None)),
    "CNodeMint": (*_FROM_SOURCE, message(6), *_copied(5)),
    "CNodeMove": _FROM_SOURCE,
    "CNodeMutate": (
        *_FROM_SOURCE,
        message(5),
        refuse(
            "the source takes the guard, and has no badge to lose",
            lambda call: refuses_data(_source(call).cap, call.word(4), preserve=True),
            ILLEGAL_OPERATION,
        ),
    ),
    "CNodeRotate": _ROTATE,
    "CNodeSaveCaller": (*_FIRST, empty("the slot is empty", _destination)),
}
