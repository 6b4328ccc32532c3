# SPDX-License-Identifier: BSD-2-Clause
"""Machine configs: one YAML file a world layout (`qemu_configs/`), checked field by field.

A config is the ground truth about physical addresses: which world and kind of memory or
device answers at each of them. Every other module takes its addresses from here.
"""

from __future__ import annotations

import difflib
import itertools
import typing
from collections.abc import Hashable, Sequence
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from harness.errors import ConfigError
from harness.yaml_source import YamlSource, read_yaml

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


def _wrong(message: str, *where: Hashable) -> PydanticCustomError:
    """An error of the config as a whole, shown at the line of the field that `where` leads to."""
    return PydanticCustomError("config", "{message}", {"message": message, "where": where})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=4096)


class Region(_Strict):
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


class Extent(_Strict):
    """A plain range of physical addresses."""

    base: Annotated[int, Field(ge=0, lt=1 << 48, multiple_of=PAGE)]
    size: Annotated[int, Field(gt=0, le=1 << 48, multiple_of=PAGE)]

    @property
    def end(self) -> int:
        """First physical address behind the range."""
        return self.base + self.size


class Qemu(_Strict):
    """How QEMU is started."""

    minimum_version: Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)?$")] = "7.2"
    cpu: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9,=._-]*$")] = "cortex-a57"
    memory_mib: Annotated[int, Field(ge=256, le=8192)] = 2048


class Kernel(_Strict):
    """Kernel options: names without CONFIG_, values as the kernel's Kconfig has them."""

    options: dict[str, bool | int | str] = {}


class Deadlines(_Strict):
    """Seconds that each boot stage may take, measured from the start of QEMU."""

    launched: Annotated[float, Field(gt=0)] = 10
    firmware: Annotated[float, Field(gt=0)] = 10
    kernel: Annotated[float, Field(gt=0)] = 10
    root_task: Annotated[float, Field(alias="root-task", gt=0)] = 15
    parked: Annotated[float, Field(gt=0)] = 20


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
        ordered = sorted(enumerate(self.regions), key=lambda item: item[1].base)
        for (first, lower), (second, upper) in itertools.pairwise(ordered):
            if lower.end > upper.base:
                message = f"regions '{lower.name}' and '{upper.name}' overlap at {upper.base:#x}"
                raise _wrong(message, "regions", max(first, second))
        names: set[str] = set()
        for index, region in enumerate(self.regions):
            if region.name in names:
                raise _wrong(f"two regions are called '{region.name}'", "regions", index, "name")
            names.add(region.name)
            if region.kind == Kind.RAM and region.world == World.BANKED:
                message = f"region '{region.name}': only a device can be banked, memory has one world"
                raise _wrong(message, "regions", index, "world")
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
                raise _wrong(message, "regions")
        if not self.normal_ram.covers(self.exchange.base, self.exchange.size):
            low, high = self.normal_ram.base, self.normal_ram.end
            raise _wrong(f"it must lie inside '{self.normal_ram.name}' ({low:#x} to {high:#x})", "exchange")
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
    try:
        return MachineConfig.model_validate(source.data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(source, detail) for detail in error.errors(include_url=False))) from error


def _explain(source: YamlSource, detail: ErrorDetails) -> str:
    """One line for one wrong field: file, line, field, what is wrong and what would be right."""
    location: Sequence[Hashable] = detail["loc"]
    context = detail.get("ctx", {})
    message = detail["msg"]
    if detail["type"] == "config":
        location = context["where"]
    elif detail["type"] == "extra_forbidden":
        known = _field_names(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, 1, cutoff=0.5)
        message = "unknown field; " + (f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}")
    elif detail["type"] == "enum":
        near = difflib.get_close_matches(str(detail["input"]), context["expected"].replace("'", "").split(), 1)
        message += f", not {detail['input']!r:.80}" + (f"; did you mean '{near[0].strip(',')}'?" if near else "")
    elif detail["type"] == "missing":
        message = "this field is missing"
    elif not isinstance(detail["input"], dict | list):
        value = detail["input"]
        hexadecimal = f" ({value:#x})" if type(value) is int and abs(value) >= PAGE else ""
        message += f", not {value!r:.80}{hexadecimal}"
    field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).lstrip(".")
    return f"{source.path}:{source.line(location)}: {field}: {message}"


def _field_names(location: Sequence[Hashable]) -> list[str]:
    """Names (as written in YAML) of the fields that may stand at a location of the config."""
    model: Any = MachineConfig
    for step in location:
        if isinstance(step, int):
            model = typing.get_args(model)[0]
        elif isinstance(model, type) and issubclass(model, BaseModel):
            by_alias = {field.alias or name: field for name, field in model.model_fields.items()}
            if str(step) not in by_alias:
                return []
            model = by_alias[str(step)].annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]
