# SPDX-License-Identifier: BSD-2-Clause
"""An exported finding shows with plain QEMU and gdb, in an environment that has nothing of this project."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.build.artefacts import PROJECT, Artefacts
from harness.build.patches import PATCH_DIRECTORY
from harness.build.system import build
from harness.configs import MachineConfig
from harness.errors import OutputError
from harness.execution.executor import Executor
from harness.findings.bundle import Bundle, read_bundle
from harness.findings.export import export_finding
from harness.findings.filing import Filer, Origin
from harness.findings.judge import Judge
from harness.findings.reproduce import cold_build
from harness.programs.interfaces import Interface
from harness.programs.program import Program

SILENT = PATCH_DIRECTORY / "planted" / "world_lost_on_remap.patch"
REMAP = "calls:\n- {call: ARM_Page_Remap, target: page-n-mapped, with: {rights: read}}\n"
FAULT = PROJECT / "tests" / "findings" / "remap-without-table"


def filed(config: MachineConfig, patch: Path, text: str, directory: Path, *, release: bool = False) -> Bundle:
    artefacts = build(config, extra_patches=[patch], release=release)
    interface = Interface.load(artefacts)
    program = Program.from_yaml(text, interface).to_bytes()
    with Executor(artefacts, coverage=False) as executor:
        filer = Filer(Judge.of(executor), artefacts, interface, directory)
        (symptom,) = filer.judge.judge(program).symptoms
        path, _ = filer.file(filer.reduce(program, symptom), Origin())
    return read_bundle(path)


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the reproducer in an empty environment and from another directory."""
    environment = {"PATH": "/usr/bin:/bin"}
    if unpacked := os.environ.get("BOTHWORLDS_QEMU"):
        environment["QEMU"] = f"{unpacked}/usr/bin/qemu-system-aarch64"
    return subprocess.run(
        [script, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.fixture(scope="module")
def silent(config: MachineConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a page that is mapped into the wrong world: nothing faults."""
    directory = tmp_path_factory.mktemp("silent")
    bundle = filed(config, SILENT, REMAP, directory)
    artefacts = build(config, extra_patches=[SILENT])
    exported = export_finding(bundle, artefacts, directory / "exported")
    assert exported.shows, exported.shown
    moved = directory / "elsewhere and with spaces"
    exported.directory.rename(moved)
    shutil.rmtree(bundle.path)
    return moved


def test_a_silent_violation_shows(silent: Path) -> None:
    done = run(silent / "run.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SHOWN: ns_bit_matches_world:pte:ARM_Page_Remap" in done.stdout
    assert "(normal-ram, non-secure), NS=0" in done.stdout, "the walk ends at the page that is wrong"
    assert "result of call 0 (ARM_Page_Remap)" in done.stdout
    assert "bothworlds program: done, performed 1 of 1 calls" in done.stdout, "the console"
    assert (silent / "expected.txt").read_text().splitlines()[-1] == done.stdout.splitlines()[-1]


def test_it_does_not_show_on_a_kernel_without_the_bug(silent: Path, artefacts: Artefacts, tmp_path: Path) -> None:
    healthy = Path(shutil.copytree(silent, tmp_path / "healthy"))
    program = Program.from_yaml(REMAP, Interface.load(artefacts)).to_bytes()
    shutil.copyfile(cold_build(artefacts, program).flash, healthy / "flash.bin")
    done = run(healthy / "run.sh")
    assert done.returncode == 1 and "NOT SHOWN" in done.stdout, done.stdout + done.stderr
    assert "(normal-ram, non-secure), NS=1" in done.stdout


def test_gdb_stops_before_the_call_with_symbols_and_sources(silent: Path) -> None:
    look = ("backtrace 3", "info symbol park_pc", "list performSmallPageInvocationMap", "kill")
    more = [word for command in look for word in ("-ex", command)]
    more.append("-batch")
    done = run(silent / "debug.sh", *more)
    assert "Stopped right before call 0 (ARM_Page_Remap)" in done.stdout, done.stdout + done.stderr
    assert "victim.c" in done.stdout and "park_pc in section" in done.stdout
    assert "performSmallPageInvocationMap(" in done.stdout, "the kernel's source"


def test_the_directory_explains_itself(silent: Path) -> None:
    text = (silent / "README.md").read_text()
    assert "debug build" in text and "world_lost_on_remap.patch" in text and "-mgeneral-regs-only" in text
    assert "| normal-ram | 0x40200000 |" in text
    for line in text.splitlines():
        if line.startswith("| `"):
            for name in line.split("|")[1].replace("`", "").split(","):
                assert (silent / name.strip()).exists(), name
    series = [path.name for path in sorted((silent / "patches" / "series").iterdir())]
    assert series[0].startswith("00-0001-") and len(series) > 10
    everything = b"".join(path.read_bytes() for path in silent.iterdir() if path.suffix in (".sh", ".py", ".gdb"))
    assert b"harness" not in everything and str(PROJECT).encode() not in everything


def test_a_kernel_fault_of_a_release_kernel_shows(config: MachineConfig, tmp_path: Path) -> None:
    patch = next((FAULT / "patches").iterdir())
    bundle = filed(config, patch, (FAULT / "program.yaml").read_text(), tmp_path / "findings", release=True)
    assert bundle.finding.kernel == "release"
    exported = export_finding(bundle, build(config, extra_patches=[patch], release=True), tmp_path / "out")
    assert exported.shows, exported.shown
    done = run(exported.directory / "run.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "performSmallPageInvocationMap in section" in done.stdout
    assert "bothworlds program: wait-el1" in done.stdout


def test_a_directory_with_something_in_it_is_left_alone(config: MachineConfig, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("mine")
    bundle = read_bundle(FAULT)
    with pytest.raises(OutputError, match="not an empty directory"):
        export_finding(bundle, build(config), tmp_path)
    assert kept.read_text() == "mine"
