# SPDX-License-Identifier: BSD-2-Clause
"""Programs as YAML, for people.

::

    description: Map a non-secure frame and load from it.
    calls:
    - call: ARM_Page_Map
      victim: secure
      target: page-n
      with: {pd: vspace, vaddr: 0x10003000, rights: read-write, attr: cached}
    - call: Load
      target: 0x10003000

A slot is a slot's name or number, `result:2` (what call 2 made), `free:0` or `endpoint:1` (the
n-th slot of a type), or `raw:0x...`. Any other value is a name or number from the kind's pool;
a number that the pool does not have becomes the call's raw value, of which there is one.
Without `victim` the first one makes the call; the normal world's calls have none. Arguments may be left out:
capability roots are then the victim's own, and other values the first of their pool. `config` names the machine
config that the program is for, if not the usual one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ProgramError
from harness.programs.descriptions import NORMAL_ACTIONS
from harness.programs.interfaces import Action, CallType, Interface
from harness.programs.normal_calls import normal_calls
from harness.programs.population import SLOT_TYPES
from harness.programs.program import RAW, Argument, Call, Mode, Program, choice, of_type, result, slot
from harness.yaml_source import parse_yaml

_NORMAL = frozenset(call.name for call in normal_calls())
_OWN_ROOTS = {
    "root": "cnode",
    "src_root": "cnode",
    "pivot_root": "cnode",
    "cspace_root": "cnode",
    "pd": "vspace",
    "pgd": "vspace",
    "pud": "vspace",
    "vspace_root": "vspace",
    "vroot": "vspace",
}
"""Slot parameters that may be left out, and the slot that they then name."""


@dataclass
class _Place:
    """Where in the text a call stands, for messages, and its one raw value."""

    file: str
    line: int
    call: str
    raw: int | None = None

    def fail(self, field: str, why: str) -> ProgramError:
        return ProgramError(f"{self.file}:{self.line}: {self.call}: {field}: {why}")

    def take_raw(self, field: str, value: int) -> Argument:
        if not 0 <= value < 1 << 64:
            raise self.fail(field, f"{value:#x} does not fit in 64 bits")
        if self.raw not in (None, value):
            raise self.fail(field, f"{value:#x} is a second value outside the pools (after {self.raw:#x}); one fits")
        self.raw = value
        return RAW


def _nearest(name: object, names: Iterable[str]) -> str:
    known = list(names)
    near = difflib.get_close_matches(str(name), known, 1)
    return f"; did you mean '{near[0]}'?" if near else f"; there are: {', '.join(known[:40])}"


def _number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d+|0x[0-9a-fA-F_]+", value):
        return int(value, 0)
    return None


def _slot(value: object, field: str, victim: int, place: _Place, interface: Interface) -> Argument:
    population = interface.population
    number = _number(value)
    if number is not None:
        if 0 <= number < population.slots_per_victim:
            return slot(number)
        return place.take_raw(field, number)
    text = str(value)
    known = population.slot_number(victim, text)
    if known is not None:
        return slot(known)
    prefix, _, rest = text.partition(":")
    argument = _number(rest)
    if argument is not None:
        if prefix == "raw":
            return place.take_raw(field, argument)
        if prefix == "result":
            return result(argument)
        if prefix in SLOT_TYPES and argument < 256:
            return of_type(prefix, argument)
    names = [s.name for s in population.slots(victim)]
    raise place.fail(field, f"'{text}' is no slot of victim '{population.victims[victim].name}'{_nearest(text, names)}")


def _choice(value: object, field: str, kind: str, words: int, place: _Place, interface: Interface) -> Argument:
    pool = interface.pools[kind]
    names = dict(pool.names)
    text = str(value)
    if words > 1 and (match := re.fullmatch(r"(0x[0-9a-f]+|\d+) step (\d+)", text)):
        base = _choice(match[1], field, kind, 1, place, interface)
        return choice(base.value, int(match[2])) if base.mode is Mode.CHOICE else base
    if text in names:
        return choice(pool.values.index(names[text]))
    forced = text.startswith("raw:")
    number = _number(text.removeprefix("raw:")) if forced else _number(value)
    if number is None:
        raise place.fail(field, f"'{text}' is neither a number nor a {kind}{_nearest(text, names)}")
    if number in pool.values and not forced:
        return choice(pool.values.index(number))
    if pool.closed:
        raise place.fail(field, f"{number:#x} is not among the values of {kind}: {', '.join(map(hex, pool.values))}")
    return place.take_raw(field, number)


def _argument(
    value: object, field: str, kind: str, words: int, victim: int, place: _Place, interface: Interface
) -> Argument:
    if kind == "slot":
        return _slot(value, field, victim, place, interface)
    return _choice(value, field, kind, words, place, interface)


def _call(item: dict[str, Any], place: _Place, interface: Interface) -> Call:
    unknown = set(item) - {"call", "victim", "target", "with"}
    if unknown:
        raise place.fail(str(min(unknown, key=str)), "unknown field; a call has call, victim, target and with")
    name = item.get("call")
    if name not in interface.index:
        hint = "; it needs a config with a normal world" if name in _NORMAL else _nearest(name, interface.index)
        raise place.fail("call", f"there is no call '{name}'{hint}")
    type_: CallType = interface.call(str(name))
    place.call = type_.name
    victims = [victim.name for victim in interface.population.victims]
    if type_.action in NORMAL_ACTIONS and "victim" in item:
        raise place.fail("victim", "the normal world makes this call, no victim does: leave it out")
    wanted = item.get("victim", victims[0])
    if wanted not in victims:
        raise place.fail("victim", f"there is no victim '{wanted}'{_nearest(wanted, victims)}")
    victim = victims.index(wanted)
    if ("target" in item) != bool(type_.target):
        raise place.fail("target", "is missing" if type_.target else "this call has none")
    target = _argument(item["target"], "target", type_.target, 1, victim, place, interface) if type_.target else None
    given = item.get("with") or {}
    parameters = [parameter.name for parameter in type_.parameters]
    if not isinstance(given, dict):
        raise place.fail("with", f"must be a mapping of the arguments {', '.join(parameters)}")
    for field in given:
        if field not in parameters:
            raise place.fail(str(field), f"no argument of {type_.name}{_nearest(field, parameters)}")
    arguments = []
    for parameter in type_.parameters:
        if parameter.name in given:
            value = given[parameter.name]
        elif parameter.kind != "slot":
            arguments.append(choice(0))
            continue
        elif parameter.name in _OWN_ROOTS:
            value = _OWN_ROOTS[parameter.name]
        elif type_.action in (Action.SEND, Action.TRANSFER, Action.RECEIVE):
            value = 0
        else:
            raise place.fail(parameter.name, "is missing")
        arguments.append(_argument(value, parameter.name, parameter.kind, parameter.words, victim, place, interface))
    return Call(type_.name, victim, target, tuple(arguments), place.raw or 0)


def parse_program(text: str, interface: Interface, name: str = "program") -> Program:
    """Parse a program's YAML; raises ProgramError that names file, line, call and field."""
    source = parse_yaml(text, Path(name), ProgramError)
    data = source.data
    if not isinstance(data, dict) or not isinstance(data.get("calls"), list):
        raise ProgramError(f"{name}: a program is a mapping with a list 'calls'")
    unknown = set(data) - {"calls", "description", "config"}
    if unknown:
        field = min(unknown, key=str)
        known = "calls, description and config"
        raise ProgramError(f"{name}:{source.line([field])}: unknown field '{field}'; there are {known}")
    calls = []
    for index, item in enumerate(data["calls"]):
        place = _Place(name, source.line(["calls", index]), f"call {index}")
        if not isinstance(item, dict):
            raise place.fail("call", "must be a mapping")
        calls.append(_call(item, place, interface))
    program = Program(interface, tuple(calls))
    program.to_bytes()
    return program


def config_of(path: Path) -> str | None:
    """The machine config that a program says it is for; None for one that says nothing, or is not YAML.

    Raises ProgramError for a file that cannot be read.
    """
    if path.suffix not in (".yaml", ".yml"):
        return None
    try:
        source = parse_yaml(path.read_text(), path, ProgramError)
    except (OSError, UnicodeDecodeError) as error:
        raise ProgramError(f"{path}: cannot be read as a program: {error}") from error
    config = source.data.get("config") if isinstance(source.data, dict) else None
    if config is not None and not isinstance(config, str):
        raise ProgramError(f"{path}:{source.line(['config'])}: config: must be the name of a machine config")
    return config


def _text(argument: Argument, kind: str, call: Call, interface: Interface) -> str:
    if argument.mode is Mode.RAW:
        return f"raw:{call.raw:#x}"
    if argument.mode is Mode.SLOT:
        return interface.population.slot_name(call.victim, argument.value) or str(argument.value)
    if argument.mode is Mode.RESULT:
        return f"result:{argument.value}"
    if argument.mode is Mode.TYPE:
        return f"{SLOT_TYPES[argument.value]}:{argument.number}"
    pool = interface.pools[kind]
    value = pool.values[argument.value]
    text = pool.name(value) or (str(value) if value < 256 else hex(value))
    return f"{text} step {argument.number}" if argument.number else text


def format_call(call: Call, interface: Interface) -> str:
    """One call as the lines of its YAML list item."""
    type_ = interface.call(call.name)
    lines = [f"- call: {call.name}"]
    if type_.action not in NORMAL_ACTIONS:
        lines.append(f"  victim: {interface.population.victims[call.victim].name}")
    if call.target is not None:
        lines.append(f"  target: {_text(call.target, type_.target, call, interface)}")
    pairs = [
        f"{parameter.name}: {_text(argument, parameter.kind, call, interface)}"
        for parameter, argument in zip(type_.parameters, call.arguments, strict=True)
    ]
    if pairs:
        lines.append(f"  with: {{{', '.join(pairs)}}}")
    return "\n".join(lines)


def format_program(program: Program) -> str:
    """The YAML text of a program; `parse_program` reads the same calls from it."""
    if not program.calls:
        return "calls: []\n"
    return "\n".join(["calls:", *(format_call(call, program.interface) for call in program.calls)]) + "\n"
