# SPDX-License-Identifier: BSD-2-Clause
"""What runs, and what waits for the processor: the current and the idle thread, the ready queues."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.invariants.definitions import MAXIMUM_VIOLATIONS, Context, Judgement, invariant
from harness.kernel_state.state import KernelState
from harness.kernel_state.threads import walk_queue

Array = np.ndarray[Any, Any]

FAMILY = "threads"
_RESUME_CURRENT_THREAD = 0
"""SchedulerAction_ResumeCurrentThread."""
_WORD_BITS = 64
IDLE_PRIORITY = 0
"""Of the idle thread: who becomes ready with no more than that while it runs has to wait for the next choice."""


@invariant(
    "cur_tcb",
    family=FAMILY,
    reference="l4v Invariants_AI: cur_tcb; DetSchedInvs_AI: valid_sched_action, ct_not_in_q, ct_in_cur_domain",
)
def cur_tcb(context: Context) -> Judgement:
    """The current thread can run, is of the current domain and in no ready queue; nothing is left to schedule."""
    state = context.state
    threads = state.threads
    current, idle = state.pointer("ksCurThread"), state.pointer("ksIdleThread")
    judgement = Judgement(1)
    action = state.global_word("ksSchedulerAction")
    if action != _RESUME_CURRENT_THREAD:
        judgement.fail_field("scheduler", "tcb", "ksSchedulerAction", hex(action), "ResumeCurrentThread")
    _judge_domain(state, judgement)
    row = threads.row_of.get(current)
    if row is None:
        judgement.fail_field("scheduler", "tcb", "ksCurThread", hex(current), "a thread")
        return judgement
    if not threads.runnable[row] and current != idle:
        judgement.fail_thread(threads, row, "tsType", threads.state_name(row), "Running, as it is ksCurThread")
    if threads.state("tcbQueued")[row]:
        judgement.fail_thread(threads, row, "tcbQueued", 1, "0, as it is ksCurThread")
    domain, own = state.global_word("ksCurDomain"), int(threads.member("tcbDomain")[row])
    if current != idle and own != domain:
        judgement.fail_thread(threads, row, "tcbDomain", own, f"ksCurDomain, {domain}")
    if current == idle:
        for ready, priority in state.ready_queues.used:
            if ready == domain and priority > IDLE_PRIORITY:
                judgement.fail_thread(
                    threads, row, "ksCurThread", "idle", f"a thread of priority {priority}: one waits"
                )
    return judgement


def _judge_domain(state: KernelState, judgement: Judgement) -> None:
    """The current domain is the one that the schedule has at its current place, with time left."""
    schedule = state.global_words("ksDomSchedule").reshape(-1, 2)
    index = state.global_word("ksDomScheduleIdx")
    if index >= len(schedule):
        judgement.fail_field("scheduler", "tcb", "ksDomScheduleIdx", index, f"below {len(schedule)}")
        return
    domain, length = (int(word) for word in schedule[index])
    if state.global_word("ksCurDomain") != domain:
        judgement.fail_field(
            "scheduler",
            "tcb",
            "ksCurDomain",
            state.global_word("ksCurDomain"),
            f"ksDomSchedule[{index}].domain, {domain}",
        )
    left = state.global_word("ksDomainTime")
    if not 0 < left <= length:
        judgement.fail_field("scheduler", "tcb", "ksDomainTime", left, f"1 to {length}")


@invariant("only_idle", family=FAMILY, reference="l4v Invariants_AI: only_idle, valid_idle")
def only_idle(context: Context) -> Judgement:
    """The idle thread, and no other, is in the idle state; it has no capabilities and is bound to nothing."""
    state = context.state
    threads = state.threads
    judgement = Judgement(len(threads))
    idle = state.pointer("ksIdleThread")
    if idle not in threads.row_of:
        judgement.fail_field("scheduler", "tcb", "ksIdleThread", hex(idle), "a thread")
        return judgement
    own = threads.row_of[idle]
    wrong = threads.in_state("IdleThreadState")
    wrong[own] = not wrong[own]
    for row in np.flatnonzero(wrong).tolist()[:MAXIMUM_VIOLATIONS]:
        expected = "IdleThreadState, as it is ksIdleThread" if row == own else "another: it is not ksIdleThread"
        judgement.fail_thread(threads, row, "tsType", threads.state_name(row), expected)
    if threads.member("tcbBoundNotification")[own]:
        judgement.fail_thread(
            threads, own, "tcbBoundNotification", hex(int(threads.pointer("tcbBoundNotification")[own])), "null"
        )
    caps = state.caps
    first = threads.address[own]
    slots = np.flatnonzero((caps.address >= first) & (caps.address < first + np.uint64(state.layout.tcb_offset)))
    if len(slots):
        judgement.fail_caps(
            context, slots, lambda row: "it lies in a slot of the idle thread", "capType", caps.type_name, "null_cap"
        )
    return judgement


@invariant(
    "valid_queues",
    family=FAMILY,
    reference="l4v DetSchedInvs_AI: valid_queues, valid_blocked; Refine Invariants_H: valid_queues, valid_bitmapQ",
)
def valid_queues(context: Context) -> Judgement:
    """Each thread that can run, but the current one, stands in the ready queue of its priority; the bitmaps agree."""
    state = context.state
    threads, queues = state.threads, state.ready_queues
    judgement = Judgement(queues.head.size + len(threads))
    _judge_bitmaps(context, judgement)
    links = threads.links("tcbSched")
    queued, runnable = threads.state("tcbQueued").tolist(), threads.runnable.tolist()
    domains, priorities = threads.member("tcbDomain").tolist(), threads.member("tcbPriority").tolist()
    found: set[int] = set()
    for domain, priority in queues.used:
        head, end = int(queues.head[domain, priority]), int(queues.end[domain, priority])
        queue = walk_queue(threads, head, end, links, "tcbSched")
        found.update(queue.rows)
        place = f"ready queue of domain {domain}, priority {priority}"
        for row, field, has, wanted in queue.problems:
            if row >= 0:
                judgement.fail_thread(threads, row, field, has, f"{wanted}, in the {place}")
            else:
                judgement.fail_field(
                    place, "tcb", f"ksReadyQueues {field}", has, wanted, domain=domain, priority=priority
                )
        for row in queue.rows:
            if not queued[row]:
                judgement.fail_thread(threads, row, "tcbQueued", 0, f"1: it stands in the {place}")
            if domains[row] != domain:
                judgement.fail_thread(threads, row, "tcbDomain", domains[row], f"{domain}: it stands in the {place}")
            if priorities[row] != priority:
                judgement.fail_thread(
                    threads, row, "tcbPriority", priorities[row], f"{priority}: it stands in the {place}"
                )
            if not runnable[row]:
                judgement.fail_thread(
                    threads, row, "tsType", threads.state_name(row), f"Running or Restart: it stands in the {place}"
                )
    current = threads.row_of.get(state.pointer("ksCurThread"), -1)
    for row, (is_queued, can_run) in enumerate(zip(queued, runnable, strict=True)):
        if is_queued and row not in found:
            judgement.fail_thread(threads, row, "tcbQueued", 1, "0: it stands in no ready queue")
        elif can_run and row != current and row not in found:
            judgement.fail_thread(threads, row, "tcbQueued", 0, "1: it can run and is not ksCurThread")
    return judgement


def _judge_bitmaps(context: Context, judgement: Judgement) -> None:
    """ksReadyQueuesL2Bitmap has a bit for each queue with a thread, ksReadyQueuesL1Bitmap one for each such word."""
    queues = context.state.ready_queues
    used = np.packbits(queues.head != 0, axis=1, bitorder="little")
    expected = np.zeros_like(queues.l2)
    words = np.ascontiguousarray(used).view(np.uint64) if used.shape[1] % 8 == 0 else None
    if words is not None:
        expected[:, : words.shape[1]] = words
    for domain, word in np.argwhere(queues.l2 != expected).tolist():
        judgement.fail_field(
            f"domain {domain}",
            "tcb",
            f"ksReadyQueuesL2Bitmap[{domain}][{word}]",
            hex(int(queues.l2[domain, word])),
            hex(int(expected[domain, word])),
        )
    for domain, row in enumerate(queues.l2.tolist()):
        bits = sum(1 << index for index, word in enumerate(row) if word)
        if int(queues.l1[domain]) != bits:
            judgement.fail_field(
                f"domain {domain}", "tcb", f"ksReadyQueuesL1Bitmap[{domain}]", hex(int(queues.l1[domain])), hex(bits)
            )
