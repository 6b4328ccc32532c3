# SPDX-License-Identifier: BSD-2-Clause
"""Machine configs: one YAML file a world layout (`qemu_configs/`), checked field by field.

A config is the ground truth about physical addresses: which world and kind of memory or
device answers at each of them. Every other module takes its addresses from here.
"""

from __future__ import annotations

import difflib
import itertools
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from harness.errors import ConfigError
from harness.yaml_model import StrictModel, located_error, validate
from harness.yaml_source import read_yaml

CONFIG_DIRECTORY = Path(__file__).resolve().parent.parent / "qemu_configs"
DEFAULT_CONFIG = "spanning-el1"


class World(StrEnum):
    """Which world's accesses a physical address answers.

    BANKED answers both, each with registers of its own (the GIC).
    """

    SECURE = "secure"
    NON_SECURE = "non-secure"
    BANKED = "banked"


class Kind(StrEnum):
    """What answers at a physical address."""

    RAM = "ram"
    DEVICE = "device"
    FLASH = "flash"


class Use(StrEnum):
    """Who may use a region; see the comments in `qemu_configs/spanning-el1.yaml`."""

    FIRMWARE = "firmware"
    KERNEL = "kernel"
    UNTYPED = "untyped"
    RESERVED = "reserved"


PAGE = 0x1000
"""The window and the untypeds are made of whole pages, so regions are too."""


INTERRUPT_LINES = 256
"""As many as the kernel's platform knows."""
TIMER_LINE = 29
"""The kernel's timer, CNTPS: private interrupt 13 of every Arm machine."""


class Region(StrictModel):
    """A range of physical addresses with one world, kind and use.

    `window` tells whether the kernel's own window maps it.
    """

    name: Annotated[str, Field(min_length=1)]
    base: Annotated[int, Field(ge=0, lt=1 << 48, multiple_of=PAGE)]
    size: Annotated[int, Field(gt=0, le=1 << 48, multiple_of=PAGE)]
    world: World
    kind: Kind
    use: Use
    window: bool = False

    @property
    def end(self) -> int:
        """First physical address behind the region."""
        return self.base + self.size

    def covers(self, base: int, size: int = 1) -> bool:
        """Whether `[base, base + size)` lies wholly inside the region."""
        return self.base <= base and base + size <= self.end

    def overlaps(self, base: int, size: int) -> bool:
        """Whether `[base, base + size)` shares an address with the region."""
        return self.base < base + size and base < self.end


class Extent(StrictModel):
    """A plain range of physical addresses."""

    base: Annotated[int, Field(ge=0, lt=1 << 48, multiple_of=PAGE)]
    size: Annotated[int, Field(gt=0, le=1 << 48, multiple_of=PAGE)]

    @property
    def end(self) -> int:
        """First physical address behind the range."""
        return self.base + self.size


class Qemu(StrictModel):
    """How QEMU is started."""

    minimum_version: Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)?$")] = "7.2"
    cpu: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9,=._-]*$")] = "cortex-a57"
    memory_mib: Annotated[int, Field(ge=256, le=8192)] = 2048


class Kernel(StrictModel):
    """Kernel options: names without CONFIG_, values as the kernel's Kconfig has them."""

    options: dict[str, bool | int | str] = Field(default_factory=dict)


class Level(StrEnum):
    """Exception level at which EL3 enters the normal world."""

    EL1 = "el1"
    EL2 = "el2"


class NormalWorld(StrictModel):
    """The program that runs with NS=1 beside the kernel; see the comments in `qemu_configs/trusted-os.yaml`."""

    level: Level = Level.EL1
    memory: Extent
    shared: Extent
    save_el2: bool = False
    interrupts: tuple[Annotated[int, Field(ge=0, lt=INTERRUPT_LINES)], ...] = ()


class Deadlines(StrictModel):
    """Seconds that each boot stage may take, measured from the start of QEMU."""

    launched: Annotated[float, Field(gt=0)] = 10
    firmware: Annotated[float, Field(gt=0)] = 10
    kernel: Annotated[float, Field(gt=0)] = 10
    root_task: Annotated[float, Field(alias="root-task", gt=0)] = 15
    parked: Annotated[float, Field(gt=0)] = 20


class MachineConfig(StrictModel):
    """One world layout."""

    name: str
    description: str = ""
    qemu: Qemu = Qemu()
    regions: tuple[Region, ...]
    exchange: Extent
    normal_world: NormalWorld | None = None
    kernel: Kernel = Kernel()
    arena_bits: Annotated[int, Field(ge=14, le=21)] = 18
    deadlines: Deadlines = Deadlines()
    hang_milliseconds: Annotated[int, Field(ge=50, le=10000)] = 400

    @model_validator(mode="after")
    def _regions_do_not_overlap(self) -> MachineConfig:
        ordered = sorted(enumerate(self.regions), key=lambda item: item[1].base)
        for (first, lower), (second, upper) in itertools.pairwise(ordered):
            if lower.end > upper.base:
                message = f"regions '{lower.name}' and '{upper.name}' overlap at {upper.base:#x}"
                raise located_error(message, "regions", max(first, second))
        names: set[str] = set()
        for index, region in enumerate(self.regions):
            if region.name in names:
                raise located_error(f"two regions are called '{region.name}'", "regions", index, "name")
            names.add(region.name)
            if region.kind == Kind.RAM and region.world == World.BANKED:
                message = f"region '{region.name}': only a device can be banked, memory has one world"
                raise located_error(message, "regions", index, "world")
        return self

    @model_validator(mode="after")
    def _memory_has_its_parts(self) -> MachineConfig:
        parts = (
            ("secure RAM for the kernel", Use.KERNEL, World.SECURE),
            ("secure RAM for the firmware", Use.FIRMWARE, World.SECURE),
            ("RAM for untyped memory", Use.UNTYPED, World.NON_SECURE),
        )
        for what, use, world in parts:
            found = [r for r in self.regions if (r.kind, r.use, r.world) == (Kind.RAM, use, world)]
            if len(found) != 1:
                many = f"{len(found)} regions" if found else "no region"
                message = f"{many} with kind: ram, use: {use}, world: {world} ({what}): exactly one is needed"
                raise located_error(message, "regions")
        if not self.normal_ram.covers(self.exchange.base, self.exchange.size):
            low, high = self.normal_ram.base, self.normal_ram.end
            raise located_error(f"it must lie inside '{self.normal_ram.name}' ({low:#x} to {high:#x})", "exchange")
        return self

    @model_validator(mode="after")
    def _normal_world_has_its_place(self) -> MachineConfig:
        normal = self.normal_world
        if normal is None:
            return self
        ram = self.normal_ram
        taken = [("exchange", self.exchange)]
        for name, extent in (("memory", normal.memory), ("shared", normal.shared)):
            if not ram.covers(extent.base, extent.size):
                message = f"it must lie inside '{ram.name}' ({ram.base:#x} to {ram.end:#x})"
                raise located_error(message, "normal_world", name)
            for other, before in taken:
                if extent.base < before.end and before.base < extent.end:
                    message = f"it overlaps '{other}' ({before.base:#x} to {before.end:#x})"
                    raise located_error(message, "normal_world", name)
            taken.append((name, extent))
        lines = normal.interrupts
        for index, line in enumerate(lines):
            if line in lines[:index]:
                raise located_error(f"line {line} is listed twice", "normal_world", "interrupts", index)
            if line == TIMER_LINE:
                message = f"line {line} is the secure timer's: it stays in Group 0"
                raise located_error(message, "normal_world", "interrupts", index)
        return self

    def region(self, name: str) -> Region:
        """The region of that name; KeyError if there is none."""
        for region in self.regions:
            if region.name == name:
                return region
        raise KeyError(name)

    def region_at(self, address: int) -> Region | None:
        """The region that holds a physical address, if any."""
        for region in self.regions:
            if region.covers(address):
                return region
        return None

    @cached_property
    def secure_ram(self) -> Region:
        """Secure RAM of kernel, kernel objects and secure untyped memory."""
        return next(r for r in self.regions if r.use == Use.KERNEL)

    @cached_property
    def firmware_ram(self) -> Region:
        """Secure RAM that only EL3 may touch."""
        return next(r for r in self.regions if r.use == Use.FIRMWARE and r.kind == Kind.RAM)

    @cached_property
    def normal_ram(self) -> Region:
        """Non-secure RAM that is handed out as untyped memory."""
        return next(r for r in self.regions if r.use == Use.UNTYPED and r.kind == Kind.RAM)


def config_names() -> list[str]:
    """Names of the configs that come with the project."""
    return sorted(path.stem for path in CONFIG_DIRECTORY.glob("*.yaml"))


def load_config(name_or_path: str | Path = DEFAULT_CONFIG) -> MachineConfig:
    """Read a config by its name or by the path of a YAML file.

    Raises ConfigError, whose message names file, line and field of everything that is wrong.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and "/" not in str(name_or_path):
        path = CONFIG_DIRECTORY / f"{name_or_path}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, config_names(), 1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; there are: {', '.join(config_names())}"
        raise ConfigError(f"no machine config '{name_or_path}'{hint}")
    source = read_yaml(path, ConfigError)
    if not isinstance(source.data, dict):
        like = CONFIG_DIRECTORY / f"{DEFAULT_CONFIG}.yaml"
        raise ConfigError(f"{path}:1: a machine config is a list of fields, as in {like}")
    return validate(source, MachineConfig, ConfigError)
