# SPDX-License-Identifier: BSD-2-Clause
"""effects: a program's calls have done what they are for, as the tables of harness/specification say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.invariants.definitions import Context, Judgement, Request, invariant
from harness.invariants.wrong_answers import ID as ANSWERS
from harness.invariants.wrong_answers import judge_program
from harness.kernel_state.memory import Ram
from harness.kernel_state.state import KernelState
from harness.specification.consequences import CONSEQUENCES
from harness.specification.oracle import AnswerOracle
from harness.specification.transitions import Changes, difference

ID = "effects"


def compare(oracle: AnswerOracle, program: bytes, observation: Any, ram: Ram, *, ask: int | None = None) -> Judgement:
    """Look for what the last call of a program must have done in the state that it left.

    What each invocation must have written is a request, for which the program runs again up to it, and with it;
    `ask`: of so many calls at most, the last ones.

    Raises a MachineError for an observation that is over.
    """
    judgement = Judgement(1)
    results, changed = observation.results, observation.changed_words
    found = oracle.effect(program, results, changed, ram)
    if found is not None:
        judgement.fail(found.message, found.label, **found.evidence)
    calls = oracle.looked_at(program, results, changed, CONSEQUENCES) if ask != 0 else []
    for index in calls if ask is None else calls[-ask:]:
        judgement.requests.append(Request(ID, index, oracle.question(program, results, index)))
    return judgement


@invariant(ID, family=ANSWERS, reference="docs/specification.md")
def effects(context: Context) -> Judgement:
    """The calls of a program that succeeded have done what they are for; the last caller waits for the right thing."""
    oracle = context.answers
    if oracle is None:
        return Judgement()

    def judge(program: bytes, observation: Any) -> Judgement:
        return compare(oracle, program, observation, context.state.ram) if program else Judgement()

    return judge_program(context, judge)


def resolve(
    oracle: AnswerOracle,
    request: Request,
    run: Callable[[int], Any],
    snapshot: KernelState,
    state_of: Callable[[Any], KernelState],
) -> Judgement:
    """Judge a call by the states right before and after it.

    `run`: runs the program up to that many calls; `state_of`: the kernel state of an observation.
    """
    judgement = Judgement(1)
    call = oracle.decoded(bytes.fromhex(request.evidence["record"]), request.call)
    after, result = Changes.none(), request.evidence
    if oracle.writes(call):
        observation = run(request.call + 1)
        changed = observation.changed_words
        if changed is None:
            return judgement
        after = Changes.of(changed, state_of(observation).ram)
        result = observation.results[request.call].copy()
    before, state = Changes.none(), snapshot
    if request.call:
        observation = run(request.call)
        changed = observation.changed_words
        if changed is None:
            return judgement
        state = state_of(observation)
        before = Changes.of(changed, state.ram)
    found = difference(oracle, request.call, call, result, (state, snapshot.ram), (before, after))
    if found is not None:
        judgement.fail(found.message, found.label, **found.evidence)
    return judgement
