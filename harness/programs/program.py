# SPDX-License-Identifier: BSD-2-Clause
"""Programs as objects: a list of calls with typed arguments.

`Program.from_bytes` accepts any bytes and gives the canonical program; `to_bytes` is its
inverse, and a byte string and its canonical form do exactly the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from harness import protocol
from harness.errors import ProgramError
from harness.programs.descriptions import NORMAL_ACTIONS
from harness.programs.encodings import (
    RAW_OFFSET,
    TARGET_OFFSET,
    SlotMode,
    argument_offset,
    records,
)
from harness.programs.interfaces import CallType, Interface
from harness.programs.pools import RAW_SELECTOR
from harness.programs.population import SLOT_TYPES


class Mode(StrEnum):
    """How an argument says its value."""

    SLOT = "slot"
    """Slot number `value`."""
    RESULT = "result"
    """Destination slot of the earlier call `value`."""
    TYPE = "type"
    """The `number`-th slot of type SLOT_TYPES[`value`]."""
    CHOICE = "choice"
    """Entry `value` of the parameter's pool (`number` is the step of a parameter of many words)."""
    RAW = "raw"
    """The call's raw value."""


@dataclass(frozen=True, slots=True)
class Argument:
    """The value of a target or parameter, as a program says it."""

    mode: Mode
    value: int = 0
    number: int = 0


RAW = Argument(Mode.RAW)


def slot(number: int) -> Argument:
    """A literal slot."""
    return Argument(Mode.SLOT, number)


def result(call: int) -> Argument:
    """The slot that an earlier call filled."""
    return Argument(Mode.RESULT, call)


def of_type(type_: str, number: int = 0) -> Argument:
    """The `number`-th slot of a type of SLOT_TYPES."""
    return Argument(Mode.TYPE, SLOT_TYPES.index(type_), number)


def choice(index: int, step: int = 0) -> Argument:
    """An entry of the parameter's pool."""
    return Argument(Mode.CHOICE, index, step)


@dataclass(frozen=True)
class Call:
    """One call: its name in the call table, the victim that makes it, target and arguments.

    `target` is None exactly for calls without one; `raw` is the value of all raw arguments. Calls of the normal world
    have victim 0.
    """

    name: str
    victim: int = 0
    target: Argument | None = None
    arguments: tuple[Argument, ...] = ()
    raw: int = 0

    @property
    def uses_raw(self) -> bool:
        """Whether an argument takes the raw value."""
        return self.target == RAW or RAW in self.arguments


@dataclass(frozen=True)
class Program:
    """A list of calls for the call table of one interface."""

    interface: Interface = field(repr=False, compare=False)
    calls: tuple[Call, ...] = ()

    @classmethod
    def from_bytes(cls, data: bytes, interface: Interface) -> Program:
        """The canonical program of any byte string."""
        return cls(interface, tuple(_read(row, i, interface) for i, row in enumerate(records(data))))

    def to_bytes(self) -> bytes:
        """The canonical bytes; raises ProgramError for a program that no byte string has."""
        if len(self.calls) > protocol.MAXIMUM_CALLS:
            raise ProgramError(f"the program has {len(self.calls)} calls; at most {protocol.MAXIMUM_CALLS} fit")
        return b"".join(_write(call, index, self.interface) for index, call in enumerate(self.calls))

    @classmethod
    def from_yaml(cls, text: str, interface: Interface, name: str = "program") -> Program:
        """Parse the readable form; raises ProgramError that names the file, the call and the field."""
        from harness.programs.yaml import parse_program

        return parse_program(text, interface, name)

    def to_yaml(self) -> str:
        """The readable form."""
        from harness.programs.yaml import format_program

        return format_program(self)

    @classmethod
    def load(cls, path: Path, interface: Interface) -> Program:
        """Read a program from a file: YAML by its suffix, otherwise bytes. Raises ProgramError."""
        try:
            if path.suffix in (".yaml", ".yml"):
                return cls.from_yaml(path.read_text(), interface, str(path))
            data = path.read_bytes()
        except (OSError, UnicodeDecodeError) as error:
            raise ProgramError(f"{path}: cannot be read as a program: {error}") from error
        return cls.from_bytes(data, interface)


def canonical(data: bytes, interface: Interface) -> bytes:
    """The canonical form of a byte string; it does exactly what the byte string does."""
    return Program.from_bytes(data, interface).to_bytes()


def _read_argument(row: bytes, offset: int, kind: str, words: int, index: int, interface: Interface) -> Argument:
    low, high = row[offset], row[offset + 1]
    if kind != "slot":
        pool = interface.pools[kind]
        if low == RAW_SELECTOR and not pool.closed:
            return RAW
        return choice(low % len(pool.values), high % len(pool.values) if words > 1 else 0)
    mode = low & 3
    if mode == SlotMode.RAW:
        return RAW
    if mode == SlotMode.RESULT:
        return result(high % index) if index else slot(0)
    if mode == SlotMode.TYPE:
        type_ = (low >> 2) % len(SLOT_TYPES)
        count = len(interface.population.of_type(row[1] % len(interface.population.victims), type_))
        return Argument(Mode.TYPE, type_, high % count) if count else slot(0)
    return slot(high % interface.population.slots_per_victim)


def _read(row: bytes, index: int, interface: Interface) -> Call:
    call: CallType = interface.calls[row[0] % len(interface.calls)]
    target = _read_argument(row, TARGET_OFFSET, call.target, 1, index, interface) if call.target else None
    arguments = tuple(
        _read_argument(row, argument_offset(i), p.kind, p.words, index, interface)
        for i, p in enumerate(call.parameters)
    )
    victim = 0 if call.action in NORMAL_ACTIONS else row[1] % len(interface.population.victims)
    made = Call(call.name, victim, target, arguments)
    if not made.uses_raw:
        return made
    raw = int.from_bytes(row[RAW_OFFSET : RAW_OFFSET + 8], "little")
    return Call(made.name, made.victim, target, arguments, raw)


def _selector(argument: Argument, kind: str, interface: Interface, where: str) -> tuple[int, int]:
    mode, value, number = argument.mode, argument.value, argument.number
    if kind == "slot":
        if mode is Mode.SLOT and 0 <= value < interface.population.slots_per_victim:
            return SlotMode.LITERAL, value
        if mode is Mode.RESULT and 0 <= value < protocol.MAXIMUM_CALLS:
            return SlotMode.RESULT, value
        if mode is Mode.TYPE and 0 <= value < len(SLOT_TYPES) and 0 <= number < 256:
            return value << 2 | SlotMode.TYPE, number
        if mode is Mode.RAW:
            return SlotMode.RAW, 0
    elif mode is Mode.CHOICE and 0 <= value < len(interface.pools[kind].values) and 0 <= number < 256:
        return value, number
    elif mode is Mode.RAW and not interface.pools[kind].closed:
        return RAW_SELECTOR, 0
    raise ProgramError(f"{where}: {argument} is no value of kind '{kind}'")


def _write(call: Call, index: int, interface: Interface) -> bytes:
    where = f"call {index} ({call.name})"
    if call.name not in interface.index:
        raise ProgramError(f"{where}: the call table has no such call")
    number = interface.index[call.name]
    type_ = interface.calls[number]
    if len(call.arguments) != len(type_.parameters) or (call.target is None) != (type_.target == ""):
        raise ProgramError(f"{where}: wrong number of arguments or a target where there is none")
    if call.victim and type_.action in NORMAL_ACTIONS:
        raise ProgramError(f"{where}: the normal world makes it, no victim")
    if not 0 <= call.victim < len(interface.population.victims) or not 0 <= call.raw < 1 << 64:
        raise ProgramError(f"{where}: victim or raw value out of range")
    row = bytearray(protocol.CALL_BYTES)
    row[0], row[1] = number, call.victim
    if call.target is not None:
        row[TARGET_OFFSET : TARGET_OFFSET + 2] = _selector(call.target, type_.target, interface, where)
    for i, (argument, parameter) in enumerate(zip(call.arguments, type_.parameters, strict=True)):
        offset = argument_offset(i)
        row[offset : offset + 2] = _selector(argument, parameter.kind, interface, where)
    if call.uses_raw:
        row[RAW_OFFSET : RAW_OFFSET + 8] = call.raw.to_bytes(8, "little")
    return bytes(row)
