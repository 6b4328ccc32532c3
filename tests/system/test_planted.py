# SPDX-License-Identifier: BSD-2-Clause
"""Each planted bug is caught by the invariant that it breaks, and a kernel without it is not blamed.

Campaigns that find these programs by themselves are run by `bothworlds planted`; here the programs
are kept, so that the answer takes a second.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build.artefacts import Artefacts
from harness.build.planted import PLANTED as PROGRAMS
from harness.build.planted import PlantedBug, planted_bugs
from harness.build.system import build
from harness.configs import MachineConfig
from harness.execution.executor import Executor
from harness.findings.filing import Filer
from harness.findings.judge import Judge
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CallState

BUGS = planted_bugs()


def stored(bug: PlantedBug, artefacts: Artefacts) -> bytes:
    return Program.load(PROGRAMS / f"{bug.name}.yaml", Interface.load(artefacts)).to_bytes()


def test_each_planted_bug_has_a_program() -> None:
    assert {bug.name for bug in BUGS} == {path.stem for path in PROGRAMS.glob("*.yaml")}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_expected_invariant_catches_it(bug: PlantedBug, config: MachineConfig, tmp_path: Path) -> None:
    artefacts = build(config, extra_patches=[bug.path])
    program = stored(bug, artefacts)
    with Executor(artefacts, coverage=False) as executor:
        judge = Judge.of(executor)
        verdict = judge.judge(program)
        assert [s.invariant for s in verdict.symptoms] == [bug.expected], verdict.symptoms
        reduced = Filer(judge, artefacts, Interface.load(artefacts), tmp_path).reduce(program, verdict.symptoms[0])
        assert reduced.repeatable and reduced.first_call == len(program) // 32 - 1
        # The incremental check, which a campaign makes after each program, says the same.
        observation = executor.run(program)
        report = judge.checker.check_changed(observation)
        judge.settle(report, program)
        assert bug.expected in {violation.invariant for violation in report.violations}
        assert not executor.audit()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_kernel_without_it_is_not_blamed(bug: PlantedBug, executor: Executor) -> None:
    judge = Judge.of(executor)
    verdict = judge.judge(stored(bug, executor.artefacts))
    assert verdict.symptoms == () and judge.start == ()
    assert (verdict.observation.results["state"] == CallState.DONE).all()
