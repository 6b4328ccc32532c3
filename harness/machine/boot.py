# SPDX-License-Identifier: BSD-2-Clause
"""Booting in named stages, each with a deadline.

The plugin tells the stages by where the CPU executes, so they are the same in debug and
release builds, whatever is printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from harness import protocol
from harness.errors import StageTimeout
from harness.machine.qemu import Qemu

_POLL_SECONDS = 0.001


class Stage(StrEnum):
    """How far a machine has come."""

    LAUNCHED = "launched"
    """QEMU answers; the CPU is stopped before its first instruction."""
    FIRMWARE = "firmware"
    """EL3 executes."""
    KERNEL = "kernel"
    """The kernel executes."""
    ROOT_TASK = "root-task"
    """The root task executes."""
    PARKED = "parked"
    """The guest waits for the first program."""


@dataclass(frozen=True)
class BootEvent:
    """A stage that was reached: seconds since the start of QEMU, and what the console said since the last one."""

    stage: Stage
    seconds: float
    console: str


Listener = Callable[[BootEvent], None]


def boot(qemu: Qemu, listener: Listener | None = None, *, until: Stage = Stage.PARKED) -> list[BootEvent]:
    """Start QEMU and let the guest run until it is parked, or until an earlier stage.

    With `until` LAUNCHED the CPU stays stopped. Raises LaunchFailure, StageTimeout with console and QEMU's
    output, or MachineLost.
    """
    control = np.frombuffer(qemu.shared.control.map, protocol.CONTROL, 1)
    deadlines = qemu.artefacts.config.deadlines
    reached: dict[Stage, Callable[[], bool]] = {
        Stage.FIRMWARE: lambda: control["stage"][0] >= protocol.BootStage.FIRMWARE,
        Stage.KERNEL: lambda: control["stage"][0] >= protocol.BootStage.KERNEL,
        Stage.ROOT_TASK: lambda: control["stage"][0] >= protocol.BootStage.ROOT_TASK,
        Stage.PARKED: lambda: control["parks"][0] > 0,
    }
    start, events, printed = time.monotonic(), [], 0

    def emit(stage: Stage) -> None:
        nonlocal printed
        console = qemu.secure_console
        text, printed = console.text(printed), console.size()
        event = BootEvent(stage, time.monotonic() - start, text)
        events.append(event)
        if listener is not None:
            listener(event)

    qemu.launch()
    emit(Stage.LAUNCHED)
    if until is Stage.LAUNCHED:
        return events
    qemu.qmp("cont")
    for stage, condition in reached.items():
        deadline: float = getattr(deadlines, stage.value.replace("-", "_"))
        while not condition():
            if not qemu.running:
                raise qemu.lost(f"QEMU ended before boot stage '{stage}'")
            if time.monotonic() - start > deadline:
                raise StageTimeout(stage.value, deadline, qemu.secure_console.text(), qemu.stderr)
            time.sleep(_POLL_SECONDS)
        emit(stage)
        if stage is until:
            break
    return events
