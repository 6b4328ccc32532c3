# SPDX-License-Identifier: BSD-2-Clause
"""A finding from the program that shows it to the debugger: filed, read, reproduced, replayed, refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from harness.build.artefacts import Artefacts
from harness.build.planted import planted_bugs
from harness.build.system import build
from harness.configs import MachineConfig
from harness.errors import FindingError
from harness.execution.executor import Executor
from harness.findings.bundle import Bundle, read_bundle
from harness.findings.filing import Filer, Origin
from harness.findings.improve import PROGRESS_FILE, improve
from harness.findings.judge import Judge
from harness.findings.minimise import Budget, Limits
from harness.findings.replay import Replay
from harness.findings.report import describe
from harness.findings.reproduce import build_of, reproduce
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CALL_BYTES

BUG = next(bug for bug in planted_bugs() if bug.name == "world_lost_on_remap")
PROGRAM = """
calls:
- {call: Yield}
- {call: ARM_Page_Unmap, target: page-s-mapped}
- {call: Yield, victim: normal-world}
- {call: ARM_Page_Remap, target: page-n-mapped, with: {rights: read}}
- {call: CNode_Delete, target: cnode, with: {index: page-uart-mapped, depth: 64}}
"""


@dataclass
class Filed:
    artefacts: Artefacts
    bundle: Bundle


@pytest.fixture(scope="module")
def filed(config: MachineConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filed]:
    artefacts = build(config, extra_patches=[BUG.path])
    directory = tmp_path_factory.mktemp("findings")
    table = Interface.load(artefacts)
    program = Program.from_yaml(PROGRAM, table).to_bytes()
    with Executor(artefacts, coverage=False) as executor:
        filer = Filer(Judge.of(executor), artefacts, table, directory)
        symptom = filer.judge.judge(program).symptoms[0]
        path, new = filer.file(filer.reduce(program, symptom), Origin(7, 1.5))
        assert new
        path_again, new = filer.file(filer.reduce(program, symptom), Origin(9, 2.5))
        assert path_again == path and not new, "the same bug is one finding"
    yield Filed(artefacts, read_bundle(path))


def test_the_finding_says_what_where_and_after_which_call(filed: Filed) -> None:
    finding = filed.bundle.finding
    assert finding.signature == "ns_bit_matches_world:pte:ARM_Page_Remap"
    assert finding.invariant == BUG.expected
    assert finding.program.startswith("->   0  secure: ARM_Page_Remap page-n-mapped (pd: vspace, ")
    assert finding.program.endswith(" = ok\n") and finding.first_call == 0 and finding.kernel == "debug"
    assert "NS=0" in finding.message and finding.evidence
    assert finding.hashes == filed.artefacts.hashes
    assert "qemu-system-aarch64" in finding.qemu_command
    text = "\n".join(describe(filed.bundle))
    assert finding.signature in text and "-> " in text and "bothworlds repro" in text


def test_the_directory_holds_what_reproduction_needs(filed: Filed) -> None:
    path = filed.bundle.path
    assert (path / "patches").exists() and (path / "config.yaml").exists()
    registers = yaml.safe_load((path / "registers.yaml").read_text())
    assert registers["registers"]["ttbr0_el1"] and "pc" in registers["registers"]
    table = Interface.load(filed.artefacts)
    program = Program.from_yaml((path / "program.yaml").read_text(), table)
    assert program.to_bytes() == filed.bundle.program


def test_the_saved_memory_is_judged_the_same_without_a_machine(filed: Filed, executor: Executor) -> None:
    checker = Judge.of(executor).checker
    report = checker.check(filed.bundle.memory())
    assert BUG.expected in {violation.invariant for violation in report.violations}


def test_it_reproduces_from_the_snapshot_and_from_cold_boots(filed: Filed) -> None:
    artefacts = build_of(filed.bundle)
    again = reproduce(filed.bundle, artefacts, times=3, cold=2)
    assert str(again.snapshot) == "3 of 3" and str(again.cold) == "2 of 2" and again.any


def test_another_build_is_refused_and_force_tries_it(filed: Filed, tmp_path: Path) -> None:
    """Without its patch the finding is of another kernel; and there it does not show."""
    copy = tmp_path / "copy"
    shutil.copytree(filed.bundle.path, copy)
    content = yaml.safe_load((copy / "finding.yaml").read_text())
    content["extra_patches"] = []
    (copy / "finding.yaml").write_text(yaml.safe_dump(content))
    bundle = read_bundle(copy)
    with pytest.raises(FindingError, match=r"another build: kernel is .*--force"):
        build_of(bundle)
    artefacts = build_of(bundle, force=True)
    assert not reproduce(bundle, artefacts, times=1, cold=1).any


def test_gdb_stops_right_before_the_call(filed: Filed) -> None:
    with Replay(filed.bundle, filed.artefacts) as machine:
        show = ("backtrace 3", "info symbol performSmallPageInvocationMap", "info symbol park_pc", "continue&")
        command = machine.command(*show[:-1], batch=True)
        environment = {**os.environ, "HOME": "/"}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env=environment
        )
    output = done.stdout
    assert "Stopped right before call 0 (ARM_Page_Remap)" in output, output + done.stderr
    assert "el0_sync" in output and "victim.c" in output, "symbols of kernel and victims"
    assert "park_pc" in output, "symbols of the firmware"


def test_a_finding_of_no_call_cannot_be_replayed(filed: Filed, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(filed.bundle.path, copy)
    content = yaml.safe_load((copy / "finding.yaml").read_text())
    content["first_call"] = None
    (copy / "finding.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(FindingError, match="before the first call"):
        Replay(read_bundle(copy), filed.artefacts)


def test_minimising_goes_on_where_it_was_ended(filed: Filed, tmp_path: Path) -> None:
    """A finding with a long program, and what an earlier run that was killed had reached."""
    table = Interface.load(filed.artefacts)
    finding = tmp_path / "finding"
    shutil.copytree(filed.bundle.path, finding)
    (finding / "program.bytes").write_bytes(Program.from_yaml(PROGRAM, table).to_bytes())
    remap = "- {call: ARM_Page_Remap, target: page-n-mapped, with: {rights: read}}"
    (finding / PROGRESS_FILE).write_text(f"calls:\n- {{call: Yield}}\n{remap}\n")
    with Executor(filed.artefacts, coverage=False) as executor:
        for seconds, calls in ((0.0, 2), (30.0, 1)):
            work = tmp_path / f"work-{calls}"
            work.mkdir()
            change = improve(read_bundle(finding), executor, work, Budget(Limits(seconds=seconds)))
            assert change is not None and change.smaller and change.after[0] == calls
            bundle = read_bundle(finding)
            assert len(bundle.program) == calls * CALL_BYTES
            assert bundle.finding.signature == filed.bundle.finding.signature
            assert str(finding) in bundle.finding.reproduce and not (finding / PROGRESS_FILE).exists()


def test_a_program_of_another_call_table_reproduces(filed: Filed, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(filed.bundle.path, copy)
    content = yaml.safe_load((copy / "finding.yaml").read_text())
    content["interface"] = "of another build"
    content["hashes"]["victim"] = "0" * 64
    (copy / "finding.yaml").write_text(yaml.safe_dump(content))
    (copy / "program.bytes").write_bytes(b"\xff" * CALL_BYTES)
    told: list[str] = []
    artefacts = build_of(read_bundle(copy), tell=told.append)
    assert len(told) == 1 and "victim" in told[0]
    assert str(reproduce(read_bundle(copy), artefacts, times=1, cold=1).cold) == "1 of 1"
