# SPDX-License-Identifier: BSD-2-Clause
"""What the tests of campaigns share: campaigns as processes of their own, and what lies in their directories."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.findings.bundle import FINDING_FILE, read_bundle

PROJECT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "harness.cli", "fuzz"]
PLANTED = PROJECT / "kernel_patches" / "planted" / "world_lost_on_remap.patch"
"""A bug that every campaign finds within a second."""


def descendants(pid: int) -> set[int]:
    """All processes below a process."""
    found: set[int] = set()
    pending = [pid]
    while pending:
        parent = pending.pop()
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                for child in Path(f"/proc/{parent}/task/{task}/children").read_text().split():
                    found.add(int(child))
                    pending.append(int(child))
        except OSError:
            continue
    return found


def qemus_below(pid: int) -> set[int]:
    """QEMU processes below a process."""
    found = set()
    for child in descendants(pid):
        try:
            if "qemu-system" in os.readlink(f"/proc/{child}/exe"):
                found.add(child)
        except OSError:
            continue
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that still run."""
    running = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            running.add(pid)
    return running


def until(condition: Callable[[], object], seconds: float) -> bool:
    """Whether a condition becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone_within(pids: set[int], seconds: float) -> bool:
    """Whether all of them end in time."""
    return until(lambda: not alive(pids), seconds)


def start(*options: str, before: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
    """A campaign as a process of its own."""
    return subprocess.Popen(
        [*before, *COMMAND, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=PROJECT,
        env=os.environ | environment,
    )


def report(directory: Path) -> dict[str, Any]:
    """The report that a campaign left."""
    data: dict[str, Any] = json.loads((directory / "campaign.json").read_text())
    return data


def torn_files(directory: Path) -> list[Path]:
    """Files below a campaign's directory that are not whole under their final name."""
    torn = []
    for path in (directory / "corpus").glob("[!.]*"):
        if hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest() != path.name:
            torn.append(path)
    for path in directory.rglob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            torn.append(path)
    for path in directory.glob(f"[!.]*/{FINDING_FILE}"):
        read_bundle(path.parent)
    return torn


def count_of(trouble: str, text: str) -> int:
    """How often a trouble happened, as the summary says, which comes last."""
    found = re.findall(re.escape(trouble) + r" \((?:(\d+) times, first )?after ", text)
    return int(found[-1] or 1) if found else 0
