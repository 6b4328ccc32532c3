# SPDX-License-Identifier: BSD-2-Clause
"""effects: a program's last call has done what it is for, as the tables of harness/specification say."""

from __future__ import annotations

from typing import Any

from harness.invariants.definitions import Context, Judgement, invariant
from harness.invariants.wrong_answers import ID as ANSWERS
from harness.invariants.wrong_answers import judge_program
from harness.kernel_state.memory import Ram
from harness.specification.oracle import AnswerOracle

ID = "effects"


def compare(oracle: AnswerOracle, program: bytes, observation: Any, ram: Ram) -> Judgement:
    """Look for what the last call of a program must have done in the state that it left.

    Raises a MachineError for an observation that is over.
    """
    judgement = Judgement(1)
    difference = oracle.effect(program, observation.results, observation.changed_words, ram)
    if difference is not None:
        judgement.fail(difference.message, difference.label, **difference.evidence)
    return judgement


@invariant(ID, family=ANSWERS, reference="docs/specification.md")
def effects(context: Context) -> Judgement:
    """The last call of a program has done what it is for, if it succeeded; its caller waits for the right thing."""
    oracle = context.answers
    if oracle is None:
        return Judgement()

    def judge(program: bytes, observation: Any) -> Judgement:
        return compare(oracle, program, observation, context.state.ram) if program else Judgement()

    return judge_program(context, judge)
