# SPDX-License-Identifier: BSD-2-Clause
"""Make what the calls of a finding's program say as plain as it gets, while its symptom stays.

Plain is what a reader need not wonder about: the first value of a pool, a slot by its name, the
result of an earlier call, the first victim, a raw value of zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harness.findings.minimise import Budget, without_calls
from harness.programs.interfaces import Interface
from harness.programs.pools import Pool
from harness.programs.population import SLOT_TYPES
from harness.programs.program import RAW, Argument, Call, Mode, Program, choice, of_type, result, slot

Holds = Callable[[Program], bool]

_FREE = SLOT_TYPES.index("free")
_FREE_SLOTS_TRIED = 3
_WORD_BITS = 64
_PAGE_BITS, _LARGE_PAGE_BITS = 12, 21
_FEW_BITS = 12
"""A raw value with so many bits set is tried without each of them."""


@dataclass(frozen=True)
class Edit:
    """One thing to change in one call: the victim (`victim`), the raw value (`raw`), the target or an argument."""

    call: int
    part: str
    value: Argument | int
    number: int = 0
    """Index of the argument."""

    def apply(self, program: Program) -> Program:
        """The program with this change."""
        call, value = program.calls[self.call], self.value
        if not isinstance(value, Argument):
            changed = replace(call, victim=value) if self.part == "victim" else replace(call, raw=value)
        elif self.part == "target":
            changed = replace(call, target=value)
        else:
            changed = replace(
                call, arguments=(*call.arguments[: self.number], value, *call.arguments[self.number + 1 :])
            )
        if not changed.uses_raw:
            changed = replace(changed, raw=0)
        return replace(program, calls=(*program.calls[: self.call], changed, *program.calls[self.call + 1 :]))


def smaller(program: Program, holds: Holds, budget: Budget) -> Program:
    """The smallest program that could be found for which `holds` is true: fewer calls, plainer arguments and values.

    `holds` must be true for `program`; the last call keeps its label, whatever happens to the others.
    """
    while True:
        before = program
        program = without_calls(program, holds, budget)
        program = plainer(program, holds, budget)
        if program == before or budget.over:
            return program


def plainer(program: Program, holds: Holds, budget: Budget) -> Program:
    """The program with each argument, victim and raw value as plain as `holds` allows."""
    rank = 0
    while True:
        edits = [edit for choices in _choices(program) for edit in choices[rank : rank + 1]]
        if not edits:
            return program
        program = _make(program, edits, holds, budget)
        rank += 1


def _make(program: Program, edits: Sequence[Edit], holds: Holds, budget: Budget) -> Program:
    """The program with as many of these edits as possible: all at once, or else each half by itself."""
    candidate = program
    for edit in edits:
        candidate = edit.apply(candidate)
    if candidate == program or not budget.take():
        return program
    if holds(candidate):
        return candidate
    if len(edits) == 1:
        return program
    middle = len(edits) // 2
    program = _make(program, edits[:middle], holds, budget)
    return _make(program, edits[middle:], holds, budget)


def _choices(program: Program) -> list[list[Edit]]:
    """For each thing that a call says, what could take its place, the plainest first; nothing that is less plain."""
    found = []
    for index, call in enumerate(program.calls):
        type_ = program.interface.call(call.name)
        if call.victim:
            found.append([Edit(index, "victim", victim) for victim in range(call.victim)])
        if call.target is not None:
            made = _plainer_arguments(program, index, call.target, type_.target, destination=False)
            found.append([Edit(index, "target", argument) for argument in made])
        for number, (argument, parameter) in enumerate(zip(call.arguments, type_.parameters, strict=True)):
            made = _plainer_arguments(program, index, argument, parameter.kind, destination=number == type_.destination)
            found.append([Edit(index, "arguments", made_one, number) for made_one in made])
        if call.uses_raw:
            found.append([Edit(index, "raw", value) for value in plainer_values(call.raw)])
    return found


def _plainer_arguments(
    program: Program, index: int, argument: Argument, kind: str, *, destination: bool
) -> list[Argument]:
    if kind == "slot":
        call = program.calls[index]
        made = _destinations() if destination else _slots(program, index, argument)
        made = [other for other in made if _exists(other, call, program.interface)]
    else:
        made = _pool_choices(program.interface.pools[kind], argument, program.calls[index].raw)
    return made[: made.index(argument)] if argument in made else made


def _destinations() -> list[Argument]:
    """Where a call may put what it makes."""
    return [of_type("free", number) for number in range(_FREE_SLOTS_TRIED)]


def _exists(argument: Argument, call: Call, interface: Interface) -> bool:
    if argument.mode is not Mode.TYPE:
        return True
    return argument.number < len(interface.population.of_type(call.victim, argument.value))


def _slots(program: Program, index: int, argument: Argument) -> list[Argument]:
    """The first slot of the same type, then the same slot said in a plainer way."""
    number = resolve(program, index, argument)
    population = program.interface.population
    victim = program.calls[index].victim
    if number is None:
        return [slot(0)]
    for earlier in range(index):
        if _stores_at(program, earlier) == number and program.calls[earlier].victim == victim:
            return [result(earlier)]
    occupied = next((named for named in population.slots(victim) if named.number == number), None)
    if occupied is None:
        free = population.of_type(victim, _FREE)
        return [of_type("free", free.index(number))] if number in free else [slot(number)]
    first = population.of_type(victim, SLOT_TYPES.index(occupied.type))[0]
    return [slot(first), slot(number)]


def _stores_at(program: Program, index: int) -> int | None:
    """The slot that a call fills, if it fills one."""
    call = program.calls[index]
    place = program.interface.call(call.name).destination
    return None if place is None else resolve(program, index, call.arguments[place])


def resolve(program: Program, index: int, argument: Argument) -> int | None:
    """Number of the slot that an argument of a call means; None for a raw value that is no slot's number."""
    population = program.interface.population
    while argument.mode is Mode.RESULT:
        index = argument.value
        call = program.calls[index]
        place = program.interface.call(call.name).destination
        argument = slot(0) if place is None else call.arguments[place]
    if argument.mode is Mode.TYPE:
        slots = population.of_type(program.calls[index].victim, argument.value)
        return slots[argument.number % len(slots)] if slots else 0
    if argument == RAW:
        raw = program.calls[index].raw
        return raw if raw < population.slots_per_victim else None
    return argument.value


def _pool_choices(pool: Pool, argument: Argument, raw: int) -> list[Argument]:
    """The first value of the pool; for a raw value, those of the pool that are like it."""
    made = [choice(0)]
    if argument.mode is Mode.CHOICE:
        return made if argument.value == 0 and argument.number == 0 else [*made, choice(argument.value)]
    if pool.closed:
        return made
    like = [raw, *plainer_values(raw)]
    return made + [choice(index) for index, value in enumerate(pool.values) if index and value in like]


def plainer_values(value: int) -> list[int]:
    """Values that are like a 64-bit value and plainer: zero, one, a single bit, aligned, with fewer bits."""
    made = [0, 1]
    if value:
        made += [1 << (value.bit_length() - 1), value & -value]
    made += [value & -(1 << bits) for bits in (_LARGE_PAGE_BITS, _PAGE_BITS)]
    made += [value & ((1 << bits) - 1) for bits in (8, 16, 32, 48)]
    if value.bit_count() <= _FEW_BITS:
        made += [value & ~(1 << bit) for bit in reversed(range(_WORD_BITS)) if value >> bit & 1]
    return [other for other in dict.fromkeys(made) if (other.bit_count(), other) < (value.bit_count(), value)]


def weight(program: Program) -> tuple[int, int]:
    """How much there is to read: calls, and things said that are not the plainest."""
    said = 0
    for call in program.calls:
        said += bool(call.victim) + (call.uses_raw and call.raw != 0)
        for argument in (call.target, *call.arguments):
            said += argument is not None and argument.mode is not Mode.SLOT and argument != choice(0)
    return len(program.calls), said
