# SPDX-License-Identifier: BSD-2-Clause
"""The monitor between two guests without a kernel: bare.S as Trusted OS, normal.S as normal world (see there)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from harness import protocol
from harness.build import registers
from harness.build.artefacts import Artefacts
from harness.build.firmware import COMPILER, build_firmware, machine_header
from harness.build.flash import build_flash
from harness.configs import Level, MachineConfig
from harness.machine.boot import boot
from harness.machine.qemu import Qemu, Shared
from harness.packages import tool
from harness.protocol import ParkStatus
from tests.system.bare import BareMachine, Operation, build_guest, guest_artefacts, program_bytes

DIRECTORY = Path(__file__).parent
TRUSTED_OS = "trusted-os"
"""The config with a normal world."""
PASS_TURN = 0x03000001
# Byte offsets in the exchange area: the normal world's operation, the answer to its calls; its registers
# afterwards, the calls that the Trusted OS saw; what each world read of its registers.
NORMAL_OPERATION = protocol.EXCHANGE_PROGRAM + 0x400
ANSWER = protocol.EXCHANGE_PROGRAM + 0x800
NORMAL_RESULTS = protocol.EXCHANGE_RESULTS + 0x400
REQUESTS = protocol.EXCHANGE_RESULTS + 0x800
MAXIMUM_REQUESTS = 15
DUMPS = protocol.EXCHANGE_DECODED
DUMP_BYTES = 0x800


class NormalOperation(IntEnum):
    """What the normal world does with its turn."""

    NOTHING = 0
    SMC = 1
    SMC_IMMEDIATE = 2
    REGISTERS = 3
    WAIT = 4
    FORGE = 5
    LOAD = 6
    STORE = 7
    CALLS = 8


class Dump(IntEnum):
    """When a world reads all its registers: before and after it gave the CPU to the other one."""

    SECURE_BEFORE = 0
    SECURE_CALLED = 1
    SECURE_AFTER = 2
    NORMAL_BEFORE = 3
    NORMAL_AFTER = 4


SHARED = {
    "sctlr_el1": (1 << 26, 1 << 14), "cpacr_el1": (1 << 28, 0), "ttbr0_el1": (0, 0xFF000),
    "ttbr1_el1": (1 << 48, 0xFF000), "tcr_el1": (1 << 37, 1 << 7), "mair_el1": (0xFF << 56, 0xFF),
    "vbar_el1": (1 << 12, 0xFF000), "contextidr_el1": (0xFF, 0xFF00), "esr_el1": (0xFF, 0xFF00),
    "far_el1": (0xFF, 0xFF00), "par_el1": (0xFF << 12, 0xFF << 20), "elr_el1": (0, 0xFF000),
    "spsr_el1": (1 << 30, 1 << 29), "sp_el0": (0xFF0, 0xFF000), "tpidr_el0": (0xFF, 0xFF00),
    "tpidrro_el0": (0xFF, 0xFF00), "tpidr_el1": (0xFF, 0xFF00), "csselr_el1": (1, 2), "mdscr_el1": (1 << 12, 0),
    "cntkctl_el1": (3, 0x300), "fpcr": (3 << 22, 1 << 24), "fpsr": (1, 2),
}  # fmt: skip
"""Registers that both worlds can reach, with the bits that each of them flips."""
TIMERS = {"cntp_ctl_el0": 2, "cntp_cval_el0": 0xFF00, "cntv_ctl_el0": 2, "cntv_cval_el0": 0xFF00}
"""The normal world's, which go on while the other one runs."""
OF_EL2 = {
    "hcr_el2": 1 << 15, "sctlr_el2": 1 << 19, "cptr_el2": 1 << 31, "hstr_el2": 1, "mdcr_el2": 1 << 9,
    "cnthctl_el2": 1, "cntvoff_el2": 0xFF00, "vpidr_el2": 0xFF, "vmpidr_el2": 0xFF, "vtcr_el2": 0xFF00,
    "vttbr_el2": 0xFF000, "ttbr0_el2": 0xFF000, "tcr_el2": 0x3F, "mair_el2": 0xFF, "vbar_el2": 0xFF000,
    "esr_el2": 0xFF, "far_el2": 0xFF, "hpfar_el2": 0xFF0, "elr_el2": 0xFF0, "spsr_el2": 1 << 30,
    "tpidr_el2": 0xFF, "cnthp_ctl_el2": 2, "cnthp_cval_el2": 0xFF, "dacr32_el2": 0xFF, "ifsr32_el2": 0xFF,
    "fpexc32_el2": 1 << 30, "spsr_abt": 0x1F, "spsr_und": 0x1F, "spsr_irq": 0x1F, "spsr_fiq": 0x1F, "sp_el1": 0xFF0,
}  # fmt: skip
"""Registers that only a normal world at EL2 can reach. QEMU does not store ACTLR, AFSR, AMAIR and HACR."""


def normal_registers(config: MachineConfig) -> dict[str, int]:
    """What the normal world of a config flips."""
    assert config.normal_world is not None
    flipped = {name: masks[1] for name, masks in SHARED.items()} | TIMERS
    if registers.is_max(config):  # EL3 gives these to the normal world only
        flipped |= {name: 0xFF0F for name in registers.OF_MAX.values()}
    return flipped | (OF_EL2 if config.normal_world.level is Level.EL2 else {})


def names(config: MachineConfig, dump: Dump) -> list[str]:
    """What the words of a dump are: x0-x30, a word of nothing, system registers, halves of q0-q31."""
    normal = dump in (Dump.NORMAL_BEFORE, Dump.NORMAL_AFTER)
    system = list(normal_registers(config) if normal else SHARED)
    system += ["nothing"] * (len(system) % 2)
    vectors = [f"q{number}.{half}" for number in range(32) for half in ("low", "high")]
    return [*(f"x{number}" for number in range(31)), "nothing", *system, *vectors]


def _header(config: MachineConfig) -> str:
    lines = [f"#define WORLDS_{name} {value:#x}" for name, value in globals().items() if name in _SHOWN]
    lines += [f"#define WORLDS_{operation.name} {operation.value}" for operation in NormalOperation]
    lines += [f"#define DUMP_{dump.name} {DUMPS + DUMP_BYTES * dump:#x}" for dump in Dump]
    secure = {name: masks[0] for name, masks in SHARED.items()}
    for macro, masks in (("secure_registers", secure), ("normal_registers", normal_registers(config))):
        lines += [f".macro {macro} operation", *(f"\t\\operation {n}, {m:#x}" for n, m in masks.items()), ".endm"]
    return "\n".join(lines) + "\n"


_SHOWN = ("PASS_TURN", "NORMAL_OPERATION", "ANSWER", "NORMAL_RESULTS", "REQUESTS", "MAXIMUM_REQUESTS")


def build_normal(config: MachineConfig, directory: Path) -> Path:
    """Build the normal world's guest; the headers that the other one needs stay in the directory."""
    (directory / "protocol.h").write_text(protocol.header())
    (directory / "machine.h").write_text(machine_header(config))
    (directory / "worlds.h").write_text(_header(config))
    assert config.normal_world is not None
    output = directory / "normal.elf"
    command = [tool(COMPILER), "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", f"-I{directory}"]
    command += [f"-Wl,-Ttext={config.normal_world.memory.base:#x}", "-Wl,-n", str(DIRECTORY / "normal.S")]
    subprocess.run([*command, "-o", str(output)], check=True)
    return output


def build_worlds(config: MachineConfig, directory: Path) -> Artefacts:
    """Firmware and both guests in one flash image."""
    normal = build_normal(config, directory)
    guest, firmware = build_guest(config, directory, normal_world=True), build_firmware(config)
    flash = build_flash(config, guest, guest, firmware, normal_world=normal)
    return replace(guest_artefacts(config, guest, flash, firmware), normal_world_elf=normal)


class WorldsMachine(BareMachine):
    """Both guests, parked."""

    def turn(
        self,
        operation: NormalOperation,
        values: list[int] | None = None,
        answer: tuple[int, int, int, int] = (0xA0, 0xA1, 0xA2, 0xA3),
        **options: Any,
    ) -> ParkStatus:
        """Give the normal world its turn; why the machine parked."""
        base = self.config.exchange.base
        self.memory.write(base + NORMAL_OPERATION, program_bytes(Operation(int(operation)), values))
        self.memory.write(base + ANSWER, b"".join(word.to_bytes(8, "little") for word in answer))
        self.memory.write(base + NORMAL_RESULTS, bytes(0x400))
        self.memory.write(base + REQUESTS, bytes(0x400))
        secure = Operation.SWITCH if operation is NormalOperation.REGISTERS else Operation.TURN
        return self.run(secure, **options)

    def _words(self, offset: int, count: int) -> list[int]:
        data = self.memory.read(self.config.exchange.base + offset, 8 * count)
        return [int(value) for value in np.frombuffer(data, "<u8")]

    @property
    def normal_results(self) -> list[int]:
        """x0-x30 of the normal world after its operation."""
        return self._words(NORMAL_RESULTS, 31)

    @property
    def requests(self) -> list[list[int]]:
        """x0-x7 of each call that reached the Trusted OS."""
        count = self._words(REQUESTS, 1)[0]
        return [self._words(REQUESTS + 8 + 64 * number, 8) for number in range(count)]

    def dump(self, dump: Dump) -> dict[str, int]:
        """What a world read of its registers, by name."""
        found = names(self.config, dump)
        return dict(zip(found, self._words(DUMPS + DUMP_BYTES * dump, len(found)), strict=True))

    @property
    def account(self) -> Any:
        """EL3's account of the normal world."""
        place = self.config.firmware_ram.base + protocol.WORLDS_OFFSET
        return np.frombuffer(self.memory.read(place, protocol.WORLDS.itemsize), protocol.WORLDS)[0]


@contextmanager
def worlds_machine(artefacts: Artefacts) -> Iterator[WorldsMachine]:
    """A machine that has booted both guests and parked."""
    shared = Shared.create(artefacts)
    try:
        with Qemu(artefacts, shared) as qemu:
            machine = WorldsMachine(qemu, artefacts)
            boot(qemu)
            yield machine
    finally:
        shared.close()
