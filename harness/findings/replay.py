# SPDX-License-Identifier: BSD-2-Clause
"""A finding in the debugger: the machine stops right before the call that breaks it.

The replay is a cold boot with the program in flash. gdb first stops at the snapshot, then where a
system call enters the kernel, once the victims have come to that call: registers still hold the
call's arguments, and nothing of it has been done.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from harness import protocol
from harness.build.artefacts import PROJECT, Artefacts
from harness.errors import FindingError
from harness.findings.bundle import Bundle
from harness.findings.reproduce import cold_build
from harness.kernel_state.elf import Elf
from harness.machine.boot import Stage, boot
from harness.machine.qemu import Qemu, QemuSettings, Shared, kernel_window
from harness.packages import tool

SNAPSHOT_SYMBOL = "program_parked"
"""Where the firmware starts a program from flash."""
ENTRY_SYMBOLS = ("el0_sync", "el0_irq")
"""Where a system call, a fault or an interrupt of a thread enters the kernel."""

FRAMES = "set backtrace limit 24"
"""At the kernel's entry the stack pointer is the kernel's: gdb finds no end to the frames of a thread."""


def lead_to_call(artefacts: Artefacts, call: int, label: str) -> list[str]:
    """Commands of gdb that lead a machine with a program in its flash from reset to right before a call."""
    exchange = artefacts.config.exchange.base + kernel_window(Elf(artefacts.kernel_elf))
    fields = protocol.EXCHANGE.fields
    assert fields is not None

    def word(name: str) -> str:
        return f"*(unsigned long *){exchange + fields[name][1]:#x}"

    condition = f"{word('calls')} != 0 && {word('current_call')} == {call} && {word('next_call')} > {call}"
    return [
        f"tbreak *{SNAPSHOT_SYMBOL}",
        "continue",
        *(f"break *{symbol} if {condition}" for symbol in ENTRY_SYMBOLS),
        "continue",
        rf'printf "\nStopped right before call {call} ({label}): x0 capability, x1 message, x7 call.\n"',
    ]


class Replay:
    """A machine that is stopped before its first instruction, as a context manager; and the gdb command for it."""

    def __init__(self, bundle: Bundle, artefacts: Artefacts, settings: QemuSettings | None = None) -> None:
        if bundle.finding.first_call is None:
            raise FindingError(f"{bundle.path}: shows before the first call, so there is no call to stop at")
        self.call = bundle.finding.first_call
        self.label = bundle.finding.label
        self.artefacts = cold_build(artefacts, bundle.program)
        self._shared = Shared.create(self.artefacts)
        self._qemu = Qemu(self.artefacts, self._shared, settings or QemuSettings())

    def __enter__(self) -> Self:
        boot(self._qemu, until=Stage.LAUNCHED)
        # Parked without blocking, so that gdb gets through at the end of the program too.
        np.frombuffer(self._shared.control.map, protocol.CONTROL, 1)["leave"][0] = 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._qemu.kill()
        self._shared.close()

    def script(self) -> list[str]:
        """Commands of gdb that lead to the call."""
        return [
            "set confirm off",
            "set pagination off",
            FRAMES,
            f"directory {shlex.quote(str(self.artefacts.kernel_source.parent))}",
            f"directory {shlex.quote(str(PROJECT))}",
            *(f"add-symbol-file {shlex.quote(str(path))}" for path in self._more_symbols()),
            f"target remote {self._qemu.gdb_target}",
            *lead_to_call(self.artefacts, self.call, self.label),
        ]

    def _more_symbols(self) -> Sequence[object]:
        built = self.artefacts
        return (built.firmware_elf, built.victim_elf, built.root_task_elf)

    def command(self, *more: str, batch: bool = False) -> list[str]:
        """The command line of gdb; `more` commands follow the script, and with `batch` gdb ends after them."""
        words = [tool("gdb-multiarch", "it debugs the guest"), "-nx", "-q"]
        if batch:
            words.append("-batch")
        words.append(str(self.artefacts.kernel_elf))
        return [*words, *(word for text in (*self.script(), *more) for word in ("-ex", text))]

    def console(self) -> str:
        """What the secure console has said so far."""
        return self._qemu.secure_console.text()


def replay(bundle: Bundle, artefacts: Artefacts, script: Path | None = None) -> int:
    """Stop before the call and leave the user in gdb, or run a file of gdb's commands; returns gdb's exit code."""
    with Replay(bundle, artefacts) as machine:
        if script is None:
            return subprocess.run(machine.command(), check=False).returncode
        command = machine.command(f"source {script.resolve()}", batch=True)
        return subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode
