# SPDX-License-Identifier: BSD-2-Clause
"""Builds the toy machine: the park protocol without a kernel (see toy.S)."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from harness import protocol
from harness.build.artefacts import Artefacts
from harness.build.plugin import build_plugin
from harness.configs import MachineConfig
from harness.machine.version import PROGRAM, qemu_version
from harness.packages import tool

SOURCE = Path(__file__).with_name("toy.S")
STORE, SET, HANG, HOST, PARK, PRINT, CALL, COUNT = range(8)
SECURE, NORMAL, OUTSIDE = 0x0E10_0000, 0x4030_0000, 0x0E20_0000
"""Addresses that a program may store to: in the restore set, and outside of it."""
TOY_RANGES = [(SECURE, 0x40000), (NORMAL, 0x40000)]
X27 = 28
"""The toy's only register, as `omit_register` counts."""


def call(operation: int, address: int = 0, value: int = 0) -> bytes:
    """One call of a toy program."""
    return struct.pack("<B7xQQ8x", operation, address, value)


def build_toy(config: MachineConfig, directory: Path, *, hang_in_boot: bool = False, qemu: str = PROGRAM) -> Artefacts:
    """The toy as if it were a build of the system."""
    (directory / "protocol.h").write_text(protocol.header())
    values = {
        "TOY_FIRMWARE_RAM": config.firmware_ram.base,
        "TOY_MESSAGE": config.firmware_ram.base + protocol.MESSAGE_OFFSET,
        "TOY_EXCHANGE": config.exchange.base,
        "TOY_KERNEL": config.secure_ram.base,
        "TOY_ROOT_TASK": config.normal_ram.base + 0x200000,
        "TOY_UART": config.region("uart1").base,
        "TOY_HANG_IN_BOOT": int(hang_in_boot),
    }
    firmware, kernel = directory / "toy.elf", directory / "kernel.elf"
    compiler = tool("aarch64-linux-gnu-gcc")
    common = [compiler, "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-g"]
    defines = [f"-D{name}={value:#x}" for name, value in values.items()]
    subprocess.run([*common, *defines, f"-I{directory}", "-Wl,-Ttext=0", "-o", str(firmware), str(SOURCE)], check=True)
    (directory / "kernel.S").write_text(".text\n.globl _start\n_start: ret\n")
    place = f"-Wl,-Ttext={config.secure_ram.base:#x}"
    subprocess.run([*common, place, "-o", str(kernel), str(directory / "kernel.S")], check=True)
    flash = directory / "flash.bin"
    objcopy = tool("aarch64-linux-gnu-objcopy")
    subprocess.run([objcopy, "-O", "binary", "-j", ".text", str(firmware), str(flash)], check=True)
    return Artefacts(
        config=config,
        release=False,
        kernel_elf=kernel,
        kernel_generated=directory,
        kernel_source=directory,
        firmware_elf=firmware,
        root_task_elf=kernel,
        victim_elf=kernel,
        flash=flash,
        plugin=build_plugin(qemu_version(tool(qemu))),
        hashes={},
    )
