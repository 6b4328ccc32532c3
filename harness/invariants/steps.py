# SPDX-License-Identifier: BSD-2-Clause
"""steps: a program's last call has done to threads what the table of harness/specification/steps says, and no more."""

from __future__ import annotations

from typing import Any

from harness.invariants.definitions import Context, Judgement, Request, invariant
from harness.invariants.wrong_answers import FAMILY, judge_program
from harness.kernel_state.state import KernelState
from harness.specification.steps.oracle import StepOracle

ID = "steps"
_QUESTION = "question"


def compare(oracle: StepOracle, program: bytes, observation: Any, state: KernelState) -> Judgement:
    """Ask for the state before a program's last call, where the table says what it does.

    Raises a MachineError for an observation that is over.
    """
    judgement = Judgement()
    question = oracle.question(program, observation.results, observation.changed_words, state)
    if question is not None:
        judgement.judged = 1
        judgement.requests.append(Request(ID, len(question.calls) - 1, {_QUESTION: question}))
    return judgement


@invariant(ID, family=FAMILY, reference="docs/specification.md")
def steps(context: Context) -> Judgement:
    """The last call of a program has done to threads, queues and the scheduler what it must, and nothing else."""
    oracle = context.steps
    if oracle is None:
        return Judgement()

    def judge(program: bytes, observation: Any) -> Judgement:
        return compare(oracle, program, observation, context.state)

    return judge_program(context, judge)


def resolve(oracle: StepOracle, request: Request, state: KernelState) -> Judgement:
    """Judge a call by the state right before it."""
    judgement = Judgement(1)
    difference = oracle.resolve(request.evidence[_QUESTION], state)
    if difference is not None:
        judgement.fail(difference.message, difference.label, **difference.evidence)
    return judgement
