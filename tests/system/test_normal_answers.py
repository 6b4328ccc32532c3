# SPDX-License-Identifier: BSD-2-Clause
"""EL3 and the Trusted OS answer the normal world as the specification says, and most calls can be followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fuzz.mutators import TypedMutator
from fuzz.shapes import shapes_of
from fuzz.targets import load_target
from harness.execution.executor import Executor
from harness.findings.judge import Judge
from harness.programs.interfaces import Interface
from harness.programs.program import Program

PROGRAMS = int(os.environ.get("BOTHWORLDS_ANSWERED_PROGRAMS", "150"))
LEAST_SHARE = 0.6
"""Of the SMCs that were answered. The others come behind an interrupt, or name the program's own memory."""
EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "two-worlds").glob("*.yaml"))


@pytest.fixture(scope="module")
def judge(two_worlds_executor: Executor) -> Judge:
    return Judge.of(two_worlds_executor)


def test_random_programs_are_answered_as_specified(judge: Judge) -> None:
    oracle = judge.checker.normal
    assert oracle is not None
    shapes = shapes_of(Interface.load(judge.executor.artefacts), load_target("normal-world-smc"))
    typed = TypedMutator(shapes, seed=12, maximum_calls=16)
    oracle.answered = oracle.judged = 0
    wrong = []
    for _ in range(PROGRAMS):
        verdict = judge.judge(bytes(typed.program(8)))
        wrong += [symptom.message for symptom in verdict.symptoms]
    assert wrong == []
    assert oracle.answered > PROGRAMS
    assert oracle.judged >= LEAST_SHARE * oracle.answered


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_answered_as_specified(path: Path, judge: Judge) -> None:
    program = Program.load(path, Interface.load(judge.executor.artefacts)).to_bytes()
    assert [symptom.message for symptom in judge.judge(program).symptoms] == []
