# SPDX-License-Identifier: BSD-2-Clause
"""Which states count as new, and how many of them are worth a check."""

from __future__ import annotations

from types import SimpleNamespace

from harness.invariants.novelty import PROGRAMS_PER_CHECK, SAVED_CHECKS, Novelty
from harness.kernel_state.state import KernelState
from tests.unit.kernel_state_support import Machine


def test_a_state_is_new_once_and_links_do_not_make_it_new() -> None:
    machine = Machine()
    checker = machine.checker()
    observation = SimpleNamespace(memory=machine.memory)
    assert not checker.unusual(observation), "the snapshot is not new"
    machine.member(machine.caller, "tcbEPNext", machine.tcb(machine.ready))
    machine.member(machine.caller, "tcbFault", 5)
    assert not checker.unusual(observation)
    machine.state(machine.sender, "Inactive")
    assert checker.unusual(observation)
    assert not checker.unusual(observation)
    machine.queue("endpoint", machine.endpoint, "EPState_Idle")
    assert checker.unusual(observation)


def test_checks_of_new_states_stay_a_small_share() -> None:
    machine = Machine()
    novelty = Novelty(KernelState(machine.layout, machine.config, machine.memory))
    ram = KernelState(machine.layout, machine.config, machine.memory).ram
    programs, found = 40 * PROGRAMS_PER_CHECK, 0
    for number in range(programs):
        machine.memory.put(machine.var("ksCurThread"), number + 1)
        found += novelty.new(ram)
    assert SAVED_CHECKS <= found <= SAVED_CHECKS + programs // PROGRAMS_PER_CHECK
