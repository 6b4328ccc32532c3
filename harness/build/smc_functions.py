# SPDX-License-Identifier: BSD-2-Clause
"""The SMC functions of a firmware, read from its description (`guest_images/firmware/smc.yaml`)."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness import plugins
from harness.build.artefacts import PROJECT
from harness.errors import InputError
from harness.yaml_model import StrictModel, validate
from harness.yaml_source import read_yaml

SMC_DESCRIPTION = PROJECT / "guest_images" / "firmware" / "smc.yaml"

ENTRY_POINTS = "bothworlds.smc"

FAST_CALL = 1 << 31
CALL_64 = 1 << 30
OWNER_SHIFT = 24
OWNER_MASK = 0x3F
NOT_SUPPORTED = (1 << 64) - 1
"""What x0 holds after a call of a function that does not exist."""


class Owner(StrEnum):
    """Who defines a function: bits 29-24 of its identifier (SMC Calling Convention, Arm DEN 0028)."""

    ARCH = "arch"
    CPU = "cpu"
    SIP = "sip"
    OEM = "oem"
    STANDARD = "standard"
    HYPERVISOR = "hypervisor"
    VENDOR_HYPERVISOR = "vendor-hypervisor"

    @property
    def number(self) -> int:
        """The value of the identifier's owner bits."""
        return list(Owner).index(self)


class Caller(StrEnum):
    """A world that may call a function; for the other one it does not exist."""

    SECURE = "secure"
    NORMAL = "normal"


class SmcArgument(StrictModel):
    """One argument: any word, the identifier of a function, a CPU's affinity, or a physical address."""

    name: str
    kind: Literal["word", "function", "cpu", "address"]


class SmcFunction(StrictModel):
    """One function; the fields are explained in `smc.yaml`."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    id: Annotated[int, Field(ge=0, lt=1 << 32)]
    owner: Owner
    width: Literal[32, 64]
    callers: Annotated[tuple[Caller, ...], Field(min_length=1)] = (Caller.SECURE,)
    arguments: Annotated[tuple[SmcArgument, ...], Field(max_length=7)] = ()
    result: str
    returns: Annotated[tuple[str, ...], Field(max_length=7)] = ()
    found_by: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _id_says_the_same(self) -> SmcFunction:
        if not self.id & FAST_CALL:
            raise ValueError(f"id {self.id:#x} is not a fast call: bit 31 is 0")
        if bool(self.id & CALL_64) != (self.width == 64):
            raise ValueError(f"id {self.id:#x} and width {self.width} disagree: bit 30 says which")
        if self.id >> OWNER_SHIFT & OWNER_MASK != self.owner.number:
            raise ValueError(f"id {self.id:#x} does not belong to owner '{self.owner}': bits 29-24 say which")
        return self


class _Description(StrictModel):
    functions: tuple[SmcFunction, ...]

    @model_validator(mode="after")
    def _names_and_ids_are_unique(self) -> _Description:
        names = [function.name for function in self.functions]
        for function in self.functions:
            if names.count(function.name) > 1:
                raise ValueError(f"two functions are called '{function.name}'")
            if sum(other.id == function.id for other in self.functions) > 1:
                raise ValueError(f"two functions have the id {function.id:#x}")
            for asked in function.found_by:
                if asked not in names:
                    raise ValueError(f"'{function.name}' is found_by '{asked}', which does not exist")
        return self


def load_smc_functions(path: Path = SMC_DESCRIPTION) -> tuple[SmcFunction, ...]:
    """The functions that a description lists, in its order.

    Raises InputError, whose message names the file, the line and the field.
    """
    return validate(read_yaml(path, InputError), _Description, InputError).functions


def described_smc_functions() -> tuple[SmcFunction, ...]:
    """What S-EL1 may call of the project's firmware, and the functions that other packages describe.

    A package names its description (a path, as text or Path) through the entry point group
    `bothworlds.smc`. Its functions join the values that programs choose from; a firmware that has them
    comes with `--firmware`. Raises InputError for a description that cannot be used.
    """
    functions = [function for function in load_smc_functions() if Caller.SECURE in function.callers]
    for entry in plugins.entries(ENTRY_POINTS):
        described = plugins.load(entry)
        if not isinstance(described, str | Path):
            kind = type(described).__name__
            raise InputError(f"entry point '{entry.name}' of group {ENTRY_POINTS}: is a {kind}, must be a path")
        for function in load_smc_functions(Path(described)):
            if function in functions:
                continue
            for other in functions:
                if function.name == other.name or function.id == other.id:
                    raise InputError(
                        f"{described}: '{function.name}' ({function.id:#x}) exists already as '{other.name}'"
                    )
            functions.append(function)
    return tuple(functions)


def assembly_tables(functions: tuple[SmcFunction, ...], *, normal_world: bool = False) -> str:
    """Macros that apply an operation to each function of S-EL1, and to those that a FEATURES function finds.

    With a normal world the same again for its functions, under names that begin with `normal_`.
    """
    lines: list[str] = []

    def macro(name: str, members: list[SmcFunction]) -> None:
        lines.append(f".macro {name} operation")
        lines.extend(f"\t\\operation {function.name}, {function.id:#x}" for function in members)
        lines.append(".endm")

    for caller, prefix in ((Caller.SECURE, ""), (Caller.NORMAL, "normal_"))[: 1 + normal_world]:
        offered = [function for function in functions if caller in function.callers]
        macro(f"{prefix}smc_functions", offered)
        for asked in offered:
            if any(argument.kind == "function" for argument in asked.arguments):
                found = [function for function in offered if asked.name in function.found_by]
                macro(f"{prefix}found_by_{asked.name}", found)
    return "\n".join(lines) + "\n"
