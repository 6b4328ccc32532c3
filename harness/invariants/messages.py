# SPDX-License-Identifier: BSD-2-Clause
"""messages: what a victim receives is what somebody has sent."""

from __future__ import annotations

from typing import Any

from harness.invariants.definitions import Context, Judgement, Request, invariant
from harness.invariants.wrong_answers import FAMILY, judge_program
from harness.kernel_state.memory import Ram
from harness.specification.messages import MessageOracle

ID = "messages"


def compare(oracle: MessageOracle, program: bytes, observation: Any) -> Judgement:
    """Compare the messages that a program's calls received; what nobody seems to have sent is a request.

    Raises a MachineError for an observation that is over.
    """
    judgement = Judgement()
    judgement.judged, strange = oracle.compare(program, observation.results, observation.changed_words)
    for index, message in strange.items():
        judgement.requests.append(Request(ID, index, oracle.question(program, index, message)))
    return judgement


@invariant(ID, family=FAMILY, reference="docs/specification.md")
def messages(context: Context) -> Judgement:
    """Each message that was received has label, words and capabilities of one that was sent."""
    oracle = context.messages
    return judge_program(context, lambda *told: compare(oracle, *told)) if oracle is not None else Judgement()


def resolve(oracle: MessageOracle, request: Request, ram: Ram) -> Judgement:
    """Judge a message by the state right before the call that received it."""
    judgement, evidence = Judgement(1), request.evidence
    if oracle.resolve(evidence, ram):
        message = f"call {request.call} ({evidence['victim']}: {evidence['name']}) received what nobody has sent"
        judgement.fail(f"{message}: {evidence['received']}", "message", call=request.call, **evidence)
    return judgement
