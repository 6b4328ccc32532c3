# SPDX-License-Identifier: BSD-2-Clause
"""Whose interrupts come where, by what the normal world's calls showed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from harness.configs import NormalWorld
from harness.invariants.definitions import Judgement
from harness.protocol import CallState

_COUNT_SHIFT = 16
"""A result of an SMC shows in `badge` how many interrupts came meanwhile, and below that the last line."""


@dataclass
class _Followed:
    """What is known before a call: lines that are pending while the normal world is closed, and secure ones so far."""

    pending: list[int] = field(default_factory=list)
    secure: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class InterruptCall:
    """An SMC, or an interrupt that the program made pending: index, result; the line and whether it waits."""

    index: int
    result: Any
    line: int | None = None
    waits: bool = False


def judge_interrupts(
    normal: NormalWorld, calls: Iterable[InterruptCall], interrupted: int, judgement: Judgement
) -> None:
    """Judge the calls of a program up to the first that may change what comes; `interrupted`: EL3's count of exits."""
    state = _Followed()
    for call in calls:
        if call.result["state"] != CallState.DONE:
            break
        if call.line is None:
            _judge_smc(call, state, judgement)
            continue
        judgement.judged += 1
        taken, last = call.result["mr"][:2].tolist()
        evidence = {"call": call.index, "line": call.line, "taken": taken}
        if call.line not in normal.interrupts:
            state.secure.append(call.line)
            if taken:
                message = f"call {call.index}: the normal world took line {last} when secure line {call.line} came"
                judgement.fail(message, "interrupt", **evidence)
        elif call.waits:
            state.pending.append(call.line)
        else:
            if not taken:
                message = f"call {call.index}: line {call.line} did not come to the normal world"
                judgement.fail(message, "interrupt", **evidence)
            state.pending.clear()
    if state.secure and not interrupted:
        message = f"secure line {state.secure[0]} did not take the CPU from the normal world"
        judgement.fail(message, "interrupt", lines=state.secure)


def _judge_smc(call: InterruptCall, state: _Followed, judgement: Judgement) -> None:
    if not state.pending:
        return
    judgement.judged += 1
    badge = int(call.result["badge"])
    if not badge >> _COUNT_SHIFT:
        message = f"call {call.index}: after it line {state.pending[-1]}, which was pending, did not come"
        judgement.fail(message, "interrupt", call=call.index, lines=list(state.pending))
    state.pending.clear()
