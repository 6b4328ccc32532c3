# SPDX-License-Identifier: BSD-2-Clause
"""A guest at S-EL1 that does single things to the firmware (see bare.S), and a machine that runs it."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from harness import protocol
from harness.build.artefacts import Artefacts
from harness.build.firmware import COMPILER, FirmwareBuild, build_firmware, machine_header
from harness.build.flash import build_flash
from harness.build.plugin import build_plugin
from harness.build.registers import bank_register
from harness.configs import MachineConfig
from harness.execution.control import Control
from harness.kernel_state.elf import Elf
from harness.machine.boot import boot
from harness.machine.qemu import Qemu, Shared
from harness.machine.version import PROGRAM, qemu_version
from harness.packages import tool
from harness.protocol import Command, ParkStatus

DIRECTORY = Path(__file__).parent
VIRTUAL = 0xFFFFFF8000000000
PATTERN = 0x5A5A5A5A12345670
NONCE = 0xFEEDC0DE00112233
FULL = Command.RESTORE_REGISTERS | Command.INVALIDATE_TLB


class Operation(IntEnum):
    """What the guest does on waking."""

    NOTHING = 0
    SMC = 1
    SMC_IMMEDIATE = 2
    TIMER = 3
    WAIT = 4
    CHANGE_REGISTERS = 5
    CHANGE_INTERRUPTS = 6
    READ_INTERRUPTS = 7
    FORGE = 8
    TURN = 9
    """The normal world's turn; only beside one (tests/system/worlds)."""
    SWITCH = 10
    """The same, with all registers changed and read."""
    OTHER_SPACE = 11
    """An SMC from another address space than the one that has said that the Trusted OS is ready."""


@dataclass(frozen=True)
class Guest:
    """ELF files of the guest, as the flash image's parts."""

    elf: Path
    root_task_elf: Path


def build_guest(
    config: MachineConfig, directory: Path, smc_at_boot: int | None = None, normal_world: bool = False
) -> Guest:
    """Build the guest; with `smc_at_boot` it makes that SMC before anything else.

    With `normal_world` it is the Trusted OS of the guests in tests/system/worlds.
    """
    (directory / "protocol.h").write_text(protocol.header())
    (directory / "machine.h").write_text(machine_header(config))
    (directory / "operations.h").write_text("".join(f"#define BARE_{o.name} {o.value}\n" for o in Operation))
    values = {"BARE_VIRTUAL": VIRTUAL, "BARE_PATTERN": PATTERN}
    if smc_at_boot is not None:
        values["BARE_SMC_AT_BOOT"] = smc_at_boot
    if normal_world:
        values["BARE_NORMAL_WORLD"] = 1
    defines = [f"-D{name}={value:#x}" for name, value in values.items()]
    script = (DIRECTORY / "bare.lds").read_text().replace("BARE_VIRTUAL", hex(VIRTUAL))
    (directory / "bare.lds").write_text(script.replace("BARE_PHYSICAL", hex(config.secure_ram.base)))
    common = [tool(COMPILER), "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments"]
    kernel, root_task = directory / "bare.elf", directory / "root_task.elf"
    script_option = ["-T", str(directory / "bare.lds")]
    inputs = [f"-I{directory}", *defines, *script_option, str(DIRECTORY / "bare.S")]
    subprocess.run([*common, *inputs, "-o", str(kernel)], check=True)
    (directory / "root_task.S").write_text('.globl _start\n_start: .ascii "root task"\n')
    root_inputs = ["-Wl,-Ttext=0x400000", "-Wl,-n", str(directory / "root_task.S")]
    subprocess.run([*common, *root_inputs, "-o", str(root_task)], check=True)
    return Guest(kernel, root_task)


def guest_artefacts(config: MachineConfig, guest: Guest, flash: Path, firmware: FirmwareBuild) -> Artefacts:
    """The guest as if it were a build of the system."""
    return Artefacts(
        config=config,
        release=False,
        kernel_elf=guest.elf,
        kernel_generated=guest.elf.parent,
        kernel_source=guest.elf.parent,
        firmware_elf=firmware.elf,
        root_task_elf=guest.root_task_elf,
        victim_elf=guest.root_task_elf,
        flash=flash,
        plugin=build_plugin(qemu_version(tool(PROGRAM))),
        hashes={},
    )


def build_bare(config: MachineConfig, directory: Path, *, program: bytes = b"") -> Artefacts:
    """Firmware and guest in one flash image."""
    guest, firmware = build_guest(config, directory), build_firmware(config)
    return guest_artefacts(config, guest, build_flash(config, guest, guest, firmware, program=program), firmware)


def with_flash(artefacts: Artefacts, change: dict[int, bytes], path: Path) -> Artefacts:
    """The same artefacts with bytes of the flash image changed, by offset."""
    image = bytearray(artefacts.flash.read_bytes())
    for offset, data in change.items():
        image[offset : offset + len(data)] = data
    path.write_bytes(image)
    return replace(artefacts, flash=path)


def program_bytes(operation: Operation, values: list[int] | None = None) -> bytes:
    """The content of the program area: the operation, and x0-x30."""
    words = [int(operation), *(values or [])]
    return b"".join(word.to_bytes(8, "little") for word in [*words, *([0] * (32 - len(words)))])


class BareMachine:
    """The running guest, parked."""

    def __init__(self, qemu: Qemu, artefacts: Artefacts) -> None:
        self.qemu, self.config = qemu, artefacts.config
        self.memory = qemu.shared.memory
        self.control = Control(qemu.shared.control)
        self.control.fields["message_bytes"] = protocol.MESSAGE.itemsize
        self.firmware = Elf(artefacts.firmware_elf)
        self.sequence = 0

    @property
    def report(self) -> Any:
        """EL3's account of the last park."""
        data = self.memory.read(self.firmware.symbol("report").address, protocol.REPORT.itemsize)
        return np.frombuffer(data, protocol.REPORT)[0]

    @property
    def status(self) -> ParkStatus:
        """Why it parked."""
        return ParkStatus(int(self.report["status"]))

    def bank(self, name: str, which: str = "snapshot_bank") -> int:
        """A register's value in one of the firmware's banks."""
        register = bank_register(name, self.config)
        address = self.firmware.symbol(which).address + register.offset
        return int.from_bytes(self.memory.read(address, register.size), "little")

    @property
    def results(self) -> list[int]:
        """x0-x30 after the operation."""
        data = self.memory.read(self.config.exchange.base + protocol.EXCHANGE_RESULTS, 31 * 8)
        return [int(value) for value in np.frombuffer(data, "<u8")]

    def run(
        self,
        operation: Operation,
        values: list[int] | None = None,
        *,
        command: Command = FULL,
        omit_register: int = 0,
        nonce: int = NONCE,
    ) -> ParkStatus:
        """Perform one operation; why the guest parked."""
        base = self.config.exchange.base
        exchange = np.zeros((), protocol.EXCHANGE)
        exchange["nonce"] = NONCE
        exchange["current_call"] = 7
        self.memory.write(base + protocol.EXCHANGE_COMMAND, exchange.tobytes())
        self.memory.write(base + protocol.EXCHANGE_PROGRAM, program_bytes(operation, values))
        return self.send(command, nonce=nonce, omit_register=omit_register)

    def send(self, command: Command, *, nonce: int = NONCE, omit_register: int = 0) -> ParkStatus:
        """Send one message and wait for the park."""
        self.sequence += 1
        message = np.zeros((), protocol.MESSAGE)
        message["sequence"], message["command"] = self.sequence, int(command)
        message["nonce"], message["omit_register"] = nonce, omit_register
        self.control.fields["message"][0][: message.nbytes] = np.frombuffer(message.tobytes(), np.uint8)
        self.control.wake()
        for _ in range(250):
            if self.control.wait():
                return self.status
        raise AssertionError(f"the guest does not park; console: {self.qemu.secure_console.text()}")


@contextmanager
def bare_machine(artefacts: Artefacts) -> Iterator[BareMachine]:
    """A machine that has booted the guest and parked."""
    shared = Shared.create(artefacts)
    try:
        with Qemu(artefacts, shared) as qemu:
            machine = BareMachine(qemu, artefacts)
            boot(qemu)
            yield machine
    finally:
        shared.close()


def plain_console(artefacts: Artefacts, pattern: str) -> str:
    """Boot with plain QEMU (no plugin, nobody answers EL3) until the secure console shows a pattern; its text."""
    settings = artefacts.config.qemu
    options = ["-M", "virt,secure=on,virtualization=on", "-cpu", settings.cpu, "-m", f"{settings.memory_mib}M"]
    options += ["-nodefaults", "-display", "none", "-serial", "null", "-serial", "stdio"]
    command = [tool(PROGRAM), *options, "-bios", str(artefacts.flash)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    text = b""
    try:
        deadline = time.monotonic() + 10
        while not re.search(pattern, text.decode()):
            ready, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"the console does not show {pattern!r}: {text.decode()}"
            data = os.read(process.stdout.fileno(), 4096)
            assert data, f"QEMU ended: {text.decode()}"
            text += data
        return text.decode().replace("\r\n", "\n")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
