# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds boot`."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.options import (
    ConfigArgument,
    ExtraPatchOption,
    FirmwareOption,
    KernelSourceOption,
    NoSeriesOption,
    ReleaseOption,
    built,
)
from harness.commands.output import say
from harness.configs import DEFAULT_CONFIG

if TYPE_CHECKING:
    from harness.machine.boot import BootEvent
    from harness.machine.qemu import Qemu

_POLL_SECONDS = 0.2
_LAST_WORDS_SECONDS = 0.2


def boot(
    config: ConfigArgument = DEFAULT_CONFIG,
    release: ReleaseOption = False,
    extra_patch: ExtraPatchOption = None,
    kernel_source: KernelSourceOption = None,
    no_series: NoSeriesOption = False,
    firmware: FirmwareOption = None,
    gdb: Annotated[bool, typer.Option("--gdb", help="Stop before the first instruction and wait for gdb.")] = False,
) -> None:
    """Boot, and show each stage and console until the machine is parked."""
    artefacts = built(
        config,
        release=release,
        extra=extra_patch,
        kernel_source=kernel_source,
        no_series=no_series,
        firmware=firmware,
    )
    from harness.machine.boot import Stage
    from harness.machine.boot import boot as boot_machine
    from harness.machine.qemu import Qemu, Shared

    shared = Shared.create(artefacts)
    try:
        with Qemu(artefacts, shared) as qemu:
            if gdb:
                boot_machine(qemu, until=Stage.LAUNCHED)
                _wait_for_gdb(qemu)
                return
            boot_machine(qemu, _show)
            time.sleep(_LAST_WORDS_SECONDS)  # the normal world's console has no stage to come with
            normal = qemu.console("normal").text()
            say("normal world's console" + ("" if normal else ": silent"), "bold")
            _show_console(normal)
            version = ".".join(str(part) for part in qemu.version)
            kind = "release" if release else "debug"
            say(f"{artefacts.config.name} is parked (QEMU {version}, {kind} kernel)", "green")
    finally:
        shared.close()


def _show(event: BootEvent) -> None:
    # What was printed before a stage is known belongs to the stage before it.
    _show_console(event.console)
    say(f"{event.seconds * 1000:7.1f} ms  {event.stage}", "bold")


def _show_console(text: str) -> None:
    for line in text.splitlines():
        if line.strip():
            say(f"            | {line}")


def _wait_for_gdb(qemu: Qemu) -> None:
    """Tell how to attach, and keep the stopped machine until it ends or the user has had enough."""
    import numpy as np

    from harness import protocol

    # Parked without blocking, so that gdb gets through then too.
    np.frombuffer(qemu.shared.control.map, protocol.CONTROL, 1)["leave"][0] = 1
    built = qemu.artefacts
    symbols = (f"add-symbol-file {shlex.quote(str(path))}" for path in (built.firmware_elf, built.root_task_elf))
    commands = [*symbols, f"target remote {qemu.gdb_target}"]
    line = ["gdb-multiarch", str(built.kernel_elf), *(word for text in commands for word in ("-ex", text))]
    say("The machine is stopped before its first instruction. In another terminal:")
    say(f"  {shlex.join(line)}")
    say("Ctrl-C here ends the machine.")
    while qemu.running:
        time.sleep(_POLL_SECONDS)
