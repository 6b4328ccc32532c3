# SPDX-License-Identifier: BSD-2-Clause
"""A machine with memory of each world and kind, and a look at what the kernel keeps about it.

Parts of both RAMs are declared to be devices, so that what the kernel does to device memory can be read back.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness.build.artefacts import Artefacts
from harness.build.firmware import build_firmware
from harness.build.flash import build_flash
from harness.build.guests import build_root_task
from harness.build.kernel import build_kernel
from harness.build.system import build
from harness.configs import MachineConfig
from harness.execution.executor import Executor
from harness.execution.observation import Observation, Outcome
from harness.kernel_state.layout import Layout
from harness.kernel_state.state import KernelState, open_state
from harness.programs.interfaces import Interface
from harness.programs.population import Population, read_report
from harness.programs.program import Program
from harness.protocol import PAGE

POPULATION = Path(__file__).with_name("world_cells.yaml")
GIB = 1 << 30
MARK = 0x6B6565702D6F7574
"""What lies in memory before a program."""
Call = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One kind of memory; `name` begins the names of its untypeds."""

    name: str
    non_secure: bool
    device: bool

    @property
    def foreign(self) -> bool:
        """Whether the kernel keeps its hands off."""
        return self.non_secure or self.device

    def __str__(self) -> str:
        return self.name


SECURE = Cell("secure", False, False)
SECURE_DEVICE = Cell("secure-device", False, True)
NORMAL = Cell("normal", True, False)
NORMAL_DEVICE = Cell("normal-device", True, True)
CELLS = (SECURE, SECURE_DEVICE, NORMAL, NORMAL_DEVICE)


def with_all_kinds(config: MachineConfig) -> MachineConfig:
    """The config with devices in both RAMs: 2 MiB in each, and 1 GiB in the normal one."""
    data = config.model_dump(by_alias=True, mode="json")
    data["name"] = "every-cell"
    data["qemu"]["memory_mib"] = 4096
    regions = {region["name"]: region for region in data["regions"]}
    regions["secure-ram"]["size"] = 0x800000
    regions["normal-ram"]["size"] = 0xC0000000 - regions["normal-ram"]["base"]
    device = {"kind": "device", "use": "untyped"}
    data["regions"] += [
        {"name": "secure-device-2m", "base": 0x0E800000, "size": 0x200000, "world": "secure", **device},
        {"name": "normal-device-2m", "base": 0xC0000000, "size": 0x200000, "world": "non-secure", **device},
        {"name": "normal-device-1g", "base": 0x100000000, "size": GIB, "world": "non-secure", **device},
    ]
    return MachineConfig.model_validate(data)


def build_with(config: MachineConfig, population: Population) -> Artefacts:
    """The system of a config whose root task sets up another population."""
    kernel = build_kernel(config)
    guests = build_root_task(config, kernel, population)
    flash = build_flash(config, kernel, guests, build_firmware(config))
    usual = build(config)
    return dataclasses.replace(usual, root_task_elf=guests.root_task_elf, victim_elf=guests.victim_elf, flash=flash)


class Memory:
    """The untyped memory of one cell, with the size for frames of a type: runs programs on it, and looks at it."""

    def __init__(self, executor: Executor, cell: Cell, page: str = "page-4k") -> None:
        self.executor, self.cell = executor, cell
        self.interface = Interface.load(executor.artefacts)
        self.layout = Layout.from_artefacts(executor.artefacts)
        self.untyped = f"{cell.name}-{'1g' if page == 'page-1g' else '2m'}"
        report = read_report(executor.snapshot.read(executor.config.exchange.base, PAGE), self.interface.population)
        found = next(entry for entry in report if entry.object == self.untyped)
        self.base, self.size = found.address, found.size

    def run(self, calls: list[Call], *, stop_after: int = 0, marks: tuple[int, ...] = ()) -> Observation:
        """Run a program from the snapshot, with marks at some offsets of the memory."""
        program = program_of(calls, self.interface, self.cell.name)
        for offset in marks:
            self.executor.memory.write(self.base + offset, MARK.to_bytes(8, "little"))
        self.executor.memory.written = False  # they are to be there when the program begins
        observation = self.executor.run(program, stop_after=stop_after)
        assert observation.status is Outcome.DONE
        return observation

    @property
    def state(self) -> KernelState:
        """The kernel's state as the last program left it."""
        return open_state(self.layout, self.executor.config, self.executor.memory)

    def capabilities(self) -> list[tuple[str, int]]:
        """(type, binary logarithm of the size) of each capability to the memory, sorted.

        Every untyped and frame among them must say the world and kind of the memory.
        """
        table = self.state.caps
        rows = np.flatnonzero(
            (table.base >= self.base) & (table.base < self.base + self.size) & table.physical
        ).tolist()
        for row in rows:
            if table.type_name(row) in ("untyped_cap", "frame_cap"):
                said = (bool(table.non_secure[row]), bool(table.device[row]))
                assert said == (self.cell.non_secure, self.cell.device), table.describe(row)
        return sorted((table.type_name(row), int(table.bits[row])) for row in rows)

    def mappings(self) -> list[tuple[int, int, int, int]]:
        """(virtual address, binary logarithm of the size, AP, AttrIndx) of each entry that maps the memory, sorted.

        Each of them must have the NS bit of the memory's world.
        """
        walk = self.state.user_walk
        rows = np.flatnonzero(walk.leaf & (walk.base >= self.base) & (walk.base < self.base + self.size))
        found = []
        for row in rows:
            entry = int(walk.entry[row])
            assert (entry >> 5 & 1, bool(walk.ns[row])) == (self.cell.non_secure, self.cell.non_secure)
            found.append((int(walk.virtual[row]), int(walk.bits[row]), entry >> 6 & 3, entry >> 2 & 7))
        return sorted(found)

    def words(self, *offsets: int) -> list[int]:
        """The words at some offsets of the memory."""
        return [int.from_bytes(self.executor.memory.read(self.base + offset, 8), "little") for offset in offsets]


def call(name: str, target: str | int | None, victim: str = "secure", **arguments: Any) -> Call:
    """A call of a program; None for one that has no target."""
    return {"call": name, "victim": victim, **({} if target is None else {"target": target}), "with": arguments}


def program_of(calls: list[Call], interface: Interface, name: str = "program") -> bytes:
    """The bytes of a program."""
    return Program.from_yaml(yaml.safe_dump({"calls": calls}), interface, name).to_bytes()


def retype(untyped: str, type_: str, slot: str = "free:0", *, bits: int = 0, count: int = 1) -> Call:
    """Make objects in the first victim's slots from `slot` on."""
    return call("Untyped_Retype", untyped, type=type_, size_bits=bits, node_offset=slot, num_objects=count)


def errors(observation: Observation) -> list[int]:
    """The error of each call."""
    return [int(error) for error in observation.results["error"]]
