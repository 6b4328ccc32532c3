# SPDX-License-Identifier: BSD-2-Clause
"""What a machine needs to run the project: each need checked, with the command that meets it."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.build.artefacts import PROJECT, cache_directory
from harness.build.cache import damages
from harness.configs import MachineConfig
from harness.errors import EnvironmentFailure, MissingPackage
from harness.machine import confinement, version
from harness.packages import Package, install_command, packages

LOCK = PROJECT / "requirements.lock"
SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_BYTES = 64 << 20
"""Room for control, coverage and the touched pages of normal RAM of one worker."""
PROBE_SECONDS = 20
MEND = "bothworlds doctor --mend"
_INSTALL = [sys.executable, "-m", "pip", "install", "--no-input", "-r", str(LOCK)]


@dataclass(frozen=True)
class Need:
    """One thing that was checked.

    `state` is what was found, `remedy` what to do where it is not good ("" otherwise); `mend` does it, where that
    takes no more rights than this process has: it says what it did, and raises EnvironmentFailure where it fails.
    """

    name: str
    good: bool
    state: str
    remedy: str = ""
    mend: Callable[[], str] | None = None


def _output(*command: str) -> tuple[int, str]:
    """Exit code and output of a program; a program that hangs counts as failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return -1, str(problem)
    return done.returncode, done.stdout + done.stderr


def _package(package: Package, config: MachineConfig) -> Need:
    if not package.command:
        # Headers without a program of their own, and the environment that this very process runs in.
        if package.name == "libc6-dev" and not Path("/usr/include/stdio.h").exists():
            return Need(package.name, False, "missing", f"{install_command(package.name)}: {package.purpose}")
        return Need(package.name, True, "present")
    path = shutil.which(package.command)
    if path is None:
        return Need(package.command, False, "missing", f"{install_command(package.name)}: {package.purpose}")
    code, output = _output(path, "--version")
    first = output.splitlines()[0] if output.strip() else ""
    if code != 0:
        remedy = install_command("--reinstall", package.name)
        return Need(package.command, False, f"{path} does not run: {first}", remedy)
    if package.command == version.PROGRAM:
        try:
            version.check_version(config, path)
        except EnvironmentFailure as problem:
            return Need(package.command, False, first, str(problem))
    return Need(package.command, True, first)


def _python() -> Iterator[Need]:
    running = ".".join(str(part) for part in sys.version_info[:3])
    yield Need("python", sys.version_info >= (3, 11), f"{running} in {sys.prefix}", "3.11 or newer is needed")
    wrong = []
    for line in LOCK.read_text().splitlines():
        name, _, pinned = line.partition("==")
        if not pinned or line.startswith("#"):
            continue
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if found != pinned:
            wrong.append(f"{name} {found} instead of {pinned}")
    state = ", ".join(wrong) or "as in requirements.lock"
    if not wrong or sys.prefix == sys.base_prefix or not os.access(sys.prefix, os.W_OK):
        yield Need("python packages", not wrong, state, "make setup" if wrong else "")
        return
    yield Need("python packages", False, state, f"{MEND} (or {shlex.join(_INSTALL)})", _install_packages)


def _install_packages() -> str:
    """Install what requirements.lock names into the environment that this process runs in."""
    done = subprocess.run(_INSTALL, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-5:]
        raise EnvironmentFailure("\n".join([f"'{shlex.join(_INSTALL)}' ended with {done.returncode}:", *last]))
    return "installed what requirements.lock names"


def _builds(*, thorough: bool) -> Need:
    """What the cache holds, and whether it is whole."""
    found = damages(thorough=thorough)
    if not found:
        return Need("builds", True, f"whole, in {cache_directory()}")

    def mend() -> str:
        for damage in found:
            damage.mend()
        return f"removed {len(found)} directories from the cache; what is needed is built again"

    shown = "; ".join(f"{damage.path.name}: {damage.what}" for damage in found[:3])
    more = f"; {len(found) - 3} more" if len(found) > 3 else ""
    return Need("builds", False, shown + more, f"{MEND} (the next build replaces what it needs by itself)", mend)


def _writable(name: str, directory: Path, remedy: str) -> Need:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory):
            pass
    except OSError as problem:
        return Need(name, False, f"{directory}: {problem.strerror}", remedy)
    return Need(name, True, str(directory))


def _shared_memory() -> Need:
    need = _writable("shared memory", SHARED_MEMORY, f"mount a tmpfs on {SHARED_MEMORY}")
    if not need.good:
        return need
    state = os.statvfs(SHARED_MEMORY)
    free = state.f_bavail * state.f_frsize
    remedy = "" if free >= SHARED_MEMORY_BYTES else f"free {SHARED_MEMORY_BYTES >> 20} MiB of {SHARED_MEMORY}"
    return Need("shared memory", not remedy, f"{free >> 20} MiB free in {SHARED_MEMORY}", remedy)


def _confinement() -> Need:
    try:
        confinement.check()
    except MissingPackage as problem:
        return Need("confinement", False, f"{problem.name} is missing", problem.install)
    except EnvironmentFailure as problem:
        state, _, remedy = str(problem).partition("\n")
        return Need("confinement", False, state, remedy.strip())
    return Need("confinement", True, "bubblewrap keeps QEMU from the host's files")


def examine(config: MachineConfig, *, thorough: bool = False) -> list[Need]:
    """Check every need of a config; takes about a second, or some more if `thorough` (every file of every build)."""
    checks: list[Callable[[], Need]] = [
        _shared_memory,
        _confinement,
        lambda: _writable("cache", cache_directory(), "set BOTHWORLDS_CACHE to a directory that you can write"),
        lambda: _builds(thorough=thorough),
    ]
    needs = [_package(package, config) for package in packages()]
    needs += _python()
    needs += [check() for check in checks]
    return needs
