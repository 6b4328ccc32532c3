# SPDX-License-Identifier: BSD-2-Clause
"""Structures, enumerations and variables of a C program, from its DWARF debug information."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.errors import BothworldsError, ImageError
from harness.kernel_state.elf import Elf

_STRUCTS = {"DW_TAG_structure_type", "DW_TAG_union_type"}
_TRANSPARENT = {"DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type"}


@dataclass(frozen=True)
class Member:
    """A member of a structure: byte offset, bytes, array dimensions and name of its type."""

    offset: int
    size: int
    dimensions: tuple[int, ...]
    type: str


@dataclass(frozen=True)
class Struct:
    """A structure or union."""

    name: str
    size: int
    members: dict[str, Member]

    def __getitem__(self, member: str) -> Member:
        return self.members[member]


@dataclass(frozen=True)
class Variable:
    """A global variable: virtual address, bytes, array dimensions and name of its type."""

    address: int
    size: int
    dimensions: tuple[int, ...]
    type: str


@dataclass(frozen=True)
class Types:
    """What a program's debug information declares."""

    structs: dict[str, Struct]
    """By tag (`cte`) and by typedef (`cte_t`)."""
    enumerations: tuple[dict[str, int], ...]
    """The enumerators of each enumeration."""
    variables: dict[str, Variable]

    @cached_property
    def constants(self) -> dict[str, int]:
        """All enumerators."""
        return {name: value for enumeration in self.enumerations for name, value in enumeration.items()}


def read_types(elf: Elf) -> Types:
    """Read all structures, enumerators and global variables.

    Raises ImageError for debug information that is absent or damaged.
    """
    try:
        return _Reader(elf).run()
    except BothworldsError:
        raise
    except Exception as error:
        # The library raises nearly anything: errors of its own, of the parser below it, and of Python.
        raise ImageError(f"{elf.path}: damaged debug information ({repr(error)[:200]}); build it again") from error


class _Reader:
    def __init__(self, elf: Elf) -> None:
        self._elf = elf
        self._sizes: dict[int, tuple[int, tuple[int, ...], str]] = {}

    def run(self) -> Types:
        structs: dict[str, Struct] = {}
        enumerations: list[dict[str, int]] = []
        variables: dict[str, Variable] = {}
        aliases: list[tuple[str, Any]] = []
        for unit in self._elf.dwarf.iter_CUs():
            for die in unit.get_top_DIE().iter_children():
                tag, name = die.tag, _name(die)
                if tag in _STRUCTS and name and "DW_AT_declaration" not in die.attributes:
                    structs[name] = self._struct(die, name)
                elif tag == "DW_TAG_enumeration_type":
                    values = die.iter_children()
                    enumerations.append({_name(v): int(v.attributes["DW_AT_const_value"].value) for v in values})
                elif tag == "DW_TAG_typedef" and name and "DW_AT_type" in die.attributes:
                    aliases.append((name, die))
                elif tag == "DW_TAG_variable" and "DW_AT_type" in die.attributes:
                    self._variable(die, name or _name(_specification(die)), variables)
        for name, die in aliases:
            target = _stripped(die)
            if target is not None and target.tag in _STRUCTS and "DW_AT_declaration" not in target.attributes:
                structs.setdefault(name, self._struct(target, name))
        return Types(structs, tuple(enumerations), variables)

    def _variable(self, die: Any, name: str, variables: dict[str, Variable]) -> None:
        symbol = self._elf.symbols.get(name)
        if symbol is None or name in variables:
            return
        size, dimensions, type_name = self._type(die)
        if dimensions and not size:
            # Declared without its dimension; the definition comes elsewhere.
            return
        variables[name] = Variable(symbol.address, size, dimensions, type_name)

    def _struct(self, die: Any, name: str) -> Struct:
        members: dict[str, Member] = {}
        for child in die.iter_children():
            if child.tag == "DW_TAG_member" and "DW_AT_name" in child.attributes:
                size, dimensions, type_name = self._type(child)
                offset = child.attributes.get("DW_AT_data_member_location")
                members[_name(child)] = Member(int(offset.value) if offset else 0, size, dimensions, type_name)
        size = die.attributes.get("DW_AT_byte_size")
        return Struct(name, int(size.value) if size else 0, members)

    def _type(self, die: Any) -> tuple[int, tuple[int, ...], str]:
        """Bytes, array dimensions and name of the type that a DIE refers to."""
        if "DW_AT_type" not in die.attributes:
            return 0, (), "void"
        target = die.get_DIE_from_attribute("DW_AT_type")
        if target.offset not in self._sizes:
            self._sizes[target.offset] = self._resolve(target)
        return self._sizes[target.offset]

    def _resolve(self, die: Any) -> tuple[int, tuple[int, ...], str]:
        if die.tag in _TRANSPARENT:
            size, dimensions, name = self._type(die)
            return size, dimensions, (_name(die) or name) if die.tag == "DW_TAG_typedef" else name
        if die.tag == "DW_TAG_array_type":
            size, inner, name = self._type(die)
            dimensions = tuple(_dimension(child) for child in die.iter_children())
            for dimension in dimensions:
                size *= dimension
            return size, dimensions + inner, name
        if die.tag == "DW_TAG_pointer_type":
            return 8, (), self._type(die)[2] + " *"
        attribute = die.attributes.get("DW_AT_byte_size")
        return (int(attribute.value) if attribute else 0), (), _name(die)


def _name(die: Any) -> str:
    attribute = die.attributes.get("DW_AT_name") if die is not None else None
    return attribute.value.decode(errors="replace") if attribute else ""


def _specification(die: Any) -> Any:
    if "DW_AT_specification" in die.attributes:
        return die.get_DIE_from_attribute("DW_AT_specification")
    return None


def _dimension(die: Any) -> int:
    if "DW_AT_count" in die.attributes:
        return int(die.attributes["DW_AT_count"].value)
    if "DW_AT_upper_bound" in die.attributes:
        bound = die.attributes["DW_AT_upper_bound"]
        return int(bound.value) + 1 if bound.form != "DW_FORM_exprloc" else 0
    return 0


def _stripped(die: Any) -> Any:
    """The type behind typedefs and qualifiers; None for void."""
    for _ in range(32):
        if die.tag not in _TRANSPARENT:
            return die
        if "DW_AT_type" not in die.attributes:
            return None
        die = die.get_DIE_from_attribute("DW_AT_type")
    return None


def to_plain(types: Types) -> dict[str, Any]:
    """Types as JSON data."""
    return {
        "structs": {
            name: [s.name, s.size, {m: [x.offset, x.size, list(x.dimensions), x.type] for m, x in s.members.items()}]
            for name, s in types.structs.items()
        },
        "enumerations": list(types.enumerations),
        "variables": {n: [v.address, v.size, list(v.dimensions), v.type] for n, v in types.variables.items()},
    }


def from_plain(data: dict[str, Any]) -> Types:
    """The reverse of `to_plain`."""

    def four(row: Iterable[Any]) -> tuple[int, int, tuple[int, ...], str]:
        first, second, dimensions, type_name = row
        return int(first), int(second), tuple(int(d) for d in dimensions), str(type_name)

    return Types(
        {
            name: Struct(row[0], row[1], {m: Member(*four(x)) for m, x in row[2].items()})
            for name, row in data["structs"].items()
        },
        tuple({name: int(value) for name, value in values.items()} for values in data["enumerations"]),
        {name: Variable(*four(row)) for name, row in data["variables"].items()},
    )
