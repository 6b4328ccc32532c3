# SPDX-License-Identifier: BSD-2-Clause
"""Each way in which a call is refused, right after refusals of other calls that were told otherwise.

The kernel tells an error through variables that keep what the error before told. A refusal that leaves one of them as
it is shows only after another error that had set it to something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fuzz.mutants.variations import needs_result
from harness.execution.executor import Executor
from harness.programs.encodings import records
from harness.programs.interfaces import Interface
from harness.protocol import CallState
from harness.specification.message_info import LENGTH

CALLS = 16
"""Calls in one program."""


@dataclass(frozen=True)
class Refusal:
    """A call as its record, the error that it is refused with, and the words of the answer."""

    row: bytes
    error: int
    details: tuple[int, ...]


def after_others(executor: Executor, interface: Interface, programs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Programs in which each refusal that some programs meet comes after one with other details, and another error."""
    refused = list(_refusals(executor, interface, programs))
    told: dict[int, list[Refusal]] = {}
    for refusal in refused:
        if all(refusal.details != other.details for other in told.setdefault(refusal.error, [])):
            told[refusal.error].append(refusal)
    groups = [[*_others(refusal, told), refusal.row] for refusal in refused]
    rows: list[bytes] = []
    made: list[bytes] = []
    for group in groups:
        if len(rows) + len(group) > CALLS:
            made.append(b"".join(rows))
            rows = []
        rows += group
    made += [b"".join(rows)] if rows else []
    return {f"refusals after others, {number}": program for number, program in enumerate(made)}


def _others(refusal: Refusal, told: Mapping[int, list[Refusal]]) -> Iterator[bytes]:
    """Refusals that leave everything behind that an error tells, and nothing of it as this one does."""
    same = [other for other in told[refusal.error] if _differs(other.details, refusal.details)]
    yield from (other.row for other in same[:1])
    for error, others in told.items():
        if error != refusal.error:
            yield others[0].row
            return


def _differs(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two errors of one type tell nothing alike."""
    return bool(one) and all(first != second for first, second in zip(one, other, strict=False))


def _refusals(executor: Executor, interface: Interface, programs: Mapping[str, bytes]) -> Iterator[Refusal]:
    """One refused call for each call, error and details; calls that need no result of another one."""
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    for program in programs.values():
        results = executor.run(program).results
        for row, result in zip(records(program), results, strict=False):
            number, error = row[0] % len(interface.calls), int(result["error"])
            if int(result["state"]) != CallState.DONE or not error or needs_result(interface, row):
                continue
            details = tuple(int(word) for word in result["mr"][: int(result["info"]) & LENGTH])
            if (number, error, details) not in seen:
                seen.add((number, error, details))
                yield Refusal(row, error, details)
