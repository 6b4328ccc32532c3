# SPDX-License-Identifier: BSD-2-Clause
"""Which QEMU there is, and whether it is new enough."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from pathlib import Path

from harness.configs import MachineConfig
from harness.errors import EnvironmentFailure
from harness.packages import install_command

PROGRAM = "qemu-system-aarch64"


def qemu_version(path: str | Path) -> tuple[int, ...]:
    """Version of a QEMU program, as (major, minor, micro).

    Raises EnvironmentFailure if it does not run or prints no version.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise EnvironmentFailure(f"cannot run {path}: {error.strerror}") from error
    return _ask(str(path), status.st_mtime_ns, status.st_size)


@functools.cache
def _ask(path: str, _modified: int, _size: int) -> tuple[int, ...]:
    try:
        result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentFailure(f"cannot run {path}: {error}") from error
    match = re.search(r"version (\d+)\.(\d+)(?:\.(\d+))?", result.stdout)
    if not match:
        raise EnvironmentFailure(f"{path} --version says no version: {(result.stdout + result.stderr).strip()[:300]!r}")
    return tuple(int(part or 0) for part in match.groups())


def check_version(config: MachineConfig, path: str | Path) -> tuple[int, ...]:
    """The QEMU's version.

    Raises EnvironmentFailure if it is older than the config allows.
    """
    version = qemu_version(path)
    minimum = tuple(int(part) for part in config.qemu.minimum_version.split("."))
    needed = config.qemu.minimum_version
    if version[: len(minimum)] < minimum:
        raise EnvironmentFailure(
            f"{path} is QEMU {'.'.join(map(str, version))}, but config '{config.name}' needs {needed} or newer "
            f"(qemu.minimum_version): run '{install_command('qemu-system-arm')}' on a newer distribution"
        )
    return version
