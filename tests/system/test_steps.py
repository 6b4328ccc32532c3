# SPDX-License-Identifier: BSD-2-Clause
"""What each call does to threads, queues and the scheduler is what the table of steps says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.execution.executor import Executor
from harness.findings.judge import Judge
from harness.invariants.steps import ID
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CALL_BYTES, CallState

PROGRAMS = yaml.safe_load(Path(__file__).with_name("steps.yaml").read_text())


@pytest.fixture(scope="module")
def judge(shared_executor: Executor) -> Judge:
    return Judge.of(shared_executor)


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_call_does_what_it_must(name: str, judge: Judge) -> None:
    interface = Interface.load(judge.executor.artefacts)
    program = Program.from_yaml(yaml.safe_dump({"calls": PROGRAMS[name]}), interface).to_bytes()
    judged = 0
    for calls in range(1, len(PROGRAMS[name]) + 1):
        beginning = program[: calls * CALL_BYTES]
        assert judge.judge(beginning).symptoms == (), f"up to call {calls - 1}"
        observation = judge.executor.run(beginning)
        states = observation.results["state"].tolist()[:calls]
        assert {CallState.NOT_REACHED, CallState.SKIPPED, CallState.FAULTED}.isdisjoint(states)
        judged += judge.checker.check(judge.executor.memory, observation, ["answers"]).judged[ID]
    assert judged, "at least one of its calls is judged as a step"
