# SPDX-License-Identifier: BSD-2-Clause
"""The programs that build the kernel: cross compiler, linker, and Python packages of the kernel's own generators."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from harness.errors import BuildFailure, MissingPackage

CROSS = "aarch64-linux-gnu-"
_GENERATOR_PACKAGES = ["tempita", "six", "ply"]


def run_tool(directory: Path, command: list[str]) -> None:
    """Run one of them in a directory. Raises BuildFailure with its output, MissingPackage."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "PYTHONPATH": "source/tools",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }
    try:
        result = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, errors="replace"
        )
    except FileNotFoundError as error:
        raise MissingPackage(command[0], "apt-get install gcc-aarch64-linux-gnu", "it builds the kernel") from error
    if result.returncode:
        shown = " ".join(argument for argument in command if argument != "--prune")
        output = (result.stdout + result.stderr).strip()
        raise BuildFailure(f"kernel build: {shown[:300]} ended with {result.returncode}:\n{output[-3000:]}")


@cache
def tool_versions() -> str:
    """Versions of what the build runs; MissingPackage."""
    if shutil.which(CROSS + "gcc") is None:
        raise MissingPackage(CROSS + "gcc", "apt-get install gcc-aarch64-linux-gnu", "it builds the kernel")
    versions = [
        subprocess.run([CROSS + tool, "--version"], capture_output=True, text=True).stdout for tool in ("gcc", "ld")
    ]
    for package in _GENERATOR_PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError as error:
            raise MissingPackage(
                f"Python package {package}",
                f"{sys.executable} -m pip install {package}",
                "the kernel's generators use it",
            ) from error
    return "\n".join(versions)
