# SPDX-License-Identifier: BSD-2-Clause
"""Views of threads, queues and derivation on a state made by hand; nothing that memory holds makes a walk endless."""

from __future__ import annotations

import numpy as np

from harness.kernel_state.page_tables import translate
from harness.kernel_state.state import KernelState
from harness.kernel_state.threads import walk_queue
from tests.unit.kernel_state_support import Machine


def state_of(machine: Machine) -> KernelState:
    return KernelState(machine.layout, machine.config, machine.memory, report=machine.report[0])


def test_threads_say_what_the_kernel_knows_of_them() -> None:
    machine = Machine()
    threads = state_of(machine).threads
    rows = {name: threads.row_of[getattr(machine, name) + machine.layout.tcb_offset] for name in ("ready", "sender")}
    assert threads.state_name(rows["sender"]) == "BlockedOnSend"
    described = threads.describe(rows["ready"])
    assert (described["tcbPriority"], described["tcbQueued"], described["tsType"]) == (70, 1, "Running")
    assert threads.in_state("BlockedOnSend", "BlockedOnReply").sum() == 2


def test_objects_and_queues_are_found() -> None:
    machine = Machine()
    state = state_of(machine)
    endpoint = state.endpoints.row_of[machine.endpoint]
    assert state.endpoints.state_name(endpoint) == "EPState_Send"
    assert int(state.endpoints.head[endpoint]) == machine.sender + machine.layout.tcb_offset
    assert set(state.notifications.address.tolist()) == {machine.notification, machine.bound}
    assert state.ready_queues.used == [(0, 70)]
    assert state.ready_queues.head.shape == (2, 128)


def test_a_queue_that_loops_or_leads_nowhere_ends() -> None:
    machine = Machine()
    tcb = machine.layout.tcb_offset
    machine.link_threads("tcbEP", machine.sender, machine.waiter, machine.caller)
    threads = state_of(machine).threads
    whole = walk_queue(threads, machine.sender + tcb, machine.caller + tcb, threads.links("tcbEP"), "tcbEP")
    assert (len(whole.rows), whole.problems) == (3, [])
    machine.member(machine.caller, "tcbEPNext", machine.tcb(machine.waiter))
    threads = state_of(machine).threads
    loop = walk_queue(threads, machine.sender + tcb, 0, threads.links("tcbEP"), "tcbEP")
    assert len(loop.rows) == 3 and loop.problems[0][1] == "tcbEPNext"
    nowhere = walk_queue(threads, 0x123456, 0, threads.links("tcbEP"), "tcbEP")
    assert nowhere.rows == [] and nowhere.problems[0][1:3] == ("head", "0x123456")


def test_untypeds_nest_and_hold_their_descendants() -> None:
    machine = Machine()
    machine.set(machine.slot(20), machine.untyped(machine.arena, 18, 0x20000))
    machine.set(machine.slot(60), machine.untyped(machine.arena + 0x10000, 16))
    machine.link(machine.slot(20), machine.slot(60), machine.slot(21))
    state = state_of(machine)
    base = np.array([machine.arena + 0x10010, machine.arena, machine.page], np.uint64)
    innermost = state.derivation.innermost(base, base + np.uint64(15))
    outer, inner, child = state.caps.rows_at(np.array([machine.slot(n) for n in (20, 60, 21)], np.uint64)).tolist()
    assert innermost.tolist() == [inner, outer, -1]
    assert state.derivation.descendants.holds(outer, child) and not state.derivation.descendants.holds(inner, child)


def test_addresses_are_translated_as_the_tables_say() -> None:
    machine = Machine()
    ram = state_of(machine).ram
    virtual = np.array([0x18, 0x1008, (1 << 21) + 5, (1 << 30) + 7, 0x5000, 1 << 46], np.uint64)
    found, mapped = translate(ram, machine.pgd, virtual)
    assert mapped.tolist() == [True] * 4 + [False] * 2
    expected = [machine.page + 0x18, machine.normal + 8, machine.large + 5, machine.huge + 7]
    assert found[:4].tolist() == expected
    assert not translate(ram, 0x123000, virtual)[1].any()
