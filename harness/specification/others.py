# SPDX-License-Identifier: BSD-2-Clause
"""Rules of the invocations of interrupts, domains and secure monitor calls."""

from __future__ import annotations

from harness.specification.answers import (
    ILLEGAL_OPERATION,
    REVOKE_FIRST,
    TRUNCATED_MESSAGE,
    Answer,
    invalid_argument,
    invalid_capability,
    range_error,
)
from harness.specification.cnodes import empty
from harness.specification.invocations import Invocation, Rule, Rules, lookup, message, refuse

SMC_REGISTERS = 8
_IRQ_MASK = 0xFFFF
"""The kernel numbers interrupts in 16 bits (irq_t)."""
_PRIORITIES = 256
_QUEUE_WORDS = 2


def _line(call: Invocation) -> int:
    return call.word(0) & _IRQ_MASK


def _no_line(call: Invocation) -> Answer | None:
    last = call.memory.words_of("intStateIRQTable") - 1
    return range_error(0, last) if _line(call) > last else None


IRQ_CONTROL: dict[str, Rules] = {
    "IRQIssueIRQHandler": (
        message(3, 1),
        Rule("there is such an interrupt", _no_line),
        refuse(
            "the interrupt has no handler, and is not the kernel's",
            lambda call: call.memory.variable("intStateIRQTable", _line(call)) != 0,
            REVOKE_FIRST,
        ),
        lookup("index and depth name a slot under the root", lambda call: call.given(0), 1),
        empty("the slot is empty", lambda call: call.found(call.given(0), 1)),
    ),
}


def _no_signal(call: Invocation) -> bool:
    cap = call.given(0)
    return cap.type != "notification_cap" or not cap.field("capNtfnCanSend")


IRQ_HANDLER: dict[str, Rules] = {
    "IRQAckIRQ": (),
    "IRQClearIRQHandler": (),
    "IRQSetIRQHandler": (
        message(0, 1),
        refuse("the notification may be signalled", _no_signal, invalid_capability(0)),
    ),
}


def _no_domain(call: Invocation) -> bool:
    return call.word(0) >= call.memory.words_of("ksReadyQueues") // (_QUEUE_WORDS * _PRIORITIES)


DOMAIN: dict[str, Rules] = {
    "DomainSetSet": (
        message(1),
        refuse("there is such a domain", _no_domain, invalid_argument(0)),
        refuse("the message names a thread", lambda call: not call.extra, TRUNCATED_MESSAGE),
        refuse("a thread is given", lambda call: call.given(0).type != "thread_cap", invalid_argument(1)),
    ),
}
SMC: dict[str, Rules] = {
    "ARMSMCCall": (
        message(SMC_REGISTERS),
        refuse(
            "the badge is 0 or the function",
            lambda call: call.cap.field("capSMCBadge") not in (0, call.word(0)),
            ILLEGAL_OPERATION,
        ),
    ),
}
