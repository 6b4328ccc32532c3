# SPDX-License-Identifier: BSD-2-Clause
"""Programs that the project needs from the system, and the command that installs each."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.errors import MissingPackage

LIST = Path(__file__).with_name("packages.txt")


@dataclass(frozen=True)
class Package:
    """A Debian package; `command` is the program by which an installation from elsewhere counts too ("" if none)."""

    name: str
    command: str
    purpose: str


@cache
def packages() -> tuple[Package, ...]:
    """All packages that the project needs, in the order of `packages.txt`."""
    lines = [line for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
    return tuple(Package(*line.split("|")) for line in lines)


def install_command(*names: str) -> str:
    """What a user types to install Debian packages."""
    return ("" if os.geteuid() == 0 else "sudo ") + f"apt-get install {' '.join(names)}"


def tool(command: str, why: str = "") -> str:
    """Absolute path of a program of the system.

    Raises MissingPackage with the command that installs it.
    """
    if path := shutil.which(command):
        return path
    # Programs of one toolchain share its prefix: aarch64-linux-gnu-as comes with the compiler's package.
    prefix = command.rpartition("-")[0]
    for package in packages():
        if command == package.command or (prefix and package.command.startswith(f"{prefix}-g")):
            raise MissingPackage(command, install_command(package.name), why or package.purpose)
    raise MissingPackage(command, install_command(command), why)
