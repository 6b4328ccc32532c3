# SPDX-License-Identifier: BSD-2-Clause
"""Threads, endpoints, notifications and ready queues as plain values: a state that can be changed and compared.

Threads are named by the physical address of their tcb_t, endpoints and notifications by their own. What means nothing
in a thread's state (the object of a thread that waits for none, the lookup failure without a fault) is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from harness.kernel_state.layout import Layout
from harness.kernel_state.state import KernelState
from harness.kernel_state.threads import IpcObjects, Threads, walk_queue

RUNNING, RESTART, INACTIVE, IDLE = "Running", "Restart", "Inactive", "IdleThreadState"
ON_SEND, ON_RECEIVE, ON_REPLY = "BlockedOnSend", "BlockedOnReceive", "BlockedOnReply"
ON_SIGNAL = "BlockedOnNotification"
RUNNABLE = frozenset({RUNNING, RESTART})
QUEUED = frozenset({ON_SEND, ON_RECEIVE, ON_SIGNAL})
"""States of threads that stand in the queue of an object."""
REGISTERS = 36
"""x0 to x30, SP_EL0, ELR_EL1, SPSR_EL1, the address of the instruction to be repeated, the thread's own register."""
NO_FAULT = (0, 0)
UNCOMPARED = frozenset({"name", "registers", "slots", "open_registers", "open_caps", "open_slots"})


@dataclass
class Thread:
    """A thread, as far as calls change it.

    `slots`: words of the capabilities in tcbCTable, tcbVTable and tcbBuffer; `caller`: the thread whose reply
    capability lies in tcbCaller. `open_registers`, `open_caps`, `open_slots`: of what is foretold, registers,
    whether capabilities came along with the message, and slots of which nothing is known.
    """

    name: str
    state: str
    registers: list[int]
    slots: dict[str, tuple[int, int]]
    object: int = 0
    badge: int = 0
    may_grant: int = 0
    is_call: int = 0
    priority: int = 0
    maximum_priority: int = 0
    domain: int = 0
    slice: int = 0
    handler: int = 0
    buffer: int = 0
    bound: int = 0
    fault: tuple[int, int] = NO_FAULT
    failure: tuple[int, int] = (0, 0)
    caller: int = 0
    open_registers: frozenset[int] = frozenset()
    open_caps: bool = False
    open_slots: frozenset[str] = frozenset()

    @property
    def runnable(self) -> bool:
        """Whether it can run."""
        return self.state in RUNNABLE


@dataclass
class Endpoint:
    """An endpoint: `state` Idle, Send or Recv, and who waits, in order."""

    state: str
    queue: list[int]


@dataclass
class Notification:
    """A notification: `state` Idle, Waiting or Active, who waits, its badge while Active, and who is bound to it."""

    state: str
    queue: list[int]
    badge: int
    bound: int


@dataclass
class Scene:
    """All threads, and what they wait for; `ready` by domain and priority."""

    threads: dict[int, Thread]
    endpoints: dict[int, Endpoint]
    notifications: dict[int, Notification]
    ready: dict[tuple[int, int], list[int]]
    current: int
    idle: int
    domain: int
    domain_time: int
    notes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, state: KernelState) -> Scene:
        """Read a state; KeyError where it cannot be one of the kernel's."""
        threads = state.threads
        tcb = threads.tcb.tolist()
        links, scheduled = threads.links("tcbEP"), threads.links("tcbSched")

        def queue(head: int, tail: int, of: tuple[list[int], list[int]], names: str) -> list[int]:
            return [tcb[row] for row in walk_queue(threads, head, tail, of, names).rows]

        def objects(found: IpcObjects) -> Iterator[tuple[int, int, str, list[int]]]:
            for row, address in enumerate(found.address.tolist()):
                waiting = queue(int(found.head[row]), int(found.tail[row]), links, "tcbEP")
                yield row, address, found.state_name(row).partition("_")[2], waiting

        queues, notifications = state.ready_queues, state.notifications
        badges = notifications.field("ntfnMsgIdentifier").tolist()
        return cls(
            _threads(state.layout, threads),
            {address: Endpoint(name, waiting) for _, address, name, waiting in objects(state.endpoints)},
            {
                address: Notification(
                    name, waiting, badges[row] if name == "Active" else 0, int(notifications.bound[row])
                )
                for row, address, name, waiting in objects(notifications)
            },
            {
                (domain, priority): queue(
                    int(queues.head[domain, priority]), int(queues.end[domain, priority]), scheduled, "tcbSched"
                )
                for domain, priority in queues.used
            },
            state.pointer("ksCurThread"),
            state.pointer("ksIdleThread"),
            state.global_word("ksCurDomain"),
            state.global_word("ksDomainTime"),
        )


def _threads(layout: Layout, threads: Threads) -> dict[int, Thread]:
    ram, union = threads.ram, layout.union("seL4_Fault")
    members = {
        "priority": threads.member("tcbPriority"),
        "maximum_priority": threads.member("tcbMCP"),
        "domain": threads.member("tcbDomain"),
        "slice": threads.member("tcbTimeSlice"),
        "handler": threads.member("tcbFaultHandler"),
        "buffer": threads.member("tcbIPCBuffer"),
        "bound": threads.pointer("tcbBoundNotification"),
    }
    columns = {name: column.tolist() for name, column in members.items()}
    waits = {
        "badge": threads.state("blockingIPCBadge").tolist(),
        "may_grant": threads.state("blockingIPCCanGrant").tolist(),
        "is_call": threads.state("blockingIPCIsCall").tolist(),
    }
    objects = (threads.state("blockingObject") - np.uint64(layout.offset)).tolist()
    faults = list(zip(threads.member("tcbFault").tolist(), threads.member("tcbFault", 1).tolist(), strict=True))
    failures = list(
        zip(threads.member("tcbLookupFailure").tolist(), threads.member("tcbLookupFailure", 1).tolist(), strict=True)
    )
    reply = layout.cap_types["reply_cap"]
    found = {}
    for row, tcb in enumerate(threads.tcb.tolist()):
        first = (tcb - ram.base) >> 3
        state = threads.state_name(row)
        thread = Thread(threads.name(row), state, ram.words[first : first + REGISTERS].tolist(), {})
        for name, column in columns.items():
            setattr(thread, name, column[row])
        if state in QUEUED:
            thread.object = objects[row]
        if state == ON_SEND:
            for name, column in waits.items():
                setattr(thread, name, column[row])
        kind = union.tag.get(faults[row])
        if kind != union.values["NullFault"]:
            thread.fault = faults[row]
            if kind == union.values["CapFault"]:
                thread.failure = failures[row]
        own = int(threads.address[row])

        def slot(name: str, own: int = own) -> tuple[int, int]:
            place = (own + (layout.constant(name) << layout.slot_bits) - ram.base) >> 3
            return int(ram.words[place]), int(ram.words[place + 1])

        thread.slots = {name: slot(name) for name in ("tcbCTable", "tcbVTable", "tcbBuffer")}
        caller = slot("tcbCaller")
        if layout.union("cap").tag.get(caller) == reply:
            thread.caller = layout.physical(layout.block("reply_cap")["capTCBPtr"].get(caller))
        found[tcb] = thread
    return found
