# SPDX-License-Identifier: BSD-2-Clause
"""Machine configs: one YAML file a world layout (`qemu_configs/`), checked field by field.

A config is the ground truth about physical addresses: which world and kind of memory or
device answers at each of them. Every other module takes its addresses from here.
"""

from __future__ import annotations

import difflib
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import ConfigError

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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Region(_Strict):
    """A range of physical addresses with one world, kind and use.

    `window` tells whether the kernel's own window maps it.
    """

    name: str
    base: Annotated[int, Field(ge=0, lt=1 << 48)]
    size: Annotated[int, Field(gt=0, le=1 << 48)]
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


class Extent(_Strict):
    """A plain range of physical addresses."""

    base: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(gt=0)]

    @property
    def end(self) -> int:
        """First physical address behind the range."""
        return self.base + self.size


class Qemu(_Strict):
    """How QEMU is started."""

    minimum_version: str = "7.2"
    cpu: str = "cortex-a57"
    memory_mib: Annotated[int, Field(ge=256, le=8192)] = 2048


class Kernel(_Strict):
    """Kernel options: names without CONFIG_, values as the kernel's Kconfig has them."""

    options: dict[str, bool | int | str] = {}


class Deadlines(_Strict):
    """Seconds that each boot stage may take, measured from the start of QEMU."""

    launched: float = 10
    firmware: float = 10
    kernel: float = 10
    root_task: Annotated[float, Field(alias="root-task")] = 15
    parked: float = 20


class MachineConfig(_Strict):
    """One world layout."""

    name: str
    description: str = ""
    qemu: Qemu = Qemu()
    regions: tuple[Region, ...]
    exchange: Extent
    kernel: Kernel = Kernel()
    arena_bits: Annotated[int, Field(ge=14, le=21)] = 18
    deadlines: Deadlines = Deadlines()
    hang_milliseconds: Annotated[int, Field(ge=50, le=10000)] = 400

    @model_validator(mode="after")
    def _regions_do_not_overlap(self) -> MachineConfig:
        ordered = sorted(self.regions, key=lambda region: region.base)
        for lower, upper in zip(ordered, ordered[1:], strict=False):
            if lower.end > upper.base:
                raise ValueError(f"regions '{lower.name}' and '{upper.name}' overlap at {upper.base:#x}")
        names = [region.name for region in self.regions]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two regions are called '{name}'")
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

    Raises ConfigError, whose message names file, line and field.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = CONFIG_DIRECTORY / f"{name_or_path}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(str(name_or_path), config_names(), 1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; there are: {', '.join(config_names())}"
        raise ConfigError(f"no machine config '{name_or_path}'{hint}")
    try:
        data: Any = yaml.safe_load(path.read_text())
        return MachineConfig.model_validate(data)
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
