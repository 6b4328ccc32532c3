# SPDX-License-Identifier: BSD-2-Clause
"""QEMU reaches nothing of the host, and leaves nothing behind. Runs on the toy."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from harness.build.artefacts import PROJECT, Artefacts
from harness.errors import EnvironmentFailure, MissingPackage
from harness.execution.executor import Executor
from harness.execution.observation import Outcome
from harness.machine import confinement
from harness.machine.qemu import QemuSettings
from harness.packages import tool
from tests.system.toy import HOST, TOY_RANGES, call

SEMIHOSTING = QemuSettings(extra=("-semihosting-config", "enable=on,target=native"))


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_no_privilege(toy_executor: Executor) -> None:
    shown = status(toy_executor.machine.pid)
    assert shown["NoNewPrivs"] == "1"
    assert shown["Seccomp"] == "2"
    assert int(shown["CapEff"], 16) == int(shown["CapPrm"], 16) == int(shown["CapBnd"], 16) == 0 or os.geteuid()
    assert "0" not in shown["Uid"].split()


def test_no_host_files(toy_executor: Executor) -> None:
    """What QEMU's process itself can name: /usr, and no file of any user."""
    root = Path(f"/proc/{toy_executor.machine.pid}/root")
    names = {entry.name for entry in root.iterdir()}
    # A QEMU that was unpacked somewhere has its own directory.
    unpacked = {path.parts[1] for path in QemuSettings.from_environment().directories}
    assert names <= {"usr", "bin", "sbin", "lib", "lib64", "proc", "dev", "machine", "etc"} | unpacked
    assert not (root / "etc/passwd").exists()
    assert not Path(f"{root}{PROJECT}/README.md").exists()
    for directory in {"home", "root", "tmp", "var", "run", "opt"} - unpacked:
        assert not (root / directory).exists()


def test_own_namespaces(toy_executor: Executor) -> None:
    for name in ("net", "pid", "ipc", "mnt", "uts"):
        assert os.readlink(f"/proc/{toy_executor.machine.pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")


def test_guest_has_no_semihosting(toy_executor: Executor) -> None:
    """The guest's request to open /etc/passwd on the host is an undefined instruction."""
    observation = toy_executor.run(call(HOST))
    assert observation.status is Outcome.EL3_PANIC
    assert int(observation.report["esr_el3"]) >> 26 == 0


def test_semihosting_would_reach_no_file(toy: Artefacts) -> None:
    """Even with semihosting on, which it never is, there is nothing to open."""
    with Executor(toy, ranges=TOY_RANGES, settings=SEMIHOSTING) as executor:
        observation = executor.run(call(HOST))
        assert observation.status is Outcome.DONE
        # SYS_OPEN's answer, which the toy leaves in x0 and stores nowhere: ask QEMU which files it has open.
        opened = {os.readlink(entry) for entry in Path(f"/proc/{executor.machine.pid}/fd").iterdir()}
        assert not [path for path in opened if path.endswith("passwd")]


PARENT = """
import os, pickle, sys, threading, time
from harness.execution.executor import Executor
from tests.system.toy import HANG, TOY_RANGES, call
artefacts = pickle.load(open(sys.argv[1], "rb"))
executor = Executor(artefacts, ranges=TOY_RANGES)
with executor:
    held = os.fork() if sys.argv[2] == "forked" else 1
    if not held:
        time.sleep(30)
    print(executor.machine.pid, flush=True)
    if sys.argv[2] == "crash":
        raise RuntimeError("as asked")
    if sys.argv[2] == "exit":
        os._exit(3)
    if sys.argv[2] == "end":
        sys.exit(0)
    if sys.argv[2] == "busy":
        executor.config.__dict__["hang_milliseconds"] = 20000
        executor.run(call(HANG))
    time.sleep(30)
"""


@pytest.mark.parametrize(
    ("what", "sent"),
    [
        ("wait", signal.SIGKILL),
        ("busy", signal.SIGKILL),
        ("forked", signal.SIGKILL),
        ("wait", signal.SIGINT),
        ("busy", signal.SIGINT),
        ("wait", signal.SIGTERM),
        ("crash", 0),
        ("exit", 0),
        ("end", 0),
    ],
)
def test_nothing_is_left(toy: Artefacts, tmp_path: Path, what: str, sent: int) -> None:
    """However the process that started it ends: no process, no file."""
    pickled = tmp_path / "artefacts"
    pickled.write_bytes(pickle.dumps(toy))
    private = tmp_path / "tmp"
    private.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(private)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(pickled), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    try:
        pid = int(parent.stdout.readline())
        # Where the parent does not wait for a signal, QEMU may be gone before anybody can look.
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            if sent:
                time.sleep(0.05)
                os.kill(parent.pid, sent)
            parent.wait(10)
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                signal.pidfd_send_signal(pidfd, 0)
                time.sleep(0.005)
            pytest.fail(f"QEMU {pid} outlives its parent")
    finally:
        os.killpg(parent.pid, signal.SIGKILL) if what == "forked" else None
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert not list(private.iterdir())
    assert not [name for name in os.listdir("/dev/shm") if "ram" in name or "control" in name]


def test_no_wrapper_is_left(toy: Artefacts) -> None:
    """Bubblewrap and its init end with QEMU."""
    with Executor(toy, ranges=TOY_RANGES) as executor:
        process = executor.machine._process
        assert process is not None
        tree = [process.pid]
        for pid in tree:
            tree += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        assert executor.machine.pid in tree
        executor.machine.kill()
        deadline = time.monotonic() + 2
        while any(Path(f"/proc/{pid}").exists() for pid in tree):
            assert time.monotonic() < deadline
            time.sleep(0.005)


def as_nobody(artefacts: Artefacts, conclusion: Path) -> None:
    """In a child process: become an ordinary user, and run a program."""
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    # A process that changes its user may no longer look at itself, until it is made like one that began as that user.
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
    try:
        with Executor(artefacts, ranges=TOY_RANGES) as executor:
            shown = status(executor.machine.pid)
            outcome = executor.run(call(HOST)).status
            conclusion.write_text(f"{outcome} {shown['Seccomp']} {shown['CapEff']} {len(executor.audit())}")
            with executor.debugger() as gdb:
                gdb.registers()
    except BaseException as error:
        conclusion.write_text(f"{type(error).__name__}: {error}")
        raise


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
def test_runs_as_an_ordinary_user(toy: Artefacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root: in a user namespace of its own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o777)
        copies: dict[str, Any] = {}
        for field in dataclasses.fields(toy):
            value = getattr(toy, field.name)
            if isinstance(value, Path) and value.is_file():
                copies[field.name] = Path(shutil.copy(value, directory))
                copies[field.name].chmod(0o644)
        monkeypatch.setenv("BOTHWORLDS_CACHE", str(directory / "cache"))
        conclusion = directory / "conclusion"
        child = multiprocessing.get_context("fork").Process(
            target=as_nobody, args=(dataclasses.replace(toy, **copies), conclusion)
        )
        child.start()
        child.join(60)
        assert conclusion.read_text() == "el3-panic 2 0000000000000000 0"
        assert child.exitcode == 0


def fake_tools(directory: Path, **scripts: str) -> str:
    """A PATH with the system's programs but for `bwrap`, and with the given ones."""
    for name, script in scripts.items():
        (directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (directory / name).chmod(0o755)
    for name in ("qemu-system-aarch64", "setpriv", "taskset", "gcc", "gdb-multiarch"):
        (directory / name).symlink_to(tool(name))
    return str(directory)


def test_no_namespaces(toy: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU never runs unconfined; the error tells what to change."""
    refusal = "echo 'bwrap: No permissions to create new namespace' >&2; exit 1"
    monkeypatch.setenv("PATH", fake_tools(tmp_path, bwrap=refusal))
    confinement.check.cache_clear()
    with pytest.raises(EnvironmentFailure, match=r"(?s)No permissions.*(namespaces|root)"):
        Executor(toy, ranges=TOY_RANGES).__enter__()


def test_no_bubblewrap(toy: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake_tools(tmp_path))
    with pytest.raises(MissingPackage, match="apt-get install bubblewrap"):
        Executor(toy, ranges=TOY_RANGES).__enter__()
