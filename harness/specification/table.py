# SPDX-License-Identifier: BSD-2-Clause
"""The whole table: by type of the invoked capability and label, the rules in the order in which the kernel looks.

The first rule that is broken decides the answer. An invocation that breaks none must succeed.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.specification.answers import DONE, ILLEGAL_OPERATION, Answer, NotCoveredError, invalid_capability
from harness.specification.cnodes import CNODE
from harness.specification.invocations import Invocation, Rules
from harness.specification.others import DOMAIN, IRQ_CONTROL, IRQ_HANDLER, SMC
from harness.specification.threads import THREAD
from harness.specification.untypeds import UNTYPED
from harness.specification.vspaces import ASID_CONTROL, ASID_POOL, FRAME, TABLES, VSPACE

RULES: dict[str, dict[str, Rules]] = {
    "cnode_cap": CNODE,
    "untyped_cap": UNTYPED,
    "thread_cap": THREAD,
    "frame_cap": FRAME,
    **TABLES,
    "page_global_directory_cap": VSPACE,
    "asid_control_cap": ASID_CONTROL,
    "asid_pool_cap": ASID_POOL,
    "irq_control_cap": IRQ_CONTROL,
    "irq_handler_cap": IRQ_HANDLER,
    "domain_cap": DOMAIN,
    "smc_cap": SMC,
}
SENDING = {"endpoint_cap": "capCanSend", "notification_cap": "capNtfnCanSend"}
"""Capabilities that are sent to, and the right to do so."""


@dataclass(frozen=True)
class Expected:
    """What an invocation must be answered, and the rule that says so; no answer if another thread gives it."""

    answer: Answer | None
    rule: str


def expected(call: Invocation, label: str) -> Expected:
    """What the kernel must answer to an invocation with a label (the name in the kernel's XML files, or "").

    Raises NotCoveredError where the table does not say.
    """
    type_ = call.cap.type
    if type_ in ("null_cap", "zombie_cap"):
        return Expected(invalid_capability(0), "an empty slot and a deleted object cannot be invoked")
    if type_ in SENDING:
        if not call.cap.field(SENDING[type_]):
            return Expected(invalid_capability(0), "the capability has the right to send")
        return Expected(None if type_ == "endpoint_cap" else DONE, "a message to an endpoint, or a signal")
    if type_ == "reply_cap":
        return _reply(call)
    if type_ not in RULES:
        raise NotCoveredError(f"capabilities of type {type_}")
    rules = RULES[type_].get(label)
    if rules is None:
        return Expected(ILLEGAL_OPERATION, "the object has no such invocation")
    for rule in rules:
        refused = rule.refusal(call)
        if refused is not None:
            return Expected(refused, rule.text)
    return Expected(DONE, "no rule is broken")


def _reply(call: Invocation) -> Expected:
    if call.cap.field("capReplyMaster"):
        return Expected(invalid_capability(0), "the master of the reply capabilities cannot be invoked")
    if call.target_thread == call.thread:
        raise NotCoveredError("a thread that answers itself")
    return Expected(DONE, "an answer to a thread that waits for it")
