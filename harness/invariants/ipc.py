# SPDX-License-Identifier: BSD-2-Clause
"""Threads that wait for each other: queues of endpoints and notifications, bindings, reply capabilities."""

from __future__ import annotations

import numpy as np

from harness.invariants.definitions import Context, Judgement, invariant
from harness.kernel_state.memory import contains
from harness.kernel_state.state import KernelState
from harness.kernel_state.threads import IpcObjects, Threads, walk_queue

FAMILY = "threads"


@invariant("sym_refs", family=FAMILY, reference="l4v Invariants_AI: sym_refs, state_refs_of")
def sym_refs(context: Context) -> Judgement:
    """A blocked thread stands in the queue of what it waits for, and only such threads do; bindings go both ways."""
    state = context.state
    threads = state.threads
    judgement = Judgement(len(threads) + len(state.endpoints) + len(state.notifications))
    waiting: dict[int, int] = {}
    links = threads.links("tcbEP")
    constant = state.layout.constant
    kinds: dict[int, str] = {constant("EPState_Send"): "BlockedOnSend", constant("EPState_Recv"): "BlockedOnReceive"}
    _judge_queues(threads, state.endpoints, kinds, links, waiting, judgement)
    kinds = {constant("NtfnState_Waiting"): "BlockedOnNotification"}
    _judge_queues(threads, state.notifications, kinds, links, waiting, judgement)
    blocked = threads.in_state("BlockedOnSend", "BlockedOnReceive", "BlockedOnNotification")
    objects = threads.state("blockingObject") - np.uint64(state.layout.offset)
    for row in np.flatnonzero(blocked).tolist():
        if row not in waiting:
            name = "notification" if threads.state_name(row) == "BlockedOnNotification" else "endpoint"
            judgement.fail_thread(
                threads,
                row,
                "blockingObject",
                hex(int(objects[row])),
                f"the {name} in whose queue it stands; it stands in none",
            )
    _judge_bindings(state, judgement)
    return judgement


def _judge_queues(
    threads: Threads,
    objects: IpcObjects,
    kinds: dict[int, str],
    links: tuple[list[int], list[int]],
    waiting: dict[int, int],
    judgement: Judgement,
) -> None:
    """The queues of all endpoints, or of all notifications; `kinds`: state of a thread in the queue by the object's."""
    waits_for = (threads.state("blockingObject") - np.uint64(threads.layout.offset)).tolist()
    for index in np.flatnonzero(objects.head | objects.tail).tolist():
        expected = kinds.get(int(objects.state[index]))
        if expected is None:
            # An idle object with a queue: valid_objs.
            continue
        address = int(objects.address[index])
        queue = walk_queue(threads, int(objects.head[index]), int(objects.tail[index]), links, "tcbEP")
        for row, field, has, wanted in queue.problems:
            if row >= 0:
                judgement.fail_thread(
                    threads, row, field, has, f"{wanted}, in the queue of the {objects.block.name} at {address:#x}"
                )
            else:
                judgement.fail_object(objects, index, field, has, wanted)
        for row in queue.rows:
            if row in waiting:
                judgement.fail_thread(
                    threads, row, "tcbEPNext", "in two queues", f"in one, not also in that of {waiting[row]:#x}"
                )
            waiting[row] = address
            if threads.state_name(row) != expected:
                judgement.fail_thread(
                    threads,
                    row,
                    "tsType",
                    threads.state_name(row),
                    f"{expected}: it stands in the queue of the {objects.block.name} at {address:#x}",
                )
            elif waits_for[row] != address:
                judgement.fail_thread(
                    threads, row, "blockingObject", hex(waits_for[row]), f"{address:#x}, in whose queue it stands"
                )


def _judge_bindings(state: KernelState, judgement: Judgement) -> None:
    """A thread and the notification that it is bound to name each other."""
    threads, notifications = state.threads, state.notifications
    bound = threads.pointer("tcbBoundNotification")
    for row in np.flatnonzero(bound).tolist():
        other = notifications.row_of.get(int(bound[row]))
        if other is None:
            judgement.fail_thread(threads, row, "tcbBoundNotification", hex(int(bound[row])), "a notification")
        elif int(notifications.bound[other]) != int(threads.tcb[row]):
            judgement.fail_object(
                notifications,
                other,
                "ntfnBoundTCB",
                hex(int(notifications.bound[other])),
                f"{int(threads.tcb[row]):#x}, which is bound to it",
            )
    for index in np.flatnonzero(notifications.bound).tolist():
        tcb, address = int(notifications.bound[index]), int(notifications.address[index])
        thread = threads.row_of.get(tcb)
        if thread is None:
            judgement.fail_object(notifications, index, "ntfnBoundTCB", hex(tcb), "a thread")
        elif int(bound[thread]) != address:
            judgement.fail_thread(
                threads,
                thread,
                "tcbBoundNotification",
                hex(int(bound[thread])),
                f"{address:#x}, whose ntfnBoundTCB it is",
            )


@invariant(
    "valid_reply_caps",
    family=FAMILY,
    reference="l4v Invariants_AI: valid_reply_caps, unique_reply_caps; CSpaceInv_AI: reply_caps_mdb",
)
def valid_reply_caps(context: Context) -> Judgement:
    """A reply capability names a thread that waits for a reply, is its only one, and stands behind its master."""
    state = context.state
    caps, threads = state.caps, state.threads
    all_rows = caps.of("reply_cap")
    rows = all_rows[caps.field("reply_cap", "capReplyMaster", all_rows) == 0]
    judgement = Judgement(len(all_rows))
    if not len(rows):
        return judgement
    pointers = (caps.field("reply_cap", "capTCBPtr", rows) - np.uint64(state.layout.offset)).tolist()
    waits = threads.in_state("BlockedOnReply")
    slot = state.layout.constant("tcbReply") << state.layout.slot_bits
    seen: dict[int, int] = {}
    for row, tcb in zip(rows.tolist(), pointers, strict=True):
        thread = threads.row_of.get(tcb)
        if thread is None:
            judgement.fail_cap(caps, row, "capTCBPtr", hex(tcb), "a thread")
            continue
        if tcb in seen:
            judgement.fail_cap(
                caps, row, "capTCBPtr", hex(tcb), f"another thread: the reply_cap at {seen[tcb]:#x} names it too"
            )
        seen[tcb] = int(caps.address[row])
        if not waits[thread]:
            judgement.fail_thread(
                threads,
                thread,
                "tsType",
                threads.state_name(thread),
                f"BlockedOnReply: the reply_cap at {int(caps.address[row]):#x} names it",
            )
        master = int(threads.address[thread]) + slot
        if int(caps.previous[row]) != master:
            judgement.fail_cap(
                caps, row, "mdbPrev", hex(int(caps.previous[row])), f"{master:#x}, the thread's own slot tcbReply"
            )
    return judgement


@invariant(
    "valid_reply_masters",
    family=FAMILY,
    reference="l4v Invariants_AI: valid_reply_masters, tcb_cap_cases; CSpace_I: reply_masters_rvk_fb",
)
def valid_reply_masters(context: Context) -> Judgement:
    """Each thread that ever ran has its master reply capability in its slot tcbReply, and nothing else has one."""
    state = context.state
    caps, threads, layout = state.caps, state.threads, state.layout
    judgement = Judgement(len(threads))
    slots = state.thread_slot("tcbReply")
    held = caps.rows_at(slots)
    all_rows = caps.of("reply_cap")
    masters = all_rows[caps.field("reply_cap", "capReplyMaster", all_rows) != 0]
    at_home = contains(slots, caps.address[masters])
    for row in masters[~at_home].tolist():
        judgement.fail_cap(caps, row, "capReplyMaster", 1, "0 outside of a thread's slot tcbReply")
    halted = threads.in_state("Inactive", "IdleThreadState").tolist()
    is_master = np.zeros(len(caps) + 1, np.bool_)
    is_master[masters] = True
    null = layout.cap_types["null_cap"]
    for thread, row in enumerate(held.tolist()):
        if row < 0 or int(caps.type[row]) == null:
            if not halted[thread]:
                judgement.fail_thread(
                    threads,
                    thread,
                    "tcbReply",
                    "null_cap",
                    f"its master reply_cap, as it is {threads.state_name(thread)}",
                )
        elif not is_master[row]:
            judgement.fail_cap(
                caps,
                row,
                "tcbReply",
                caps.type_name(row),
                "a master reply_cap or null_cap",
                thread=threads.describe(thread),
            )
        else:
            tcb = layout.physical(int(caps.field("reply_cap", "capTCBPtr", held[thread : thread + 1])[0]))
            if tcb != int(threads.tcb[thread]):
                judgement.fail_cap(
                    caps, row, "capTCBPtr", hex(tcb), f"{int(threads.tcb[thread]):#x}, the thread that it lies in"
                )
            for name, flags in (("mdbRevocable", caps.revocable), ("mdbFirstBadged", caps.first_badged)):
                if not flags[row]:
                    judgement.fail_cap(caps, row, name, 0, "1 for a master reply_cap")
    return judgement
