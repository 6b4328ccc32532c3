# SPDX-License-Identifier: BSD-2-Clause
"""The commands as users run them, on real machines."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.build.artefacts import PROJECT
from harness.build.patches import PATCH_DIRECTORY
from harness.invariants.registry import invariants
from harness.machine.boot import Stage

if TYPE_CHECKING:
    from harness.build.artefacts import Artefacts

SECONDS = 120
EXAMPLE = PROJECT / "examples" / "page-tables.yaml"
PLANTED = PATCH_DIRECTORY / "planted" / "ns_forgotten_for_large_pages.patch"


def command(*arguments: str | Path) -> list[str]:
    """The command line of a new process."""
    return [sys.executable, "-m", "harness.cli", *map(str, arguments)]


def bothworlds(*arguments: str | Path, code: int = 0, directory: Path | None = None) -> str:
    """Run the program, check its exit code and that nothing went wrong; returns its standard output."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=SECONDS, env=environment, cwd=directory
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "error" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [(), ("--release",)])
def test_boot_shows_every_stage(artefacts: Artefacts, options: tuple[str, ...]) -> None:
    shown = bothworlds("boot", *options)
    places = [shown.index(f" ms  {stage}\n") for stage in Stage]
    assert places == sorted(places)
    assert "spanning-el1 is parked" in shown
    assert options or "Booting all finished, dropped to user space" in shown


def test_boot_waits_for_gdb(artefacts: Artefacts) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command("boot", "--gdb"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        words = shlex.split(lines[1])
        assert words[0] == "gdb-multiarch"
        more = ["-ex", "tbreak init_kernel", "-ex", "continue", "-ex", "info symbol $pc"]
        gdb = subprocess.run(
            [words[0], "-nx", "-batch", *words[1:], *more], capture_output=True, text=True, timeout=SECONDS
        )
        assert re.search(r"^init_kernel\b.* in section \.boot", gdb.stdout, re.MULTILINE), gdb.stdout + gdb.stderr
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert errors == "interrupted\n"


def test_run_shows_calls_and_results(artefacts: Artefacts) -> None:
    lines = bothworlds("run", EXAMPLE).splitlines()
    assert re.fullmatch(r"0  secure  ARM_PageTable_Map +spare-table-a +pd=vspace, .*  ok", lines[1])
    assert re.fullmatch(r"2  secure  Load +0x10600000 +ok 0x[0-9a-f]+", lines[3])
    assert lines[-2].startswith("outcome: done; ")
    assert lines[-1] == "nothing wrong was found"


def test_run_names_errors_as_the_kernel_does(artefacts: Artefacts, tmp_path: Path) -> None:
    program = tmp_path / "failing.yaml"
    failing = "- {call: CNode_Delete, target: page-s, with: {index: page-s}}"
    program.write_text(f"calls:\n{failing}\n- {{call: Recv, target: channel}}\n")
    lines = bothworlds("run", program).splitlines()
    assert re.search(r"  (InvalidCapability|IllegalOperation)$", lines[1])
    assert lines[2].endswith("did not return")


def test_run_stops_after_a_call(artefacts: Artefacts) -> None:
    lines = bothworlds("run", EXAMPLE, "--stop-after", "1").splitlines()
    assert lines[1].endswith("ok")
    assert all(line.endswith("not reached") for line in lines[2:-2])


def test_run_says_what_a_bug_did(artefacts: Artefacts) -> None:
    shown = bothworlds("run", EXAMPLE, "--extra-patch", PLANTED, code=1)
    assert "violation: ns_bit_matches_world (pde_large): 0x10800000" in shown


@pytest.mark.parametrize("options", [(), ("--release",)])
def test_check_shows_every_invariant(artefacts: Artefacts, options: tuple[str, ...]) -> None:
    shown = bothworlds("check", *options)
    for entry in invariants():
        if entry.family == "two-worlds":
            assert entry.id not in shown  # there is one world to judge
            continue
        found = re.search(rf"^{entry.id} +{entry.family} +held +(\d+) ", shown, re.MULTILINE)
        assert found is not None, shown
        assert int(found.group(1)) > 0 or entry.family == "answers"  # there is no program


def test_check_says_what_is_violated(artefacts: Artefacts) -> None:
    shown = bothworlds("check", "--extra-patch", PLANTED, code=1)
    assert re.search(r"^ns_bit_matches_world +world +VIOLATED ", shown, re.MULTILINE)
    assert "ns_bit_matches_world: as it parks: 0x10400000" in shown


@pytest.fixture(scope="module")
def finding(artefacts: Artefacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real finding: a program in which the call that breaks an invariant is not the first, on a planted bug."""
    from harness.build.system import build
    from harness.execution.executor import Executor
    from harness.findings.filing import Filer, Origin
    from harness.findings.judge import Judge
    from harness.findings.minimise import Limits
    from harness.programs.interfaces import Interface
    from harness.programs.program import Program

    built = build(artefacts.config, extra_patches=[PLANTED])
    with Executor(built, coverage=False) as executor:
        judge = Judge.of(executor)
        interface = Interface.load(built)
        program = Program.load(EXAMPLE, interface).to_bytes()
        symptoms = judge.judge(program).symptoms
        filer = Filer(judge, built, interface, tmp_path_factory.mktemp("found"))
        reduced = filer.reduce(program, symptoms[0], Limits(attempts=0))
        path, new = filer.file(reduced, Origin())
    assert new
    return path


def test_repro_tells_how_often(finding: Path) -> None:
    shown = bothworlds("repro", finding, "--times", "2", "--cold", "1")
    assert "signature   ns_bit_matches_world:pde_large:ARM_Page_Map" in shown
    assert "from the snapshot 2 of 2, from cold boots 1 of 1" in shown


def test_check_judges_the_memory_of_a_finding(finding: Path) -> None:
    shown = bothworlds("check", finding, code=1)
    assert re.search(r"^ns_bit_matches_world +world +VIOLATED ", shown, re.MULTILINE)
    assert f"ns_bit_matches_world: {finding.name}: 0x10800000" in shown


def test_repro_in_gdb_stops_before_the_call(finding: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        command("repro", finding, "--gdb"),
        input="bt 1\nquit\n",
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
    )
    assert re.search(r"Stopped right before call \d+ \(ARM_Page_Map\)", done.stdout), done.stdout + done.stderr
    assert done.returncode == 0


def test_repro_runs_a_script_of_gdb(finding: Path, tmp_path: Path) -> None:
    script = tmp_path / "look.gdb"
    script.write_text("info symbol $pc\ninfo symbol park_pc\ninfo line victim_main\nbreak decodeARMFrameInvocation\n")
    shown = bothworlds("repro", finding, "--gdb", "--script", script)
    assert re.search(r"^Stopped right before call \d+ \(ARM_Page_Map\)", shown, re.MULTILINE)
    assert "el0_sync in section" in shown and "park_pc in section" in shown, "kernel and firmware have symbols"
    assert "victim.c" in shown and "Breakpoint" in shown


def test_show_is_one_screen(finding: Path) -> None:
    shown = bothworlds("show", finding)
    assert "kernel      debug, config spanning-el1, with 00-ns_forgotten_for_large_pages.patch" in shown
    assert "ARM_Page_Map" in shown and "where       0x" in shown
    assert len(shown.splitlines()) < 50


def test_minimise_leaves_out_calls_and_says_the_rest_plainly(finding: Path) -> None:
    # The last test that uses the finding: it becomes a smaller one.
    shown = bothworlds("minimise", finding)
    assert re.search(r"\d calls before, 1 now; arguments .*: \d+ before, \d+ now", shown)
    assert "1 of 1" in bothworlds("repro", finding, "--times", "1", "--cold", "0")
    assert not list(finding.parent.glob(".*")) and not list(finding.glob(".*"))
    assert "no smaller program" in bothworlds("minimise", finding)


def test_ctrl_c_ends_a_campaign_with_its_summary(artefacts: Artefacts, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command("fuzz", "invocations", "--time", "60", "--out", tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if " executions, " in line:
            break
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert "Traceback" not in shown
    assert process.returncode in (0, 1, 130), shown
    assert "executions of" in shown
