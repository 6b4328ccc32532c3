# SPDX-License-Identifier: BSD-2-Clause
"""Each planted bug is caught by what it breaks, and a kernel without it, or with a harmless change, is not blamed.

Campaigns that find these programs by themselves are run by `bothworlds planted`; here the programs
are kept. Building and booting so many kernels takes all cores: pytest-xdist uses them already, and without
it a pool does.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.build.planted import PlantedBug, PreservingPatch, planted_bugs, preserving_patches
from harness.build.system import build
from harness.cli import application
from harness.configs import load_config
from harness.execution.executor import Executor
from harness.findings.judge import LIVENESS_FINDINGS, Judge
from harness.findings.oracles import Sight, sight
from harness.invariants.wrong_answers import Answers
from harness.machine.memory import Image
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CallState
from tests.planted_table import seen_by

BUGS = planted_bugs()
PRESERVING = preserving_patches()
EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))
SEEN_BY = seen_by()


@dataclass(frozen=True)
class Replay:
    """What a stored program shows on its kernel."""

    sight: Sight
    again: frozenset[str]
    """What the whole program shows in a second run."""
    incremental: set[str]
    """Invariants that judging what changed finds violated."""
    before: set[str]
    """What an empty program shows after all that."""
    differences: int
    """Between the restored machine and the snapshot."""


def replay(bug: PlantedBug) -> Replay:
    """Build, boot, run the stored program."""
    artefacts = build(bug.on(load_config()), extra_patches=[bug.path])
    interface = Interface.load(artefacts)
    program = Program.load(bug.program, interface).to_bytes()
    with Executor(artefacts, coverage=False) as executor:
        judge = Judge.of(executor)
        seen = sight(judge, program)
        again = frozenset(symptom.name for symptom in judge.judge(program).symptoms)
        incremental = set[str]()
        if LIVENESS_FINDINGS.isdisjoint(again):
            report = judge.checker.check_changed(executor.run(program), everything=True, answers=Answers.ALL)
            judge.settle(report, program)
            incremental = {violation.invariant for violation in report.violations}
        before = {symptom.name for symptom in judge.judge(b"").symptoms}
        return Replay(seen, again, incremental, before, len(executor.audit()))


def examples_on(patch: PreservingPatch) -> list[str]:
    """What the snapshot and the examples show on a kernel with a patch that changes nothing."""
    artefacts = build(load_config(), extra_patches=[patch.path])
    interface = Interface.load(artefacts)
    with Executor(artefacts, coverage=False) as executor:
        judge = Judge.of(executor)
        found = [f"start: {symptom.message}" for symptom in judge.judge_start().symptoms]
        for path in EXAMPLES:
            verdict = judge.judge(Program.load(path, interface).to_bytes())
            found += [f"{path.name}: {symptom.message}" for symptom in verdict.symptoms]
        return found + [str(difference) for difference in executor.audit()]


def work(patch: PlantedBug | PreservingPatch) -> Replay | list[str]:
    """What a test of a patch needs to know."""
    return replay(patch) if isinstance(patch, PlantedBug) else examples_on(patch)


@pytest.fixture(scope="module")
def jobs(request: pytest.FixtureRequest) -> Iterator[Callable[[PlantedBug | PreservingPatch], Any]]:
    """Tells what the kernel with a patch shows.

    With pytest-xdist each test does its own work, since another process takes the next test; without it a pool works
    for all tests that were selected.
    """
    if os.environ.get("PYTEST_XDIST_WORKER"):
        yield work
        return
    selected = {patch.name: patch for item in request.session.items for patch in _patches_of(item)}
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        submitted = {name: pool.submit(work, patch) for name, patch in selected.items()}
        yield lambda patch: submitted[patch.name].result()
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def judge_of() -> Callable[[Executor], Judge]:
    """A judge for the tests' machines: the same one as long as the machine has the same snapshot."""
    judges: dict[int, tuple[Image, Judge]] = {}

    def judge(machine: Executor) -> Judge:
        known = judges.get(id(machine))
        if known is None or known[0] is not machine.snapshot:
            known = judges[id(machine)] = machine.snapshot, Judge.of(machine)
        return known[1]

    return judge


def _patches_of(item: pytest.Item) -> list[PlantedBug | PreservingPatch]:
    """The patches that a test of this module needs a kernel with."""
    if not isinstance(item, pytest.Function) or "jobs" not in item.fixturenames:
        return []
    return [value for value in item.callspec.params.values() if isinstance(value, PlantedBug | PreservingPatch)]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_what_it_breaks_catches_it(bug: PlantedBug, jobs: Callable[[PlantedBug], Replay]) -> None:
    result = jobs(bug)
    seen = result.sight
    if bug.at_boot:
        assert bug.expected in seen.at_start and not seen.by_calls
    else:
        assert bug.expected in seen.by_calls[-1] & result.again
        earlier = frozenset[str]().union(*seen.by_calls[:-1])
        assert bug.expected not in earlier, "the last call of the stored program shows it, and no earlier one"
    assert seen.oracles == SEEN_BY[bug.name], "the last column of the table in docs/planted.md"
    if bug.expected not in LIVENESS_FINDINGS:
        assert bug.expected in result.incremental
    assert not result.before and not result.differences


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_kernel_without_it_is_not_blamed(
    bug: PlantedBug, request: pytest.FixtureRequest, judge_of: Callable[[Executor], Judge]
) -> None:
    machine: Executor = request.getfixturevalue("two_worlds_executor" if bug.config else "executor")
    judge = judge_of(machine)
    program = Program.load(bug.program, Interface.load(machine.artefacts)).to_bytes()
    verdict = judge.judge(program)
    assert verdict.symptoms == () and judge.start == ()
    # A victim may have ended its own life, as by deleting the ASID pool, but calls were performed.
    assert {CallState.NOT_REACHED, CallState.SKIPPED}.isdisjoint(verdict.observation.results["state"].tolist())


@pytest.mark.parametrize("patch", PRESERVING, ids=lambda patch: patch.name)
def test_a_change_that_preserves_behaviour_shows_nothing(
    patch: PreservingPatch, jobs: Callable[[PreservingPatch], list[str]]
) -> None:
    assert jobs(patch) == []


def test_the_matrix_says_what_each_oracle_sees_alone(tmp_path: Path) -> None:
    name, oracle = "copied_untyped_stays_free", "untyped_inc"
    result = CliRunner().invoke(application(), ["planted", "--matrix", name, "--json", str(tmp_path / "matrix.json")])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert [name, oracle, "nothing"] in lines and [oracle, name] in lines and ["no_mloop", "none"] in lines
    assert json.loads((tmp_path / "matrix.json").read_text()) == [
        {"name": name, "oracles": [oracle], "at_start": [], "by_calls": [[oracle]]}
    ]
