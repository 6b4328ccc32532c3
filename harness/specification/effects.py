# SPDX-License-Identifier: BSD-2-Clause
"""What an invocation that succeeded must have done: a table by label of what must hold right after it.

Each entry looks at the state after the call, in which it looks the call's slots up once more; where that is not
possible any more (the call has deleted the way to them) it says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.kernel_state.lookup import SlotContent
from harness.specification.cnodes import GUARD_MASK, GUARD_SHIFT, GUARD_SIZE_MASK, GUARD_SIZE_SHIFT
from harness.specification.invocations import Invocation, thread_of
from harness.specification.lookups import translate
from harness.specification.memory import Slot, extent
from harness.specification.threads import MCP_SHIFT, PRIORITY_MASK

Effect = Callable[[Invocation], str]
"""What is wrong, in words; empty if nothing is."""

_NULL = "null_cap"
_BADGES = {"endpoint_cap": "capEPBadge", "notification_cap": "capNtfnBadge", "smc_cap": "capSMCBadge"}
_BADGE_BITS = 28
"""A badge of fewer bits is taken as it is by every kind of capability."""


def _is(what: str, found: int, wanted: int) -> str:
    return "" if found == wanted else f"{what} is {found:#x} and not {wanted:#x}"


def _emptied(what: str, slot: Slot) -> str:
    return "" if slot.cap.type == _NULL else f"{what} still holds a {slot.cap.type}"


def _revoked(call: Invocation) -> str:
    slot = call.found(call.cap, 0)
    return f"another capability still descends from the {slot.cap.type}" if slot.has_children() else ""


def _copied(call: Invocation) -> str:
    copy, source = call.found(call.cap, 0).cap, call.found(call.given(0), 2).cap
    if copy.type != source.type or extent(copy) != extent(source):
        return f"the copy of a {source.type} is a {copy.type}, or names another object"
    return ""


def _guard(cap: SlotContent, data: int) -> str:
    """What differs from the guard that a CNode's capability was to get: size and bits, in one word."""
    size = data >> GUARD_SIZE_SHIFT & GUARD_SIZE_MASK
    guard = data >> GUARD_SHIFT & GUARD_MASK & ((1 << size) - 1)
    return _is("the guard's size", cap.field("capCNodeGuardSize"), size) or _is(
        "the guard", cap.field("capCNodeGuard"), guard
    )


def _minted(call: Invocation) -> str:
    copy, badge = call.found(call.cap, 0).cap, call.word(5)
    if copy.type == "cnode_cap":
        return _copied(call) or _guard(copy, badge)
    if copy.type in _BADGES and not badge >> _BADGE_BITS:
        return _copied(call) or _is("the badge", copy.field(_BADGES[copy.type]), badge)
    return _copied(call)


def _moved(call: Invocation) -> str:
    if call.found(call.cap, 0).cap.type == _NULL:
        return "nothing has arrived in the destination"
    return _emptied("the source", call.found(call.given(0), 2))


def _mutated(call: Invocation) -> str:
    moved = call.found(call.cap, 0).cap
    return _moved(call) or (_guard(moved, call.word(4)) if moved.type == "cnode_cap" else "")


def _member(name: str, word: int) -> Effect:
    return lambda call: _is(name, call.member(call.target_thread, name), call.word(word))


def _buffer(word: int, frame: int) -> Effect:
    """A thread's IPC buffer: its address, and the frame that the capability of its own names."""

    def effect(call: Invocation) -> str:
        address, thread = call.word(word), call.target_thread
        layout = call.memory.layout
        own = call.memory.slot(thread + (layout.constant("tcbBuffer") << layout.slot_bits)).cap
        wrong = _is("tcbIPCBuffer", call.member(thread, "tcbIPCBuffer"), address)
        if not address or wrong:
            return wrong
        if extent(own) != extent(call.given(frame)):
            return f"the buffer slot holds a {own.type} of other memory"
        return _is("its copy's capFMappedASID", own.field("capFMappedASID"), 0)

    return effect


def _configured(call: Invocation) -> str:
    """Both priorities in one word, fault handler and buffer."""
    both, thread = call.word(1), call.target_thread
    return (
        _is("tcbPriority", call.member(thread, "tcbPriority"), both & PRIORITY_MASK)
        or _is("tcbMCP", call.member(thread, "tcbMCP"), both >> MCP_SHIFT & PRIORITY_MASK)
        or _member("tcbFaultHandler", 0)(call)
        or _buffer(4, 2)(call)
    )


def _suspended(call: Invocation) -> str:
    layout = call.memory.layout
    word = call.member(call.target_thread, "tcbState")
    field = layout.block("thread_state")["tsType"]
    return _is("tsType", field.get((word,) * (field.word + 1)), layout.constant("ThreadState_Inactive"))


def _bound(call: Invocation) -> str:
    return _is("tcbBoundNotification", call.member(call.target_thread, "tcbBoundNotification"), _notification(call, 0))


def _notification(call: Invocation, index: int) -> int:
    return call.given(index).field("capNtfnPtr")


def _domain(call: Invocation) -> str:
    return _is("tcbDomain", call.member(thread_of(call.given(0)), "tcbDomain"), call.word(0))


def _mapped(call: Invocation) -> str:
    wrong = _is("capFMappedAddress", call.cap.field("capFMappedAddress"), call.word(0))
    found = translate(call.memory, call.given(0).base, call.word(0))
    if found is None or found[0] != call.cap.base:
        return "the address does not lead to the frame"
    return wrong


def _unmapped(call: Invocation) -> str:
    return _is("capFMappedASID", call.cap.field("capFMappedASID"), 0)


def _made(call: Invocation) -> str:
    """The slots of Retype hold capabilities to parts of the untyped."""
    root, offset, number = call.given(0), call.word(4), call.word(5)
    if call.word(3):
        root = call.found(root, 2).cap
    whole = extent(call.cap)
    if root.type != "cnode_cap" or whole is None:
        return ""
    for index in range(offset, offset + number):
        made = extent(call.memory.slot(root.base + (index << call.memory.layout.slot_bits)).cap)
        if made is None or made[0] < whole[0] or made[1] > whole[1]:
            return f"slot {index} holds no part of the untyped"
    return _new_thread(call, call.memory.slot(root.base + (offset << call.memory.layout.slot_bits)).cap)


def _new_thread(call: Invocation, cap: SlotContent) -> str:
    """A new thread does not run, has no priority, and is of its maker's domain."""
    if cap.type != "thread_cap":
        return ""
    thread = thread_of(cap)
    return (
        _is("a new thread's tcbPriority", call.member(thread, "tcbPriority"), 0)
        or _is("a new thread's tcbMCP", call.member(thread, "tcbMCP"), 0)
        or _is("a new thread's tcbDomain", call.member(thread, "tcbDomain"), call.member(call.thread, "tcbDomain"))
    )


def _interrupt_slot(call: Invocation) -> SlotContent:
    layout = call.memory.layout
    node = layout.physical(call.memory.variable("intStateIRQNode"))
    return call.memory.slot(node + (call.cap.field("capIRQ") << layout.slot_bits)).cap


def _signals(call: Invocation) -> str:
    slot = _interrupt_slot(call)
    if slot.type != "notification_cap":
        return f"the interrupt's slot holds a {slot.type}"
    return _is("its notification", slot.field("capNtfnPtr"), _notification(call, 0))


def _silent(call: Invocation) -> str:
    slot = _interrupt_slot(call)
    return "" if slot.type == _NULL else f"the interrupt's slot still holds a {slot.type}"


def _handed_out(call: Invocation) -> str:
    slot = call.found(call.given(0), 1).cap
    if slot.type != "irq_handler_cap":
        return f"the slot holds a {slot.type}"
    return _is("capIRQ", slot.field("capIRQ"), call.word(0))


_INVOKED = {
    "CNode": "cnode_cap",
    "Untyped": "untyped_cap",
    "TCB": "thread_cap",
    "DomainSet": "domain_cap",
    "ARMPage": "frame_cap",
    "IRQIssue": "irq_control_cap",
    "IRQ": "irq_handler_cap",
}
"""What is invoked, by how the labels begin; the first that fits."""


def unmet(label: str, call: Invocation) -> str:
    """What a call that succeeded has not done; empty if nothing is said about it. NotCoveredError."""
    type_ = next((type_ for begin, type_ in _INVOKED.items() if label.startswith(begin)), "")
    return EFFECTS[label](call) if label in EFFECTS and call.cap.type == type_ else ""


EFFECTS: Mapping[str, Effect] = {
    "CNodeRevoke": _revoked,
    "CNodeDelete": lambda call: _emptied("the slot", call.found(call.cap, 0)),
    "CNodeCopy": _copied,
    "CNodeMint": _minted,
    "CNodeMove": _moved,
    "CNodeMutate": _mutated,
    "UntypedRetype": _made,
    "TCBSetPriority": _member("tcbPriority", 0),
    "TCBSetMCPriority": _member("tcbMCP", 0),
    "TCBSetSpace": _member("tcbFaultHandler", 0),
    "TCBSetIPCBuffer": _buffer(0, 0),
    "TCBConfigure": _configured,
    "TCBSuspend": _suspended,
    "TCBBindNotification": _bound,
    "TCBUnbindNotification": lambda call: _is(
        "tcbBoundNotification", call.member(call.target_thread, "tcbBoundNotification"), 0
    ),
    "DomainSetSet": _domain,
    "ARMPageMap": _mapped,
    "ARMPageUnmap": _unmapped,
    "IRQIssueIRQHandler": _handed_out,
    "IRQSetIRQHandler": _signals,
    "IRQClearIRQHandler": _silent,
}
