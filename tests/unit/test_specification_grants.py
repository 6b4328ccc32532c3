# SPDX-License-Identifier: BSD-2-Clause
"""Which capabilities go along with a message, on a kernel state made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.kernel_state.memory import Ram
from harness.programs.descriptions import Action
from harness.programs.encodings import Decoded
from harness.specification.grants import Grants
from tests.unit.kernel_state_support import Machine

PAGE, ENDPOINT, GRANTING, SENDING, FREE_SLOT, CNODE = 60, 70, 71, 72, 90, 2
CALLS = {
    "Send": Action.SEND,
    "Reply": Action.SEND,
    "Recv": Action.RECEIVE,
    "CNode_Delete": Action.INVOKE,
}
NAMES = tuple(CALLS)
CAP = 1 << 7
"""Message information: one capability."""


@pytest.fixture(scope="module")
def machine() -> Machine:
    machine = Machine()
    endpoint = machine.virtual(machine.endpoint)
    machine.set(machine.slot(PAGE), machine.frame(machine.page + 0x1000))
    machine.set(machine.slot(ENDPOINT), machine.cap("endpoint_cap", capEPPtr=endpoint + 64, capCanSend=1))
    machine.set(machine.slot(GRANTING), machine.cap("endpoint_cap", capEPPtr=endpoint, capCanSend=1, capCanGrant=1))
    machine.set(machine.slot(SENDING), machine.cap("endpoint_cap", capEPPtr=endpoint, capCanSend=1))
    machine.set(machine.thread, machine.cap("cnode_cap", capCNodePtr=machine.virtual(machine.cnode),
                                            capCNodeRadix=7, capCNodeGuardSize=57))  # fmt: skip
    return machine


def message(name: str, target: int = 0, *caps: int, label: int = 0, words: tuple[int, ...] = ()) -> Decoded:
    return Decoded(NAMES.index(name), 0, 0, target, label << 12 | CAP * len(caps), words, caps)


def receive(index: int, depth: int = 64) -> Decoded:
    return message("Recv", GRANTING, words=(CNODE, index, depth))


def grants(machine: Machine, *calls: Decoded, changed: frozenset[int] | None = frozenset()) -> Grants:
    state = SimpleNamespace(layout=machine.layout, ram=Ram(machine.memory, machine.config.secure_ram))
    table = tuple(SimpleNamespace(name=name, action=action) for name, action in CALLS.items())
    interface = cast(Any, SimpleNamespace(calls=table))
    return Grants(cast(Any, state), interface, (machine.thread,), calls, range(len(calls)), changed)


def test_who_may_not_grant_brings_nothing(machine: Machine) -> None:
    sent = message("Send", SENDING, PAGE)
    assert not grants(machine, sent).may_bring(sent)
    assert not grants(machine, receive(FREE_SLOT), sent).must_bring(sent, 0)


@pytest.mark.parametrize("sent", [message("Send", GRANTING, PAGE), message("Reply", 0, PAGE)])
def test_who_may_grant_or_answers_brings_the_capability(machine: Machine, sent: Decoded) -> None:
    assert grants(machine, sent).may_bring(sent)
    assert grants(machine, receive(FREE_SLOT), sent).must_bring(sent, 0)


def test_a_capability_needs_an_empty_slot_and_a_badge_none(machine: Machine) -> None:
    sent, badge = message("Send", GRANTING, PAGE), message("Send", GRANTING, SENDING)
    for offer in (receive(PAGE), receive(FREE_SLOT, 1)):
        assert not grants(machine, offer, sent).must_bring(sent, 0)
        assert grants(machine, offer, badge).must_bring(badge, 0)


def test_what_has_no_copy_or_is_not_found_need_not_come(machine: Machine) -> None:
    for caps in ((FREE_SLOT + 1,), (PAGE, 1 << 40)):
        sent = message("Send", GRANTING, *caps)
        assert not grants(machine, receive(FREE_SLOT), sent).must_bring(sent, 0)


def test_nothing_is_known_of_what_may_have_changed(machine: Machine) -> None:
    sent, allowed = message("Send", SENDING, PAGE), message("Send", GRANTING, PAGE)
    slot = frozenset({(machine.slot(SENDING) - machine.config.secure_ram.base) // 8})
    offer = receive(FREE_SLOT)
    assert grants(machine, sent, changed=slot).may_bring(sent)
    assert grants(machine, sent, changed=None).may_bring(sent)
    assert grants(machine, message("CNode_Delete"), sent).may_bring(sent)
    assert grants(machine, message("Send", GRANTING, label=4), sent).may_bring(sent)
    assert not grants(machine, offer, allowed, message("CNode_Delete")).must_bring(allowed, 0)
