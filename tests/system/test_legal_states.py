# SPDX-License-Identifier: BSD-2-Clause
"""Odd states that are legal: no invariant may take them for a violation."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.execution.executor import Executor
from harness.findings.judge import Judge
from harness.programs.interfaces import Interface
from harness.programs.program import Program

PROGRAMS = yaml.safe_load(Path(__file__).with_name("legal_states.yaml").read_text())


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_is_not_taken_for_a_violation(name: str, executor: Executor) -> None:
    interface = Interface.load(executor.artefacts)
    missing = {call["call"] for call in PROGRAMS[name]} - {call.name for call in interface.calls}
    if missing:
        pytest.skip(f"the call table has no {', '.join(sorted(missing))}")
    program = Program.from_yaml(yaml.safe_dump({"calls": PROGRAMS[name]}), interface)
    verdict = Judge.of(executor).judge(program.to_bytes())
    assert verdict.symptoms == ()
    results = verdict.observation.results
    assert not results["error"].any(), "the state is reached"
