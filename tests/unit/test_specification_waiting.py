# SPDX-License-Identifier: BSD-2-Clause
"""In which state a system call may leave its caller, on a kernel state made by hand."""

from __future__ import annotations

import pytest

from harness.kernel_state.memory import Ram
from harness.specification.memory import Memory
from harness.specification.waiting import wrong_wait
from tests.unit.kernel_state_support import Machine

FREE_SLOT, BADGE = 70, 5
ALL = {"capCanSend": 1, "capCanReceive": 1, "capCanGrant": 1}
SENDER = {"blockingIPCBadge": BADGE, "blockingIPCCanGrant": 1}


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine()


def wrong(
    machine: Machine,
    name: str,
    state: str,
    rights: dict[str, int] = ALL,
    blocking: dict[str, int] | None = None,
    fault: str = "NullFault",
) -> str:
    endpoint = machine.virtual(machine.endpoint)
    cap = machine.cap("endpoint_cap", capEPPtr=endpoint, capEPBadge=BADGE, **rights)
    machine.set(machine.slot(FREE_SLOT), cap)
    layout, first = machine.layout, machine.thread + machine.layout.tcb_offset
    tag = layout.union("seL4_Fault")
    words = layout.block("thread_state").encode(
        tsType=layout.constant(f"ThreadState_{state}"),
        **({"blockingObject": endpoint} | (blocking or {}) if state.startswith("BlockedOn") else {}),
    )
    machine.memory.put(first + layout.struct("tcb")["tcbState"].offset, *words)
    machine.memory.put(
        first + layout.struct("tcb")["tcbFault"].offset, *layout.block(fault).encode(seL4_FaultType=tag.values[fault])
    )
    memory = Memory(layout, Ram(machine.memory, machine.config.secure_ram))
    return wrong_wait(name, memory.slot(machine.slot(FREE_SLOT)).cap, memory, machine.thread)


@pytest.mark.parametrize(
    ("name", "state", "blocking"),
    [
        ("Send", "BlockedOnSend", SENDER),
        ("Call", "BlockedOnSend", {**SENDER, "blockingIPCIsCall": 1}),
        ("Call", "BlockedOnReply", None),
        ("Recv", "BlockedOnReceive", None),
        ("ReplyRecv", "BlockedOnReceive", None),
        ("NBSend", "Running", None),
        ("Call", "Restart", None),
    ],
)
def test_a_caller_waits_as_its_call_says(
    machine: Machine, name: str, state: str, blocking: dict[str, int] | None
) -> None:
    assert not wrong(machine, name, state, blocking=blocking)


@pytest.mark.parametrize(
    ("name", "state", "blocking", "text"),
    [
        ("Send", "BlockedOnReply", None, "BlockedOnReply and not BlockedOnSend"),
        ("Call", "Inactive", None, "Inactive and not BlockedOnSend or BlockedOnReply"),
        ("NBSend", "BlockedOnSend", SENDER, "not Restart or Running"),
        ("NBRecv", "BlockedOnReceive", None, "not Restart or Running"),
        ("Recv", "BlockedOnSend", SENDER, "not BlockedOnReceive"),
        ("Call", "BlockedOnSend", SENDER, "blockingIPCIsCall 0x0 and not 0x1"),
        ("Send", "BlockedOnSend", {**SENDER, "blockingIPCIsCall": 1}, "blockingIPCIsCall 0x1 and not 0x0"),
        ("Send", "BlockedOnSend", {**SENDER, "blockingIPCBadge": 6}, "blockingIPCBadge 0x6 and not 0x5"),
        ("Send", "BlockedOnSend", {"blockingIPCBadge": BADGE}, "blockingIPCCanGrant 0x0 and not 0x1"),
        ("Recv", "BlockedOnReceive", {"blockingObject": 0}, "blockingObject"),
    ],
)
def test_another_state_is_wrong(
    machine: Machine, name: str, state: str, blocking: dict[str, int] | None, text: str
) -> None:
    assert text in wrong(machine, name, state, blocking=blocking)


def test_who_may_not_grant_gets_no_answer(machine: Machine) -> None:
    rights = {"capCanSend": 1}
    assert not wrong(machine, "Call", "Inactive", rights)
    assert "BlockedOnReply and not" in wrong(machine, "Call", "BlockedOnReply", rights)


def test_nothing_is_said_without_the_right_nor_of_a_fault(machine: Machine) -> None:
    assert not wrong(machine, "Send", "Inactive", {"capCanReceive": 1})
    assert not wrong(machine, "Recv", "Inactive", {"capCanSend": 1})
    assert not wrong(machine, "NBSend", "BlockedOnReply", fault="VMFault")
