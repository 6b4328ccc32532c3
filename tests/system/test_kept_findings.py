# SPDX-License-Identifier: BSD-2-Clause
"""Real bugs that fuzzing found stay fixed: each finding is gone with its fix, and back without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build.system import build
from harness.configs import MachineConfig
from harness.execution.executor import Executor
from harness.findings.bundle import PROGRAM_YAML, Bundle, read_bundle
from harness.findings.filing import Filer
from harness.findings.judge import Judge
from harness.programs.interfaces import Interface
from harness.programs.program import Program

KEPT = sorted(path for path in (Path(__file__).resolve().parents[1] / "findings").iterdir() if path.is_dir())


def program_of(bundle: Bundle, interface: Interface) -> bytes:
    # The readable form: numbers in the byte form may mean something else in a later call table.
    path = bundle.path / PROGRAM_YAML
    return Program.from_yaml(path.read_text(), interface, str(path)).to_bytes()


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_it_is_gone_with_the_fix(path: Path, executor: Executor) -> None:
    verdict = Judge.of(executor).judge(program_of(read_bundle(path), Interface.load(executor.artefacts)))
    assert verdict.symptoms == ()


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_it_is_back_without_the_fix(path: Path, config: MachineConfig, tmp_path: Path) -> None:
    bundle = read_bundle(path)
    assert bundle.patches, "the patch that takes the fix back belongs to the finding"
    artefacts = build(config, extra_patches=bundle.patches)
    interface = Interface.load(artefacts)
    with Executor(artefacts, coverage=False) as executor:
        filer = Filer(Judge.of(executor), artefacts, interface, tmp_path)
        verdict = filer.judge.judge(program_of(bundle, interface))
        assert len(verdict.symptoms) == 1
        reduced = filer.reduce(program_of(bundle, interface), verdict.symptoms[0])
        assert str(reduced.signature) == bundle.finding.signature
