# SPDX-License-Identifier: BSD-2-Clause
"""Which state a system call leaves its caller in while it has not returned: what the caller waits for.

A table by system call and kind of capability. A caller that somebody has let go meanwhile is runnable, which is always
right; one whose system call became a fault waits for the answer to that.
"""

from __future__ import annotations

from harness.kernel_state.lookup import SlotContent
from harness.specification.memory import Memory

_SEND, _RECEIVE, _REPLY, _SIGNAL = "BlockedOnSend", "BlockedOnReceive", "BlockedOnReply", "BlockedOnNotification"
_INACTIVE = "Inactive"
_RUNNABLE = frozenset({"Running", "Restart"})
_WAITS: dict[str, dict[str, tuple[str, ...]]] = {
    "endpoint_cap": {
        "Send": (_SEND,),
        "NBSend": (),
        "Call": (_SEND, _REPLY),
        "Recv": (_RECEIVE,),
        "NBRecv": (),
        "ReplyRecv": (_RECEIVE,),
    },
    "notification_cap": {
        "Send": (),
        "NBSend": (),
        "Call": (),
        "Recv": (_SIGNAL,),
        "NBRecv": (),
        "ReplyRecv": (_SIGNAL,),
    },
}
"""The states in which a system call may leave its caller, by the capability that it names."""
_RIGHTS = {
    "endpoint_cap": ("capCanSend", "capCanReceive"),
    "notification_cap": ("capNtfnCanSend", "capNtfnCanReceive"),
}
_OBJECTS = {"endpoint_cap": "capEPPtr", "notification_cap": "capNtfnPtr"}
_RECEIVING = frozenset({"Recv", "NBRecv", "ReplyRecv"})


def _words(memory: Memory, thread: int, name: str) -> tuple[int, ...]:
    layout = memory.layout
    member = layout.struct("tcb")[name]
    first = thread + layout.tcb_offset + member.offset
    return tuple(memory.word(first + 8 * index) for index in range(member.size // 8))


def _state(memory: Memory, words: tuple[int, ...]) -> str:
    kind = memory.layout.block("thread_state")["tsType"].get(words)
    states = (_SEND, _RECEIVE, _REPLY, _SIGNAL, _INACTIVE, *_RUNNABLE)
    return next((name for name in states if memory.layout.constant(f"ThreadState_{name}") == kind), f"state {kind}")


def faulted(memory: Memory, thread: int) -> bool:
    """Whether a thread (physical address of its object) has a fault that nobody has answered."""
    tag = memory.layout.union("seL4_Fault")
    return tag.tag.get(_words(memory, thread, "tcbFault")) != tag.values["NullFault"]


def wrong_wait(name: str, cap: SlotContent, memory: Memory, thread: int) -> str:
    """What is wrong with the state of a thread that has not returned from a system call; empty if nothing is.

    `cap`: what it named. Nothing is said about other capabilities, without the right, and while the thread has a fault.
    """
    waits = _WAITS.get(cap.type, {}).get(name)
    if waits is None or not cap.field(_RIGHTS[cap.type][name in _RECEIVING]) or faulted(memory, thread):
        return ""
    if name == "Call" and cap.type == "endpoint_cap" and not cap.field("capCanGrant"):
        waits = (_SEND, _INACTIVE)  # nobody can answer it
    words = _words(memory, thread, "tcbState")
    found = _state(memory, words)
    if found in _RUNNABLE:
        return ""
    if found not in waits:
        return f"its caller is {found} and not {' or '.join(waits or sorted(_RUNNABLE))}"
    wanted = {"blockingObject": cap.field(_OBJECTS[cap.type])} if found in (_SEND, _RECEIVE, _SIGNAL) else {}
    if found == _SEND:
        wanted |= {
            "blockingIPCBadge": cap.field("capEPBadge"),
            "blockingIPCCanGrant": cap.field("capCanGrant"),
            "blockingIPCIsCall": int(name == "Call"),
        }
    block = memory.layout.block("thread_state")
    for field, value in wanted.items():
        if (actual := block[field].get(words)) != value:
            return f"its caller is {found} with {field} {actual:#x} and not {value:#x}"
    return ""
