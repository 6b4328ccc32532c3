# SPDX-License-Identifier: BSD-2-Clause
"""answers: the kernel answers each invocation as the table of harness/specification says."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from harness.errors import BothworldsError
from harness.invariants.definitions import Context, Judgement, Request, invariant
from harness.kernel_state.memory import Ram
from harness.specification.oracle import AnswerOracle

ID = FAMILY = "answers"
"""The family judges what a program was told, and not the state that it left."""


class Answers(Enum):
    """Which answers of a program are compared where it is judged by what it changed."""

    NOW_AND_THEN = auto()
    """All, of one program in many, and of one in some those that the snapshot tells."""
    KNOWN = auto()
    """Those that the snapshot tells, of every program; and all, of one program in many."""
    ALL = auto()


def compare(oracle: AnswerOracle, program: bytes, observation: Any, *, known: bool = False) -> Judgement:
    """Compare the answers of a program; what seems wrong is a request, and what the snapshot does not tell.

    `known`: leave the latter out, for which the program has to run again.

    Raises a MachineError for an observation that is over.
    """
    results = observation.results
    comparison = oracle.compare(program, results, observation.changed_words)
    judgement = Judgement(comparison.covered)
    for index in comparison.wrong if known else sorted({*comparison.wrong, *comparison.open}):
        judgement.requests.append(Request(ID, index, oracle.question(program, results, index)))
    return judgement


def judge_program(context: Context, judge: Callable[[bytes, Any], Judgement]) -> Judgement:
    """Judge a program by its bytes and its observation; nothing, where one of them is not there."""
    observation, authority = context.observation, context.smc
    if observation is None or authority is None:
        return Judgement()
    try:
        program = authority.program_of(context.state.memory, observation.calls)
        return judge(program, observation) if program is not None else Judgement()
    except BothworldsError:
        # The results are gone with the next program; the state is still there to be judged.
        return Judgement()


@invariant(ID, family=FAMILY, reference="docs/specification.md")
def answers(context: Context) -> Judgement:
    """Every invocation is answered as the manual says: the first error whose rule it breaks, otherwise success."""
    oracle = context.answers
    return judge_program(context, lambda *told: compare(oracle, *told)) if oracle is not None else Judgement()


def resolve(oracle: AnswerOracle, request: Request, ram: Ram) -> Judgement:
    """Judge a call by the state right before it."""
    judgement = Judgement(1)
    difference = oracle.resolve(request.call, request.evidence, ram)
    if difference is not None:
        judgement.fail(difference.message, difference.label, **difference.evidence)
    return judgement
