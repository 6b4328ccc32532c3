# SPDX-License-Identifier: BSD-2-Clause
"""The real kernel answers as the specification says, and nearly all answers are compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.execution.executor import Executor
from harness.findings.judge import Judge
from harness.programs.interfaces import Interface
from harness.programs.mix import Mix
from harness.programs.program import Program

PROGRAMS = int(os.environ.get("BOTHWORLDS_ANSWERED_PROGRAMS", "150"))
LEAST_SHARE = 0.9
EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))


@pytest.fixture(scope="module")
def judge(shared_executor: Executor) -> Judge:
    return Judge.of(shared_executor)


def test_random_programs_are_answered_as_specified(judge: Judge) -> None:
    oracle = judge.checker.answers
    assert oracle is not None
    mix = Mix(Interface.load(judge.executor.artefacts), seed=11)
    oracle.answered = oracle.covered = 0
    wrong = []
    for _ in range(PROGRAMS):
        verdict = judge.judge(mix.program(16).to_bytes())
        wrong += [symptom.message for symptom in verdict.symptoms if symptom.invariant == "answers"]
    assert wrong == []
    assert oracle.answered > 8 * PROGRAMS
    assert oracle.covered >= LEAST_SHARE * oracle.answered


def test_a_refusal_is_compared_with_its_details(judge: Judge) -> None:
    """The same answer with another detail, or another error, is a difference; so is success where a rule is broken."""
    oracle = judge.checker.answers
    assert oracle is not None
    text = "calls:\n- {call: TCB_SetPriority, target: thread, with: {priority: 101}}\n"
    program = Program.from_yaml(text, Interface.load(judge.executor.artefacts)).to_bytes()
    observation = judge.executor.run(program)
    results, changed, ram = observation.results.copy(), observation.changed_words, judge.checker.snapshot.ram
    assert oracle.compare(program, results, changed).covered == 1
    for field, value in (("mr", (0, 99)), ("info", 4 << 12 | 1), ("info", 3 << 12), ("info", 0)):
        forged = results.copy()
        if field == "mr":
            forged["mr"][0][:2] = value
        else:
            forged["info"][0] = value
        assert oracle.compare(program, forged, changed).wrong == [0]
        difference = oracle.resolve(0, oracle.question(program, forged, 0), ram)
        assert difference is not None
        assert difference.evidence["expected"] == "seL4_RangeError (0, 100)"
        assert "maximum controlled priority" in difference.message


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_answered_as_specified(path: Path, judge: Judge) -> None:
    program = Program.load(path, Interface.load(judge.executor.artefacts)).to_bytes()
    assert [symptom.message for symptom in judge.judge(program).symptoms] == []
