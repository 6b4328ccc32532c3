# SPDX-License-Identifier: BSD-2-Clause
"""Rules of the invocations of threads."""

from __future__ import annotations

from collections.abc import Callable

from harness.specification.answers import (
    ALIGNMENT_ERROR,
    ILLEGAL_OPERATION,
    TRUNCATED_MESSAGE,
    Answer,
    NotCoveredError,
    invalid_capability,
    range_error,
)
from harness.specification.cnodes import derive, never_copied, refuses_data
from harness.specification.invocations import Invocation, Rule, Rules, message, refuse

IPC_BUFFER_BITS = 9
"""An IPC buffer is aligned to 2^9 bytes."""
PRIORITY_MASK, MCP_SHIFT = 0xFF, 8
"""A priority in one word with the maximum controlled priority, and where that lies."""
_LONG_DELETIONS = ("thread_cap", "zombie_cap", "cnode_cap")


def _own(call: Invocation) -> bool:
    return call.target_thread == call.thread


def _priority(value: Callable[[Invocation], int]) -> Rule:
    def refusal(call: Invocation) -> Answer | None:
        maximum = call.member(call.thread, "tcbMCP")
        return range_error(0, maximum) if value(call) > maximum else None

    return Rule("no priority is above the caller's maximum controlled priority", refusal)


def _buffer(address: int, extra: int) -> Rule:
    """The IPC buffer is at the address in a message word, in the frame that is an extra capability."""

    def refusal(call: Invocation) -> Answer | None:
        if not call.word(address):
            return None
        slot = call.extra[extra]
        refused = derive(slot)
        if refused is not None:
            return refused
        cap = slot.cap
        if cap.type != "frame_cap" or cap.field("capFIsDevice"):
            return ILLEGAL_OPERATION
        return ALIGNMENT_ERROR if call.word(address) & ((1 << IPC_BUFFER_BITS) - 1) else None

    return Rule("an IPC buffer is an aligned address and a frame that is no device", refusal)


def _being_deleted(call: Invocation) -> bool:
    layout = call.memory.layout
    for name in ("tcbCTable", "tcbVTable"):
        slot = call.memory.slot(call.target_thread + (layout.constant(name) << layout.slot_bits))
        if slot.cap.type in _LONG_DELETIONS and slot.is_final():
            return True
    return False


def _root(extra: int, data: int, type_: str) -> Rule:
    """An extra capability, with the data in a message word if that is not 0, is a root of the thread's."""

    def refusal(call: Invocation) -> Answer | None:
        slot = call.extra[extra]
        cap = slot.cap
        if call.word(data) and refuses_data(cap, call.word(data), preserve=False):
            return ILLEGAL_OPERATION  # the empty capability that this would make is no root
        refused = derive(slot)
        if refused is not None:
            return refused
        return ILLEGAL_OPERATION if never_copied(cap) or cap.type != type_ else None

    return Rule(f"the capability can be copied, takes the guard and is a {type_}", refusal)


_SPACES = refuse("no space of the thread is being deleted", _being_deleted, ILLEGAL_OPERATION)
_CSPACE, _VSPACE = "cnode_cap", "page_global_directory_cap"


def _bound(call: Invocation) -> bool:
    return call.member(call.target_thread, "tcbBoundNotification") != 0


def _cannot_bind(call: Invocation) -> bool:
    cap, memory = call.given(0), call.memory
    if cap.type != "notification_cap" or not cap.field("capNtfnCanReceive"):
        return True
    block = memory.layout.block("notification")
    words = [memory.word(cap.base + 8 * index) for index in range(block.words)]
    return bool(block["ntfnQueue_head"].get(words) or block["ntfnBoundTCB"].get(words))


def _registers(call: Invocation) -> Answer | None:
    maximum = call.memory.layout.constant("n_frameRegisters") + call.memory.layout.constant("n_gpRegisters")
    return None if 1 <= call.word(1) <= maximum else range_error(1, maximum)


def _copied_to_itself(call: Invocation) -> Answer | None:
    if _own(call):
        raise NotCoveredError("the caller's own registers are written: the answer, or the call made once more")
    return None


_NOT_OWN = refuse("the registers are not the caller's own", _own, ILLEGAL_OPERATION)

THREAD: dict[str, Rules] = {
    "TCBReadRegisters": (message(2), Rule("there are so many registers", _registers), _NOT_OWN),
    "TCBWriteRegisters": (
        message(2),
        refuse("the message has so many registers", lambda call: call.length - 2 < call.word(1), TRUNCATED_MESSAGE),
        _NOT_OWN,
    ),
    "TCBCopyRegisters": (
        message(1, 1),
        refuse("the source is a thread", lambda call: call.given(0).type != "thread_cap", invalid_capability(1)),
        Rule("the caller's own registers may be written", _copied_to_itself),
    ),
    "TCBSuspend": (),
    "TCBResume": (),
    "TCBConfigure": (
        message(5, 3),
        _priority(lambda call: call.word(1) & PRIORITY_MASK),
        _priority(lambda call: call.word(1) >> MCP_SHIFT & PRIORITY_MASK),
        _buffer(4, 2),
        _SPACES,
        _root(0, 2, _CSPACE),
        _root(1, 3, _VSPACE),
    ),
    "TCBSetPriority": (message(1), _priority(lambda call: call.word(0))),
    "TCBSetMCPriority": (message(1), _priority(lambda call: call.word(0))),
    "TCBSetIPCBuffer": (message(1, 1), _buffer(0, 0)),
    "TCBSetSpace": (message(3, 2), _SPACES, _root(0, 1, _CSPACE), _root(1, 2, _VSPACE)),
    "TCBBindNotification": (
        message(0, 1),
        refuse("the thread has no notification", _bound, ILLEGAL_OPERATION),
        refuse("the notification may be received from, and is free", _cannot_bind, ILLEGAL_OPERATION),
    ),
    "TCBUnbindNotification": (
        refuse("the thread has a notification", lambda call: not _bound(call), ILLEGAL_OPERATION),
    ),
}
