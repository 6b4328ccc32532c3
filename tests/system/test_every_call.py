# SPDX-License-Identifier: BSD-2-Clause
"""Every call of the kernel does its work: each succeeds in an example, and each new ability shows what it is for."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from harness.build.artefacts import PROJECT, Artefacts
from harness.execution.executor import Executor
from harness.execution.observation import Observation, Outcome
from harness.programs.descriptions import FAULTING_CALLS
from harness.programs.interfaces import Interface
from harness.programs.mix import Mix
from harness.programs.program import Program
from harness.protocol import CallState

EXAMPLES = PROJECT / "examples"
DEBUG = "calls:\n- {call: DebugPutChar, target: 34}\n- {call: DebugCapIdentify, target: inbox}\n"
USER_EXCEPTION, UNKNOWN_SYSCALL, CAP_FAULT, VM_FAULT = 3, 2, 1, 5


@pytest.fixture(scope="module")
def interface(artefacts: Artefacts) -> Interface:
    return Interface.load(artefacts)


def run(executor: Executor, interface: Interface, program: str | Path) -> Observation:
    text = program if isinstance(program, str) else program.read_text()
    observation = executor.run(Program.from_yaml(text, interface, str(program)[:40]).to_bytes())
    assert observation.status in (Outcome.DONE, Outcome.BLOCKED)
    return observation


def calls(*lines: str) -> str:
    return "calls:\n" + "".join(f"- {{{line}}}\n" for line in lines)


def states(observation: Observation) -> list[int]:
    return [int(state) for state in observation.results["state"]]


def succeeded(program: Program, observation: Observation) -> set[str]:
    """Names of the calls that did what they are for."""
    names = set()
    for call, result in zip(program.calls, observation.results, strict=True):
        faulted = result["state"] == CallState.FAULTED and call.name in FAULTING_CALLS
        if faulted or (result["state"] == CallState.DONE and not result["error"]):
            names.add(call.name)
    return names


def test_each_call_succeeds_in_an_example(executor: Executor, interface: Interface) -> None:
    names: set[str] = set()
    for path in sorted(EXAMPLES.glob("*.yaml")):
        program = Program.load(path, interface)
        names |= succeeded(program, executor.run(program.to_bytes()))
    if "DebugPutChar" in interface.index:
        program = Program.from_yaml(DEBUG, interface)
        observation = executor.run(program.to_bytes())
        names |= succeeded(program, observation)
        assert observation.console == '"'
    assert {call.name for call in interface.calls} - names == set()
    assert not executor.audit()


def test_faults_reach_their_handler_and_are_answered(executor: Executor, interface: Interface) -> None:
    observation = run(executor, interface, EXAMPLES / "fault-answered.yaml")
    labels = [int(info) >> 12 for info in observation.results["info"]]
    assert labels[:10:2] == [CAP_FAULT, VM_FAULT, UNKNOWN_SYSCALL, USER_EXCEPTION, CAP_FAULT]
    assert labels[9] == CAP_FAULT
    # Why the pointer found nothing: a missing capability, another guard, a path that is too long.
    assert [int(observation.results["mr"][call][3]) for call in (0, 8, 9)] == [2, 4, 3]
    assert states(observation)[10:] == [CallState.FAULTED] * 3
    assert list(observation.results["error"][10:]) == [UNKNOWN_SYSCALL, USER_EXCEPTION, VM_FAULT]


def test_interrupts_come_when_they_are_asked_for(executor: Executor, interface: Interface) -> None:
    observation = run(executor, interface, EXAMPLES / "interrupt-handler.yaml")
    assert not observation.results["error"].any()
    assert [int(badge) for badge in observation.results["badge"]].count(1) == 2
    # Without an acknowledgement the line stays masked: nobody signals, and the victim waits for ever.
    lines = ["call: IRQHandler_SetNotification, target: irq, with: {notification: bell}"]
    lines += ["call: Interrupt, with: {line: 90, count: 1}"] * 2
    lines += ["call: NBRecv, target: bell"] * 2
    assert not run(executor, interface, calls(*lines)).results["error"].any()
    assert not executor.audit()


def pendings(executor: Executor, observation: Observation) -> int:
    """How often EL3 made an interrupt pending."""
    number = executor.blocks.functions.index("make_pending")
    return int(observation.coverage[np.asarray(executor.blocks.function) == number].max(initial=0))


def test_a_long_operation_is_interrupted_and_goes_on(executor: Executor, interface: Interface) -> None:
    observation = run(executor, interface, EXAMPLES / "interrupted-revoke.yaml")
    assert not observation.results["error"].any()
    assert pendings(executor, observation) == 3 + 2 + 1
    # The time slice ends halfway through: the other victim of the same priority runs in between.
    retype = "call: Untyped_Retype, target: arena, with: {type: endpoint, node_offset: 'free:2', num_objects: 8}"
    revoke = "call: CNode_Revoke, target: cnode, with: {index: arena}"
    lines = [retype, "call: Interrupt, with: {line: 29, count: 5, next_call: 1}", revoke]
    lines += ["call: Yield, victim: normal-world", retype]
    observation = run(executor, interface, calls(*lines))
    assert states(observation) == [CallState.DONE] * 5
    assert not observation.results["error"].any()
    assert pendings(executor, observation) == 5


def test_each_thread_has_its_own_floating_point_registers(executor: Executor, interface: Interface) -> None:
    observation = run(executor, interface, EXAMPLES / "floating-point.yaml")
    assert states(observation) == [CallState.DONE] * len(observation.results)
    read = [int(mr[0]) for name, mr in zip(names_of(interface), observation.results["mr"], strict=True) if name]
    assert read == [0, 1, 0, 0x10, 2, 3, 0x40]
    hit = set(np.asarray(executor.blocks.function)[observation.coverage > 0])
    entered = {executor.blocks.functions[number] for number in hit}
    assert "switchLocalFpuOwner" in entered
    assert not executor.audit()


def names_of(interface: Interface) -> list[bool]:
    """Which calls of the example access the registers."""
    program = Program.load(EXAMPLES / "floating-point.yaml", interface)
    return [call.name == "FloatingPoint" for call in program.calls]


def test_the_address_of_a_frame_is_shown(executor: Executor, interface: Interface) -> None:
    lines = [
        f"call: ARM_Page_GetAddress, target: {name}" for name in ("page-s-mapped", "page-s-copy", "page-n", "inbox")
    ]
    observation = run(executor, interface, calls(*lines))
    addresses = [int(mr[0]) for mr in observation.results["mr"]]
    assert addresses[0] == addresses[1] and addresses[0] >> 24 == 0x0E
    assert addresses[2] >= 0x40200000 and not addresses[2] % 0x1000


def test_messages_carry_capabilities(executor: Executor, interface: Interface) -> None:
    observation = run(executor, interface, EXAMPLES / "long-message.yaml")
    assert not observation.results["error"].any()
    info = int(observation.results["info"][0])
    assert info & 0x7F == 120
    assert info >> 7 & 3 == 2, "one capability is copied, one unwrapped, and the third finds no slot"
    assert list(observation.results["mr"][5][:4]) == [2, 0, 0, 1]
    assert not executor.audit()


def test_a_victim_of_another_domain_takes_its_turns(executor: Executor, interface: Interface) -> None:
    observation = run(executor, interface, EXAMPLES / "domains-and-priorities.yaml")
    found = states(observation)
    assert found[11] == CallState.STARTED, "it suspended itself"
    assert found[:11] + found[12:] == [CallState.DONE] * 12


LOST = {
    "blocked": "call: Recv, victim: {0}, target: channel",
    "suspended": "call: TCB_Suspend, victim: {0}, target: tcb",
    "without a space": "call: TCB_SetSpace, victim: {0}, target: tcb, with: {{cspace_root_data: 1, fault_ep: lost}}",
    "without its turn": "call: CNode_Delete, victim: {0}, target: cnode, with: {{index: {1}}}",
    "of priority 0": "call: TCB_SetPriority, victim: {0}, target: tcb, with: {{priority: 0}}",
    "without memory": "call: ARM_PageDirectory_Unmap, victim: {0}, target: pd",
}


@pytest.mark.parametrize("victim", ["secure", "normal-world"])
@pytest.mark.parametrize("how", LOST)
def test_a_victim_that_is_lost_stops_nobody_else(
    executor: Executor, interface: Interface, victim: str, how: str
) -> None:
    number = [each.name for each in interface.population.victims].index(victim)
    other = "normal-world" if victim == "secure" else "secure"
    lines = [LOST[how].format(victim, interface.population.first_turn_slot + number)]
    lines += [f"call: Yield, victim: {each}" for each in (other, "high", victim, "low", other, victim)]
    found = states(run(executor, interface, calls(*lines)))
    assert [found[call] for call in (1, 2, 4, 5)] == [CallState.DONE] * 4
    if how in ("without its turn", "of priority 0"):
        assert found[3] == found[6] == CallState.DONE, "the warden gives it its turns"
    assert not executor.audit()


def test_stores_reach_ram_only(executor: Executor, interface: Interface) -> None:
    addresses = interface.population.addresses
    lines = [
        "call: Store, target: 0x10000000, with: {offset: 8, value: 3}",
        "call: Store, target: 0x40000000, with: {offset: 0x200000, value: 3}",
        f"call: Store, target: {addresses.state:#x}, with: {{offset: 0x40, value: 3}}",
        f"call: Store, target: {addresses.exchange:#x}, with: {{offset: 8, value: 3}}",
        f"call: Store, target: {addresses.state:#x}, with: {{offset: 0x800, value: 3}}",
        "call: ARM_Page_Map, target: page-virtio, with: {vaddr: 0x10003000, rights: read-write}",
        "call: Store, target: 0x10003000, with: {offset: 8, value: 3}",
        f"call: Jump, target: {addresses.code:#x}",
        "call: Store, target: 0x10001000, with: {value: 3}",
    ]
    observation = run(executor, interface, calls(*lines))
    assert list(observation.results["error"]) == [0, 0, 0, 1, 1, 0, 1, 1, VM_FAULT]
    assert int(observation.report["stores"]) == 3
    assert not executor.audit()


@pytest.mark.parametrize("frame", ["large-s", "large-n", "huge-n", "page-n", "page-s"])
def test_what_the_kernel_writes_to_buffers_is_undone(executor: Executor, interface: Interface, frame: str) -> None:
    """The victim's IPC buffer lies far inside a large frame, and a message of 120 words comes."""
    lines = [
        f"call: TCB_SetIPCBuffer, target: tcb, with: {{buffer: 0x3f1fe400, bufferFrame: {frame}}}",
        "call: Recv, victim: secure, target: channel",
        "call: Send, victim: normal-world, target: channel, with: {length: 120, mr3: 2 step 1}",
        "call: Yield",
    ]
    observation = run(executor, interface, calls(*lines))
    assert int(observation.results["info"][1]) & 0x7F == 120
    assert not executor.audit()


def test_the_mix_leaves_nothing_behind(executor: Executor, interface: Interface) -> None:
    """Programs of the full grammar, most of whose calls succeed."""
    mix = Mix(interface, 5)
    done = count = 0
    for _ in range(300):
        observation = executor.run(mix.program().to_bytes())
        done += int(((observation.results["state"] == CallState.DONE) & (observation.results["error"] == 0)).sum())
        count += observation.calls
    assert done > 0.7 * count
    assert not executor.audit()


def test_with_interrupts_it_does_the_same_every_time(executor: Executor, interface: Interface) -> None:
    noise = random.Random(4)
    for name in ("interrupted-revoke", "domains-and-priorities", "interrupt-handler"):
        data = Program.load(EXAMPLES / f"{name}.yaml", interface).to_bytes()
        seen = set()
        for _ in range(20):
            observation = executor.run(data)
            pages = b"".join(page.tobytes() for page in observation.pages)
            seen.add((observation.results.tobytes(), observation.coverage.tobytes(), pages))
            executor.run(noise.randbytes(320))
        assert len(seen) == 1
