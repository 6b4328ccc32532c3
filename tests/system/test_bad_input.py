# SPDX-License-Identifier: BSD-2-Clause
"""What a user can get wrong, and what can fail around the program: one clear message each, never a traceback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from harness.build.artefacts import PROJECT, cache_directory
from harness.configs import CONFIG_DIRECTORY, DEFAULT_CONFIG
from harness.errors import EnvironmentFailure, LaunchFailure, MachineError, MachineLost, StageTimeout
from harness.machine.boot import BootEvent, Stage, boot
from harness.machine.qemu import Qemu, QemuSettings, Shared

if TYPE_CHECKING:
    from harness.build.artefacts import Artefacts

SECONDS = 120


def bothworlds(*arguments: str | Path, **variables: str) -> tuple[int, str]:
    """Run the command line in a process of its own; returns its exit code and what it printed on standard error."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), **variables}
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert "a defect of bothworlds itself" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def refused(code: int, *words: str, of: tuple[int, str]) -> None:
    """Check that a command ended with this code and one error that contains all these words."""
    found, message = of
    assert found == code, message
    assert message.startswith("error: "), message
    for word in words:
        assert word in message, message


# -- machine configs


def test_a_mistyped_field(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((CONFIG_DIRECTORY / f"{DEFAULT_CONFIG}.yaml").read_text().replace("arena_bits", "arena_bitz"))
    refused(2, "mine.yaml:", "arena_bitz", "did you mean 'arena_bits'?", of=bothworlds("boot", path))


def test_a_mistyped_kernel_option(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = (CONFIG_DIRECTORY / f"{DEFAULT_CONFIG}.yaml").read_text()
    path.write_text(text.replace("ARM_WORLD_TAG", "ARM_WORLD_TAGS"))
    refused(2, "ARM_WORLD_TAGS", "ARM_WORLD_TAG'", of=bothworlds("build", path))


# -- packages and QEMU


@pytest.fixture
def path_without(tmp_path: Path) -> Iterator[str]:
    """A PATH that has the programs of this one, except those that a test deletes from its directory."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for place in reversed(os.environ["PATH"].split(":")):
        if Path(place).is_dir():
            for program in Path(place).iterdir():
                link = directory / program.name
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    yield str(directory)


@pytest.mark.parametrize(
    ("program", "package"),
    [("qemu-system-aarch64", "qemu-system-arm"), ("bwrap", "bubblewrap")],
)
def test_a_missing_program(artefacts: Artefacts, path_without: str, program: str, package: str) -> None:
    Path(path_without, program).unlink()
    refused(3, program, f"apt-get install {package}", of=bothworlds("boot", PATH=path_without))


@pytest.mark.parametrize(
    ("program", "package"),
    [("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"), ("gcc", "gcc")],
)
def test_a_missing_compiler(
    artefacts: Artefacts, path_without: str, tmp_path: Path, program: str, package: str
) -> None:
    cache, whole = tmp_path / "cache", cache_directory()
    cache.mkdir()
    # All that the host's compiler has no part in is there already.
    built = (artefacts.kernel_elf, artefacts.firmware_elf, artefacts.root_task_elf, artefacts.flash)
    for name in {*(path.relative_to(whole).parts[0] for path in built), *(s.name for s in whole.glob("source-*"))}:
        (cache / name).symlink_to(whole / name)
    Path(path_without, program).unlink()
    done = bothworlds("build", PATH=path_without, BOTHWORLDS_CACHE=str(cache))
    refused(3, program, f"apt-get install {package}", of=done)


def test_no_cargo_and_no_source(path_without: str, tmp_path: Path) -> None:
    Path(path_without, "cargo").unlink()
    done = bothworlds("build", "--source-only", PATH=path_without, BOTHWORLDS_CACHE=str(tmp_path / "cache"))
    refused(3, "cargo", "apt-get install cargo", of=done)


def stand_in(directory: Path, name: str, body: str) -> Path:
    """A shell script in the place of a program."""
    path = directory / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_qemu_that_is_too_old(artefacts: Artefacts, path_without: str) -> None:
    stand_in(Path(path_without), "qemu-system-aarch64", "echo 'QEMU emulator version 5.2.0 (Debian)'")
    refused(3, "5.2.0", "7.2 or newer", of=bothworlds("boot", PATH=path_without))


def test_a_qemu_that_is_none(artefacts: Artefacts, path_without: str) -> None:
    stand_in(Path(path_without), "qemu-system-aarch64", "echo 'cannot open shared object file' >&2; exit 127")
    refused(3, "cannot open shared object file", of=bothworlds("boot", PATH=path_without))


def test_a_qemu_that_ends_at_once(artefacts: Artefacts, tmp_path: Path) -> None:
    body = '[ "$1" = --version ] && echo "QEMU emulator version 7.2.0" && exit; echo "no such machine" >&2; exit 1'
    settings = QemuSettings(binary=str(stand_in(tmp_path, "qemu-broken", body)), directories=(tmp_path,))
    shared = Shared.create(artefacts)
    tmp_path.chmod(0o755)
    try:
        with Qemu(artefacts, shared, settings) as qemu, pytest.raises(LaunchFailure) as caught:
            boot(qemu)
    finally:
        shared.close()
    assert "qemu-broken" in str(caught.value)


@pytest.mark.parametrize("last", [Stage.LAUNCHED, Stage.FIRMWARE, Stage.KERNEL, Stage.ROOT_TASK])
def test_a_qemu_that_is_killed_while_it_boots(artefacts: Artefacts, last: Stage) -> None:
    shared = Shared.create(artefacts)

    def kill(event: BootEvent) -> None:
        if event.stage is last:
            os.kill(qemu.pid, signal.SIGKILL)

    try:
        with Qemu(artefacts, shared) as qemu, pytest.raises(MachineLost) as caught:
            boot(qemu, kill)
        assert caught.value.exit_code == 3
        assert str(caught.value).splitlines()[0]
    finally:
        shared.close()


def test_a_stage_that_takes_too_long(artefacts: Artefacts, tmp_path: Path) -> None:
    import dataclasses

    empty = tmp_path / "empty.bin"
    empty.write_bytes((0x14000000).to_bytes(4, "little") * 4096)  # branches to itself
    hanging = dataclasses.replace(
        artefacts,
        flash=empty,
        config=artefacts.config.model_copy(
            update={"deadlines": artefacts.config.deadlines.model_copy(update={"kernel": 0.5})}
        ),
    )
    shared = Shared.create(hanging)
    try:
        with Qemu(hanging, shared) as qemu, pytest.raises(StageTimeout, match="boot stage 'kernel' did not finish"):
            boot(qemu)
    finally:
        shared.close()


def test_a_qemu_that_is_killed_in_use(artefacts: Artefacts) -> None:
    from harness.execution.executor import Executor

    with Executor(artefacts) as executor:
        os.kill(executor.machine.pid, signal.SIGKILL)
        with pytest.raises(MachineError):
            executor.run(b"")
        executor.replace()
        assert executor.run(b"").status.value == "done"


def test_errors_of_the_environment_exit_with_3() -> None:
    assert issubclass(MachineError, EnvironmentFailure)
    assert EnvironmentFailure.exit_code == 3


# -- patches

PATCHES = {
    "empty": "",
    "random": "\x01\x02 no patch at all \n" * 5,
    "absent": "--- a/src/nowhere.c\n+++ b/src/nowhere.c\n@@ -1,1 +1,1 @@\n-old\n+new\n",
    "elsewhere": "--- a/../../outside.c\n+++ b/../../outside.c\n@@ -0,0 +1,1 @@\n+new\n",
    "stale": "--- a/src/kernel/boot.c\n+++ b/src/kernel/boot.c\n@@ -10,2 +10,2 @@\n-no such line\n+another\n context\n",
    "truncated": "--- a/src/kernel/boot.c\n+++ b/src/kernel/boot.c\n@@ -10,4 +10,4 @@\n-old\n",
}


@pytest.mark.parametrize("kind", PATCHES)
def test_a_patch_that_does_not_apply(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.patch"
    path.write_text(PATCHES[kind])
    refused(2, f"{kind}.patch", of=bothworlds("build", "--extra-patch", path))


def test_a_patch_that_does_not_exist(tmp_path: Path) -> None:
    refused(2, "there is no such file", of=bothworlds("build", "--extra-patch", tmp_path / "x.patch"))


# -- programs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "p.yaml"),
        ("calls: 3\n", "calls"),
        ("calls:\n- call: CNode_Copi\n", "did you mean 'CNode_Copy'?"),
        ("calls:\n- call: Yield\n  victm: secure\n", "victm"),
        ("calls:\n- call: Yield\n  victim: secur\n", "did you mean 'secure'?"),
        ("calls: [&a [*a]]\n", "p.yaml"),
        ("calls: [" + "[" * 3000, "p.yaml"),
        ("\x00\x01", "p.yaml"),
    ],
)
def test_a_program_that_is_none(artefacts: Artefacts, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    refused(2, words, of=bothworlds("run", path))


def test_a_program_that_does_not_exist(artefacts: Artefacts, tmp_path: Path) -> None:
    refused(2, "nothing.yaml", of=bothworlds("run", tmp_path / "nothing.yaml"))


# -- findings


@pytest.fixture(scope="module")
def finding(artefacts: Artefacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finding that is whole: an empty program that shows nothing, with the hashes of this build."""
    from harness.findings.bundle import Material, write_bundle
    from harness.findings.finding import Finding

    content = Finding(
        signature="ns_bit_matches_world:frame:ARM_Page_Map",
        kind="violation",
        invariant="ns_bit_matches_world",
        message="made up for a test",
        place="frame",
        label="ARM_Page_Map",
        outcome="done",
        config=artefacts.config.name,
        hashes=artefacts.hashes,
        reproduce="bothworlds repro",
    )
    material = Material(program=b"", program_yaml="calls: []\n", config=artefacts.config)
    path, _ = write_bundle(tmp_path_factory.mktemp("findings"), content, material)
    return path


@pytest.fixture
def copy(finding: Path, tmp_path: Path) -> Path:
    """A copy of the finding to damage."""
    return Path(shutil.copytree(finding, tmp_path / "finding"))


@pytest.mark.parametrize("command", ["repro", "minimise", "check"])
def test_a_finding_that_does_not_exist(tmp_path: Path, command: str) -> None:
    refused(2, "no-finding", of=bothworlds(command, tmp_path / "no-finding"))


@pytest.mark.parametrize("name", ["finding.yaml", "program.bytes", "config.yaml"])
@pytest.mark.parametrize("damage", ["missing", "random", "truncated"])
def test_a_damaged_finding(copy: Path, name: str, damage: str) -> None:
    path = copy / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "random":
        path.write_bytes(bytes(range(128, 255)))
    else:
        path.write_bytes(content[: len(content) // 2] or b"\x00\x00\x00")
    refused(2, name, of=bothworlds("repro", copy))


def test_a_finding_of_another_build(copy: Path) -> None:
    path = copy / "finding.yaml"
    data = yaml.safe_load(path.read_text())
    data["hashes"]["kernel"] = "0" * 64
    path.write_text(yaml.safe_dump(data))
    refused(2, "kernel is", "000000000000", "--force", of=bothworlds("repro", copy))
    code, _ = bothworlds("repro", copy, "--force", "--times", "1", "--cold", "0")
    assert code == 1, "the symptom is made up, so it cannot show"


# -- output directories


def test_an_output_directory_that_cannot_be_made(artefacts: Artefacts, tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    refused(3, str(occupied), of=bothworlds("fuzz", "invocations", "--time", "5", "--out", occupied / "findings"))


def test_a_read_only_output_directory(artefacts: Artefacts, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(out), str(out), "--"]
    command += [sys.executable, "-m", "harness.cli", "fuzz", "invocations", "--time", "5", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SECONDS)
    refused(3, str(out), of=(done.returncode, done.stderr))


def test_a_read_only_cache(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    refused(3, str(occupied), of=bothworlds("build", BOTHWORLDS_CACHE=str(occupied / "cache")))
