# SPDX-License-Identifier: BSD-2-Clause
"""Make a finding's program smaller, call by call, while its symptom stays."""

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


def remove_items(
    items: Sequence[Item], holds: Callable[[list[Item]], bool], *, limits: Limits | None = None
) -> list[Item]:
    """A short subsequence of `items` for which `holds` is still true, the last item always kept.

    Tries to leave out halves, quarters, ... and single items until nothing more can go (or a limit
    is reached). `holds` is not asked about `items` itself: the caller knows that it holds there.
    """
    limits = limits or Limits()
    deadline = time.monotonic() + limits.seconds
    attempts = 0
    kept = list(items)
    chunk = max(1, (len(kept) - 1) // 2)
    while len(kept) > 1:
        removed = False
        end = len(kept) - 1
        while end > 0:
            if attempts >= limits.attempts or time.monotonic() > deadline:
                return kept
            start = max(0, end - chunk)
            candidate = kept[:start] + kept[end:]
            attempts += 1
            if holds(candidate):
                kept = candidate
                removed = True
            end = start
        if chunk == 1 and not removed:
            break
        chunk = max(1, chunk // 2)
    return kept


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
