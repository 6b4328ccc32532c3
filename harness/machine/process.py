# SPDX-License-Identifier: BSD-2-Clause
"""What the host tells of a process: where it is, how much it has run, whether it may."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def find(ancestor: int, program: str) -> int | None:
    """The id of a process at or below another one that runs the program of that file name; None if there is none."""
    pending = [ancestor]
    while pending:
        pid = pending.pop()
        with contextlib.suppress(OSError):
            if Path(os.readlink(f"/proc/{pid}/exe")).name == program:
                return pid
            for task in os.listdir(f"/proc/{pid}/task"):
                pending += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return None


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used; 0 once it has ended."""
    try:
        fields = _fields(Path(f"/proc/{pid}/stat"))
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_held(pid: int) -> bool:
    """Whether the host does not let a process run: a thread of it is stopped, or waits for a core or a disk."""
    try:
        return any(
            _fields(Path(f"/proc/{pid}/task/{task}/stat"))[0] in "RTtD" for task in os.listdir(f"/proc/{pid}/task")
        )
    except OSError:
        return False


def _fields(stat: Path) -> list[str]:
    """What follows the process's name, which may hold anything."""
    return stat.read_text().rpartition(")")[2].split()
