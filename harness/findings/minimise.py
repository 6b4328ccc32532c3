# SPDX-License-Identifier: BSD-2-Clause
"""Make a finding's program smaller while its symptom stays: first its calls, then what they say.

What `holds` is asked about each candidate is the caller's to decide; nothing here runs a program.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from harness.programs.population import SLOT_TYPES
from harness.programs.program import RAW, Argument, Call, Mode, Program, result, slot

Item = TypeVar("Item")


@dataclass(frozen=True)
class Limits:
    """When to be content with what there is."""

    seconds: float = 60.0
    attempts: int = 2000


class Budget:
    """What is left of the limits; shared by all that is done to one program."""

    def __init__(self, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self._deadline = time.monotonic() + limits.seconds
        self._attempts = limits.attempts

    def take(self) -> bool:
        """Whether one more attempt may be made; counts it."""
        if self.over:
            return False
        self._attempts -= 1
        return True

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return self._attempts <= 0 or time.monotonic() > self._deadline

    def end(self) -> None:
        """Let nothing be left: what there is now will do."""
        self._attempts = 0


def remove_items(items: Sequence[Item], holds: Callable[[list[Item]], bool], budget: Budget) -> list[Item]:
    """A short subsequence of `items` for which `holds` is still true, the last item always kept.

    Tries to leave out halves, quarters, ... and single items until nothing more can go, or the budget is used
    up. `holds` is not asked about `items` itself: the caller knows that it holds there.
    """
    kept = list(items)
    chunk = max(1, (len(kept) - 1) // 2)
    while len(kept) > 1:
        removed = False
        end = len(kept) - 1
        while end > 0:
            if not budget.take():
                return kept
            start = max(0, end - chunk)
            candidate = kept[:start] + kept[end:]
            if holds(candidate):
                kept = candidate
                removed = True
            end = start
        if chunk == 1 and not removed:
            break
        chunk = max(1, chunk // 2)
    return kept


def without_calls(program: Program, holds: Callable[[Program], bool], budget: Budget) -> Program:
    """The program without calls before the last one that `holds` can do without."""
    kept = remove_items(range(len(program.calls)), lambda indices: holds(subset(program, indices)), budget)
    return subset(program, kept) if len(kept) < len(program.calls) else program


def subset(program: Program, indices: Sequence[int]) -> Program:
    """The program that makes only some of the calls, in the same way.

    What a call takes from "the result of" another keeps meaning the same slot, whether that other
    call is still there or not. `indices` ascend.
    """
    place = {index: number for number, index in enumerate(indices)}
    calls = []
    for index in indices:
        call = program.calls[index]
        target = call.target and _keep(program, place, call.target)
        arguments = tuple(_keep(program, place, argument) for argument in call.arguments)
        calls.append(replace(call, target=target, arguments=arguments))
    return Program(program.interface, tuple(calls))


def _keep(program: Program, place: dict[int, int], argument: Argument) -> Argument:
    """An argument for the shorter program; `place` has the new indices of the calls that stay."""
    while argument.mode is Mode.RESULT:
        if argument.value in place:
            return result(place[argument.value])
        call = program.calls[argument.value]
        argument = _destination(program, call)
        if argument.mode is Mode.TYPE:
            # "The k-th free slot" is counted for the victim that makes the call.
            slots = program.interface.population.of_type(call.victim, argument.value % len(SLOT_TYPES))
            return slot(slots[argument.number % len(slots)]) if slots else slot(0)
        if argument == RAW:
            return slot(0)  # a raw value belongs to its own call: rare enough to give up
    return argument


def _destination(program: Program, call: Call) -> Argument:
    index = program.interface.call(call.name).destination
    return slot(0) if index is None else call.arguments[index]
