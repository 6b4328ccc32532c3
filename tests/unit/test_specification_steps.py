# SPDX-License-Identifier: BSD-2-Clause
"""What calls do to threads: the scheduler, messages, signals and faults, on threads made by hand."""

from __future__ import annotations

import pytest

from harness.kernel_state.layout import Layout
from harness.kernel_state.state import KernelState
from harness.specification.answers import NotCoveredError
from harness.specification.steps.moves import FIRST_MESSAGE, INFO, Moves
from harness.specification.steps.scene import (
    INACTIVE,
    NO_FAULT,
    ON_RECEIVE,
    ON_REPLY,
    ON_SEND,
    ON_SIGNAL,
    REGISTERS,
    RESTART,
    RUNNING,
    Endpoint,
    Notification,
    Scene,
    Thread,
)
from tests.unit.kernel_state_support import Machine

CURRENT, OTHER, THIRD, IDLE = 0x1000, 0x2000, 0x3000, 0x4000
ENDPOINT, NOTIFICATION = 0x100, 0x200
SLICE = 5


@pytest.fixture(scope="module")
def layout() -> Layout:
    return Machine().layout


def thread(state: str, priority: int = 100, **members: int) -> Thread:
    made = Thread("", state, [0] * REGISTERS, {"tcbBuffer": (0, 0)}, priority=priority, slice=SLICE)
    for name, value in members.items():
        setattr(made, name, value)
    return made


def moves(layout: Layout, other: Thread, third: Thread | None = None) -> Moves:
    """The current thread has priority 100; the others wait where they say."""
    threads = {
        CURRENT: thread(RUNNING),
        OTHER: other,
        THIRD: third or thread(INACTIVE),
        IDLE: thread("IdleThreadState", 0),
    }
    waiting = {
        name: [t for t, one in threads.items() if one.state == name] for name in (ON_SEND, ON_RECEIVE, ON_SIGNAL)
    }
    state = "Send" if waiting[ON_SEND] else "Recv" if waiting[ON_RECEIVE] else "Idle"
    endpoint = Endpoint(state, waiting[ON_SEND] + waiting[ON_RECEIVE])
    notification = Notification("Waiting" if waiting[ON_SIGNAL] else "Idle", waiting[ON_SIGNAL], 0, 0)
    for one in threads.values():
        one.object = {ON_SEND: ENDPOINT, ON_RECEIVE: ENDPOINT, ON_SIGNAL: NOTIFICATION}.get(one.state, 0)
    scene = Scene(threads, {ENDPOINT: endpoint}, {NOTIFICATION: notification}, {}, CURRENT, IDLE, 0, 8)
    return Moves(scene, SLICE, layout=layout)


@pytest.mark.parametrize(("priority", "runs"), [(99, CURRENT), (100, CURRENT), (101, OTHER)])
def test_who_is_resumed_runs_only_before_one_of_lower_priority(layout: Layout, priority: int, runs: int) -> None:
    made = moves(layout, thread(INACTIVE, priority))
    made.restart(OTHER)
    made.finish()
    assert made.scene.current == runs
    assert made.scene.ready == ({(0, priority): [OTHER]} if runs == CURRENT else {(0, 100): [CURRENT]})


@pytest.mark.parametrize(("priority", "runs"), [(99, CURRENT), (100, OTHER), (101, OTHER)])
def test_who_gets_a_message_runs_before_one_of_the_same_priority(layout: Layout, priority: int, runs: int) -> None:
    made = moves(layout, thread(ON_RECEIVE, priority))
    made.send(CURRENT, ENDPOINT, 7, grant=True, is_call=False, blocking=True)
    made.finish()
    assert made.scene.current == runs and made.scene.threads[OTHER].state == RUNNING
    assert made.scene.endpoints[ENDPOINT] == Endpoint("Idle", [])


def test_who_becomes_ready_comes_first_and_who_gives_way_last(layout: Layout) -> None:
    made = moves(layout, thread(RUNNING), thread(RUNNING))
    made.make_ready(OTHER)
    made.make_ready(THIRD)
    made.give_way(CURRENT)
    made.choose_again()
    assert made.scene.ready == {(0, 100): [THIRD, OTHER, CURRENT]}
    made.finish()
    assert made.scene.current == THIRD and made.scene.ready == {(0, 100): [OTHER, CURRENT]}


def test_nobody_is_left_but_the_idle_thread(layout: Layout) -> None:
    made = moves(layout, thread(INACTIVE))
    made.suspend(CURRENT)
    made.finish()
    assert made.scene.current == IDLE


def test_a_time_slice_ends_after_its_last_tick(layout: Layout) -> None:
    made = moves(layout, thread(RUNNING))
    made.make_ready(OTHER)
    for left in range(SLICE - 1, 0, -1):
        made.tick()
        made.finish()
        assert (made.scene.current, made.scene.threads[CURRENT].slice) == (CURRENT, left)
    made.tick()
    made.finish()
    assert (made.scene.current, made.scene.threads[CURRENT].slice) == (OTHER, SLICE)
    with pytest.raises(NotCoveredError):
        for _ in range(8):
            made.tick()


def test_a_call_waits_for_its_answer_and_gets_it(layout: Layout) -> None:
    made = moves(layout, thread(ON_RECEIVE, 50))
    made.scene.threads[CURRENT].registers[INFO] = 5 << 12 | 0b01 << 7 | 6
    made.scene.threads[CURRENT].registers[FIRST_MESSAGE : FIRST_MESSAGE + 4] = [1, 2, 3, 4]
    made.send(CURRENT, ENDPOINT, 7, grant=True, is_call=True, blocking=True)
    made.finish()
    taker = made.scene.threads[OTHER]
    assert taker.registers[:6] == [7, 5 << 12 | 4, 1, 2, 3, 4], (
        "without a buffer: what fits into registers, and no capability"
    )
    assert made.scene.current == OTHER and taker.caller == CURRENT
    assert made.scene.threads[CURRENT].state == ON_REPLY
    made.answer(OTHER, CURRENT)
    made.finish()
    assert made.scene.current == CURRENT and not taker.caller


def test_a_call_without_the_right_to_grant_ends_its_thread(layout: Layout) -> None:
    made = moves(layout, thread(ON_RECEIVE, 50))
    made.send(CURRENT, ENDPOINT, 7, grant=False, is_call=True, blocking=True)
    assert made.scene.threads[CURRENT].state == INACTIVE and not made.scene.threads[OTHER].caller


def test_senders_are_served_in_order(layout: Layout) -> None:
    made = moves(layout, thread(ON_SEND, 50, badge=1), thread(ON_SEND, 50, badge=2, may_grant=1, is_call=1))
    made.receive(CURRENT, ENDPOINT, blocking=True)
    assert made.scene.threads[CURRENT].registers[0] == 1 and made.scene.threads[OTHER].state == RUNNING
    made.receive(CURRENT, ENDPOINT, blocking=True)
    assert made.scene.threads[CURRENT].registers[0] == 2 and made.scene.threads[THIRD].state == ON_REPLY
    made.receive(CURRENT, ENDPOINT, blocking=False)
    assert made.scene.threads[CURRENT].registers[0] == 0 and made.scene.threads[CURRENT].state == RUNNING


def test_signals_are_collected_until_somebody_takes_them(layout: Layout) -> None:
    made = moves(layout, thread(ON_SIGNAL, 50))
    for badge in (1, 2, 4):
        made.signal(NOTIFICATION, badge)
    assert made.scene.threads[OTHER].registers[0] == 1 and made.scene.threads[OTHER].state == RUNNING
    made.take_signal(CURRENT, NOTIFICATION, blocking=True)
    assert made.scene.threads[CURRENT].registers[0] == 6 and made.scene.notifications[NOTIFICATION].state == "Idle"


def test_a_signal_reaches_a_bound_thread_that_waits_for_a_message(layout: Layout) -> None:
    made = moves(layout, thread(ON_RECEIVE, 50, bound=NOTIFICATION))
    made.scene.notifications[NOTIFICATION].bound = OTHER
    made.signal(NOTIFICATION, 3)
    assert made.scene.threads[OTHER].state == RUNNING and made.scene.threads[OTHER].registers[0] == 3
    assert made.scene.endpoints[ENDPOINT] == Endpoint("Idle", [])


def fault(layout: Layout, name: str, **fields: int) -> tuple[int, int]:
    tag = layout.union("seL4_Fault").values[name]
    low, high = layout.block(name).encode(seL4_FaultType=tag, **fields)
    return low, high


def test_a_fault_is_told_and_its_thread_goes_on_with_the_answer(layout: Layout) -> None:
    faulting = thread(ON_SEND, 50, may_grant=1)
    faulting.fault = fault(layout, "UserException", number=3, code=4)
    faulting.registers[34], faulting.registers[31], faulting.registers[33] = 0x40, 0x50, 0x60000340
    made = moves(layout, faulting)
    made.receive(CURRENT, ENDPOINT, blocking=True)
    current = made.scene.threads[CURRENT]
    assert current.registers[INFO] == 3 << 12 | 4 and current.registers[2:6] == [0x40, 0x50, 0x60000340, 3]
    assert current.caller == OTHER and faulting.state == ON_REPLY
    current.registers[INFO], current.registers[2:5] = 3, [0x44, 0x54, 0xFFFFFFFF]
    made.answer(CURRENT, OTHER)
    assert faulting.registers[34] == 0x44 and faulting.registers[33] == 0xF0000340, "of the status only the flags"
    assert faulting.state == RESTART and faulting.fault == NO_FAULT and not current.caller


def test_an_answer_with_a_label_stops_a_thread_that_faulted(layout: Layout) -> None:
    faulting = thread(ON_REPLY, 50)
    faulting.fault = fault(layout, "UnknownSyscall", syscallNumber=3)
    made = moves(layout, faulting)
    made.scene.threads[CURRENT].registers[INFO] = 1 << 12
    made.answer(CURRENT, OTHER)
    assert faulting.state == INACTIVE and made.scene.ready == {}


@pytest.mark.parametrize(("state", "left"), [(ON_REPLY, False), (ON_SEND, True)])
def test_a_fault_is_forgotten_with_the_wait_for_its_answer(layout: Layout, state: str, left: bool) -> None:
    faulting = thread(state, 50)
    faulting.fault = fault(layout, "VMFault", address=8)
    made = moves(layout, faulting)
    made.suspend(OTHER)
    assert faulting.state == INACTIVE and (faulting.fault != NO_FAULT) is left


def test_a_scene_reads_what_the_kernel_keeps() -> None:
    machine = Machine()
    state = KernelState(machine.layout, machine.config, machine.memory)
    scene = Scene.of(state)
    assert scene.threads.keys() == set(state.threads.tcb.tolist())
    assert {tcb: one.state for tcb, one in scene.threads.items()} == {
        tcb: state.threads.state_name(row) for row, tcb in enumerate(state.threads.tcb.tolist())
    }
    assert scene.current == state.pointer("ksCurThread") and scene.ready.keys() == set(state.ready_queues.used)
