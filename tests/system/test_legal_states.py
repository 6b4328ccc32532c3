# SPDX-License-Identifier: BSD-2-Clause
"""Odd states that are legal, and calls that are refused in them: nothing may take them for a violation."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.execution.executor import Executor
from harness.findings.judge import Judge
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CallState
from tests.system.odd_states import ODD_STATES
from tests.system.odd_view import View

PROGRAMS = yaml.safe_load(Path(__file__).with_name("legal_states.yaml").read_text())
REFUSED = yaml.safe_load(Path(__file__).with_name("refused_states.yaml").read_text())


@pytest.fixture(scope="module")
def judge(shared_executor: Executor) -> Judge:
    return Judge.of(shared_executor)


def program(name: str | None, executor: Executor) -> bytes:
    """A program of legal_states.yaml; None stands for no call."""
    if name is None:
        return b""
    interface = Interface.load(executor.artefacts)
    calls = PROGRAMS[name] if name in PROGRAMS else REFUSED[name]
    return Program.from_yaml(yaml.safe_dump({"calls": calls}), interface).to_bytes()


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_is_not_taken_for_a_violation(name: str, judge: Judge) -> None:
    verdict = judge.judge(program(name, judge.executor))
    assert verdict.symptoms == ()
    results = verdict.observation.results
    assert not results["error"].any(), "the state is reached"
    assert {CallState.NOT_REACHED, CallState.SKIPPED}.isdisjoint(results["state"].tolist())


@pytest.mark.parametrize("name", REFUSED)
def test_the_last_call_alone_is_refused(name: str, judge: Judge) -> None:
    verdict = judge.judge(program(name, judge.executor))
    assert verdict.symptoms == ()
    results = verdict.observation.results
    assert not results["error"][:-1].any() and results["error"][-1], "the state is reached, and refuses the call"
    assert results["state"][:-1].tolist() == [CallState.DONE] * (len(results) - 1)


@pytest.mark.parametrize("odd", ODD_STATES, ids=lambda odd: f"{odd[0]}: {odd[1]}")
def test_the_odd_state_is_there_and_holds(odd: tuple[str, str], judge: Judge) -> None:
    state = ODD_STATES[odd]
    executor, checker = judge.executor, judge.checker
    observation = executor.run(program(state.program, executor))
    memory = executor.memory
    assert checker.smc is not None
    cnodes = tuple(victim.cnode for victim in checker.smc.victims)
    population = checker.smc.interface.population

    def number(name: str) -> int:
        found = population.slot_number(0, name)
        assert found is not None
        return found

    def view() -> View:
        return View(checker.state(memory, observation), observation, cnodes, number)

    before: dict[int, bytes] = {}
    try:
        for address, value in state.pokes(view()).items():
            before[address] = memory.read(address, 8)
            memory.write(address, value.to_bytes(8, "little"))
        assert state.seen(view())
        report = judge.check(observation)
        assert not report.violations and report.judged[odd[0]]
    finally:
        for address, content in before.items():
            memory.write(address, content)
