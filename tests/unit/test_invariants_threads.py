# SPDX-License-Identifier: BSD-2-Clause
"""Threads, their queues and reply capabilities on states made by hand; interrupts."""

from __future__ import annotations

import pytest

from tests.unit.kernel_state_support import Change, Machine, both, broken

FAMILIES = ["threads", "irq", "liveness", "objects"]


def judged_after(change: Change) -> list[str]:
    machine = Machine()
    checker = machine.checker()
    change(machine)
    report = checker.check(machine.memory, families=FAMILIES)
    assert all(report.judged.values())
    return sorted(broken(report))


def _put(name: str, value: int, index: int = 0) -> Change:
    return lambda m: m.memory.put(m.var(name) + 8 * index, value)


def _clear_slot(m: Machine, slot: int) -> None:
    m.memory.put(slot, 0, 0, 0, 0)


def _idle_runs(m: Machine) -> None:
    m.memory.put(m.var("ksCurThread"), m.tcb(m.idle))
    m.state(m.thread, "BlockedOnReceive", m.arena)
    m.queue("endpoint", m.arena, "EPState_Recv", m.thread)
    _no_caller(m)
    m.ready_queue(70)
    m.memory.put(m.var("ksReadyQueuesL1Bitmap"), 0)
    m.memory.put(m.var("ksReadyQueuesL2Bitmap") + 8, 0)
    m.state(m.ready, "Inactive")


def _no_caller(m: Machine) -> None:
    _clear_slot(m, m.slot(3, m.thread))
    m.memory.put(m.slot(2, m.caller) + 16, *m.node(0, 0, first_badged=True))


def _saved_caller(m: Machine) -> None:
    """SaveCaller: the reply capability moves into the thread's capability space."""
    _clear_slot(m, m.slot(3, m.thread))
    m.set(m.slot(60), m.cap("reply_cap", capTCBPtr=m.tcb(m.caller)))
    m.link(m.slot(2, m.caller), m.slot(60))


def _second_domain(m: Machine) -> None:
    m.memory.put(m.var("ksDomScheduleIdx"), 1)
    m.memory.put(m.var("ksCurDomain"), 1)
    m.memory.put(m.var("ksDomainTime"), 7)
    m.member(m.thread, "tcbDomain", 1)


LEGAL: dict[str, Change] = {
    "as it is": lambda m: None,
    "the idle thread runs, everything else is blocked": _idle_runs,
    "the current thread is to be restarted, in the middle of an SMC": lambda m: m.state(m.thread, "Restart"),
    "a new thread, which never ran": both(
        lambda m: m.state(m.ready, "Inactive"),
        lambda m: m.ready_queue(70),
        _put("ksReadyQueuesL1Bitmap", 0),
        _put("ksReadyQueuesL2Bitmap", 0, 1),
        lambda m: _clear_slot(m, m.slot(2, m.ready)),
    ),
    "the idle thread runs, and a thread of another domain waits": both(
        _idle_runs, lambda m: m.ready_queue(70, m.ready, domain=1)
    ),
    "two threads of one priority": both(
        lambda m: m.ready_queue(70, m.ready, m.sender), lambda m: m.queue("endpoint", m.endpoint, "EPState_Idle")
    ),
    "two queues of one word of the bitmap": both(
        lambda m: m.ready_queue(71, m.sender),
        lambda m: m.queue("endpoint", m.endpoint, "EPState_Idle"),
        _put("ksReadyQueuesL2Bitmap", 3 << 6, 1),
    ),
    "another domain runs": _second_domain,
    "a thread of another domain is ready": both(
        lambda m: m.ready_queue(70),
        _put("ksReadyQueuesL1Bitmap", 0),
        _put("ksReadyQueuesL2Bitmap", 0, 1),
        lambda m: m.ready_queue(3, m.ready, domain=1),
    ),
    "old links of a thread in no queue": lambda m: m.member(m.caller, "tcbEPNext", m.tcb(m.sender)),
    "a thread that waits for a reply that nobody can give": _no_caller,
    "a reply capability that was saved": _saved_caller,
    "a thread waits for the notification that it is bound to": both(
        lambda m: m.memory.put(m.var("ksCurThread"), m.tcb(m.ready)),
        lambda m: m.ready_queue(70),
        _put("ksReadyQueuesL1Bitmap", 0),
        _put("ksReadyQueuesL2Bitmap", 0, 1),
        lambda m: m.state(m.ready, "Running"),
        lambda m: m.state(m.thread, "BlockedOnNotification", m.bound),
        lambda m: m.queue("notification", m.bound, "NtfnState_Waiting", m.thread, bound=m.thread),
    ),
    "an active notification": lambda m: m.queue("notification", m.bound, "NtfnState_Active", bound=m.thread),
    "a faulted thread": lambda m: m.member(m.caller, "tcbFault", 5),
    "an idle endpoint without capabilities": lambda m: m.queue("endpoint", m.arena + 0x40, "EPState_Idle"),
    "a zombie of a thread": both(
        lambda m: _clear_slot(m, m.slot(3, m.thread)),
        lambda m: _clear_slot(m, m.slot(2, m.caller)),
        lambda m: m.state(m.caller, "Inactive"),
        lambda m: m.set(m.slot(53), m.cap("zombie_cap", capZombieID=m.virtual(m.caller) | 2, capZombieType=32)),
    ),
    "a zombie of a CNode that has no slots left": lambda m: m.set(
        m.slot(60), m.cap("zombie_cap", capZombieID=m.virtual(m.arena + 0x100), capZombieType=2)
    ),
    "a zombie in the CNode that it stands for": both(
        lambda m: m.set(
            m.arena + 0x100, m.cap("zombie_cap", capZombieID=m.virtual(m.arena + 0x100) | 1, capZombieType=2)
        ),
        lambda m: m.link(m.slot(20), m.slot(21), m.arena + 0x100),
    ),
    "an interrupt without handler": both(
        lambda m: _clear_slot(m, m.slot(90, m.irq_node)),
        lambda m: m.memory.put(m.slot(55) + 16, *m.node(0, 0, first_badged=True)),
    ),
    "an FPU owner": lambda m: m.memory.put(
        m.var("ksActiveFPUState"), m.tcb(m.ready) + m.layout.struct("user_context")["fpuState"].offset
    ),
}


@pytest.mark.parametrize("name", LEGAL)
def test_legal_states_hold(name: str) -> None:
    assert judged_after(LEGAL[name]) == []


CAUGHT: dict[str, tuple[list[str], Change]] = {
    # cur_tcb
    "the current thread is blocked": (
        ["cur_tcb"],
        lambda m: m.state(m.thread, "BlockedOnReply"),
    ),
    "the current thread is in a ready queue": (
        ["cur_tcb"],
        lambda m: m.ready_queue(70, m.ready, m.thread),
    ),
    "the current thread is no thread": (["cur_tcb", "valid_queues"], _put("ksCurThread", 0x1234)),
    "a thread that was chosen and not switched to": (
        ["cur_tcb"],
        lambda m: m.memory.put(m.var("ksSchedulerAction"), m.tcb(m.ready)),
    ),
    "the idle thread runs and another one waits": (
        ["cur_tcb"],
        both(_idle_runs, lambda m: m.ready_queue(70, m.ready)),
    ),
    "the current thread is of another domain": (["cur_tcb"], lambda m: m.member(m.thread, "tcbDomain", 1)),
    "a domain that the schedule does not have now": (["cur_tcb"], _put("ksCurDomain", 1)),
    "a place behind the schedule": (["cur_tcb"], _put("ksDomScheduleIdx", 2)),
    "no domain time left": (["cur_tcb"], _put("ksDomainTime", 0)),
    # only_idle
    "two idle threads": (["only_idle", "valid_reply_caps"], lambda m: m.state(m.caller, "IdleThreadState")),
    "the idle thread can run": (
        ["if_live_then_nonz_cap", "only_idle", "valid_queues", "valid_reply_masters"],
        lambda m: m.state(m.idle, "Running"),
    ),
    "the idle thread has a capability": (
        ["if_unsafe_then_cap", "only_idle"],
        lambda m: m.set(m.slot(0, m.idle), m.cap("domain_cap")),
    ),
    # valid_queues
    "a ready thread in no queue": (
        ["valid_queues"],
        both(lambda m: m.ready_queue(70), lambda m: m.state(m.ready, "Running")),
    ),
    "a queue of the wrong priority": (["valid_queues"], lambda m: m.member(m.ready, "tcbPriority", 69)),
    "a queue of the wrong domain": (["valid_queues"], lambda m: m.member(m.ready, "tcbDomain", 1)),
    "a blocked thread in a ready queue": (["valid_queues"], lambda m: m.state(m.ready, "BlockedOnReply", queued=True)),
    "a thread that is not marked as queued": (["valid_queues"], lambda m: m.state(m.ready, "Running")),
    "a queue that loops": (["valid_queues"], lambda m: m.member(m.ready, "tcbSchedNext", m.tcb(m.ready))),
    "a queue that leads to nowhere": (["valid_queues"], lambda m: m.member(m.ready, "tcbSchedNext", 0x123456)),
    "a queue with a wrong way back": (["valid_queues"], lambda m: m.member(m.ready, "tcbSchedPrev", m.tcb(m.thread))),
    "a queue with a wrong end": (
        ["valid_queues"],
        lambda m: m.memory.put(m.var("ksReadyQueues") + 16 * 70 + 8, m.tcb(m.caller)),
    ),
    "a bit that was not cleared": (["valid_queues"], _put("ksReadyQueuesL2Bitmap", 1 << 6 | 1, 1)),
    "a bit that was not set": (["valid_queues"], both(_put("ksReadyQueuesL2Bitmap", 0, 1))),
    "a first-level bit that was not cleared": (["valid_queues"], _put("ksReadyQueuesL1Bitmap", 3)),
    # sym_refs
    "a sender in no queue": (["sym_refs"], lambda m: m.queue("endpoint", m.endpoint, "EPState_Idle")),
    "a sender in the queue of another endpoint": (
        ["sym_refs"],
        lambda m: m.state(m.sender, "BlockedOnSend", m.arena),
    ),
    "a thread that runs in a queue": (
        ["sym_refs", "valid_queues"],
        lambda m: m.state(m.sender, "Running"),
    ),
    "receivers in a queue of senders": (
        ["sym_refs"],
        lambda m: m.queue("endpoint", m.endpoint, "EPState_Recv", m.sender),
    ),
    "a queue of senders that loops": (["sym_refs"], lambda m: m.member(m.sender, "tcbEPNext", m.tcb(m.sender))),
    "a queue of waiters with a wrong way back": (
        ["sym_refs"],
        lambda m: m.member(m.waiter, "tcbEPPrev", m.tcb(m.sender)),
    ),
    "a binding that goes one way": (["sym_refs"], lambda m: m.member(m.thread, "tcbBoundNotification", 0)),
    "a binding that goes the other way": (
        ["sym_refs"],
        lambda m: m.queue("notification", m.bound, "NtfnState_Idle"),
    ),
    # replies
    "a reply capability to a thread that runs": (
        ["valid_queues", "valid_reply_caps"],
        lambda m: m.state(m.caller, "Restart"),
    ),
    "two reply capabilities to one thread": (
        ["valid_reply_caps"],
        lambda m: m.set(m.slot(60), m.cap("reply_cap", capTCBPtr=m.tcb(m.caller))),
    ),
    "a reply capability behind another's master": (
        ["valid_reply_caps"],
        lambda m: m.link(m.slot(2, m.ready), m.slot(3, m.thread)),
    ),
    "a master reply capability elsewhere": (
        ["valid_reply_masters"],
        lambda m: m.set(m.slot(60), m.cap("reply_cap", capTCBPtr=m.tcb(m.ready), capReplyMaster=1)),
    ),
    "a master reply capability of another thread": (
        ["valid_reply_masters"],
        lambda m: m.set(m.slot(2, m.ready), m.cap("reply_cap", capTCBPtr=m.tcb(m.sender), capReplyMaster=1)),
    ),
    "a thread that runs without its master": (
        ["valid_reply_masters"],
        lambda m: _clear_slot(m, m.slot(2, m.ready)),
    ),
    "a master that is not revocable": (
        ["valid_reply_masters"],
        lambda m: m.memory.put(m.slot(2, m.ready) + 16, *m.node(0, 0, revocable=False, first_badged=True)),
    ),
    # irq
    "a slot of the IRQ node with an endpoint": (
        ["valid_irq_node"],
        lambda m: m.set(m.slot(90, m.irq_node), m.cap("endpoint_cap", capEPPtr=m.virtual(m.endpoint))),
    ),
    "a notification for an interrupt that nobody has": (
        ["if_unsafe_then_cap", "valid_irq_node"],
        lambda m: m.set(m.slot(91, m.irq_node), m.cap("notification_cap", capNtfnPtr=m.virtual(m.bound))),
    ),
    "a handler of an interrupt that was not handed out": (
        ["valid_irq_handlers", "valid_irq_node"],
        _put("intStateIRQTable", 0, 90),
    ),
    "an interrupt that was handed out to nobody": (["valid_irq_handlers"], _put("intStateIRQTable", 1, 91)),
    "an impossible state of an interrupt": (["valid_irq_node"], _put("intStateIRQTable", 7, 91)),
    "no IRQ node": (["valid_irq_node"], _put("intStateIRQNode", 0)),
    # liveness
    "a thread that waits without a capability": (
        ["if_live_then_nonz_cap", "if_unsafe_then_cap"],
        lambda m: _clear_slot(m, m.slot(53)),
    ),
    "an endpoint with a queue and no capability": (
        ["if_live_then_nonz_cap"],
        lambda m: _clear_slot(m, m.slot(8)),
    ),
    "a bound notification without capability": (
        ["if_live_then_nonz_cap"],
        both(lambda m: _clear_slot(m, m.slot(55)), lambda m: _clear_slot(m, m.slot(90, m.irq_node))),
    ),
    "a zombie that is not the only capability": (
        ["zombies_final"],
        lambda m: m.set(m.slot(60), m.cap("zombie_cap", capZombieID=m.virtual(m.cnode) | 3, capZombieType=9)),
    ),
    "a capability behind the slots that a zombie has left": (
        ["if_unsafe_then_cap"],
        both(
            lambda m: m.set(
                m.slot(60), m.cap("zombie_cap", capZombieID=m.virtual(m.arena + 0x100) | 1, capZombieType=2)
            ),
            lambda m: m.set(m.slot(2, m.arena + 0x100), m.cap("domain_cap")),
        ),
    ),
}


@pytest.mark.parametrize("name", CAUGHT)
def test_violations_are_caught_by_what_they_break_alone(name: str) -> None:
    expected, change = CAUGHT[name]
    assert judged_after(change) == expected


def test_a_violation_names_object_field_and_both_values() -> None:
    machine = Machine()
    checker = machine.checker()
    machine.member(machine.ready, "tcbPriority", 69)
    (violation,) = checker.check(machine.memory, families=["threads"]).violations
    tcb = hex(machine.ready + machine.layout.tcb_offset)
    assert violation.object_kind == "tcb"
    assert violation.evidence["tcb"] == tcb and tcb in violation.message
    assert violation.evidence["field"] == "tcbPriority"
    assert violation.evidence["found"] == "69" and violation.evidence["expected"].startswith("70")
