# SPDX-License-Identifier: BSD-2-Clause
"""What a campaign counts: calls by label, objects judged, blocks hit. Adding an execution costs about a microsecond."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.programs.descriptions import FAULTING_CALLS
from harness.protocol import CALL_BYTES, MAXIMUM_CALLS, CallState

BUFFERED_CALLS = 1 << 14
ERRORS = 16
"""Errors from this number on share the last column: seL4_Error has 11 values."""


class CallStatistics:
    """Counts attempts, successes and errors for each call of the table.

    Results are first copied into a buffer and counted by the thousand: counting each execution by
    itself would cost more than the rest of the Python side.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = list(labels)
        self._calls = np.zeros(BUFFERED_CALLS, np.uint8)
        self._states = np.zeros(BUFFERED_CALLS, np.uint32)
        self._errors = np.zeros(BUFFERED_CALLS, np.uint64)
        self._used = 0
        self._started = np.zeros(len(labels), np.int64)
        self._done = np.zeros((len(labels), ERRORS), np.int64)
        self._faulting = np.array([label in FAULTING_CALLS for label in labels])

    def add(self, program: bytes, results: NDArray[np.void]) -> None:
        """Add one execution: `results` has one `protocol.RESULT` a call."""
        count = len(results)
        start, end = self._used, self._used + count
        if end > BUFFERED_CALLS:
            self._count()
            start, end = 0, count
        self._calls[start:end] = np.frombuffer(program, np.uint8, count * CALL_BYTES)[::CALL_BYTES]
        self._states[start:end] = results["state"]
        self._errors[start:end] = results["error"]
        self._used = end

    def _count(self) -> None:
        calls = self._calls[: self._used] % len(self._labels)
        states = self._states[: self._used]
        errors = np.minimum(self._errors[: self._used], ERRORS - 1).astype(np.int64)
        self._used = 0
        meant = (states == CallState.FAULTED) & self._faulting[calls]
        states = np.where(meant, CallState.DONE, states)
        errors = np.where(meant, 0, errors)
        stopped = (states == CallState.STARTED) | (states == CallState.FAULTED)
        self._started += np.bincount(calls[stopped], minlength=len(self._labels))
        done = states == CallState.DONE
        cells = calls[done].astype(np.int64) * ERRORS + errors[done]
        self._done += np.bincount(cells, minlength=self._done.size).reshape(self._done.shape)

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Calls that did not return, i64[labels]; those that did, i64[labels, ERRORS] by error."""
        self._count()
        return self._started.copy(), self._done.copy()


assert BUFFERED_CALLS >= MAXIMUM_CALLS


class JudgedObjects:
    """Counts checks and judged objects by invariant."""

    def __init__(self) -> None:
        self._judged: dict[str, tuple[int, int]] = {}
        self._usual: Mapping[str, int] = {}
        self._usual_checks = 0

    def add(self, judged: Mapping[str, int]) -> None:
        """Add what a check judged, objects by invariant. Nearly always that is the same table: it is only counted."""
        if judged is self._usual:
            self._usual_checks += 1
            return
        self._add_usual()
        self._usual, self._usual_checks = judged, 1

    def _add_usual(self) -> None:
        checks, self._usual_checks = self._usual_checks, 0
        add_judged(self._judged, {name: (checks, objects * checks) for name, objects in self._usual.items()})

    def table(self) -> dict[str, tuple[int, int]]:
        """Invariant -> (checks, objects)."""
        self._add_usual()
        return dict(self._judged)


@dataclass
class Totals:
    """What a worker has counted so far; totals of several workers can be merged.

    `started`, `done` as `CallStatistics.arrays`; `hit`: u8[blocks], not zero where a block was executed;
    `invariants`: id -> (checks, objects); `machines`: replaced ones, by the reason; `answered`, `answers_covered`:
    calls that the kernel answered in programs whose answers were compared with the specification, and those of them
    that it covers.
    """

    executions: int = 0
    started: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    done: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, ERRORS), np.int64))
    hit: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    invariants: dict[str, tuple[int, int]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    corpus: int = 0
    audits: int = 0
    machines: Counter[str] = field(default_factory=Counter)
    check_seconds: float = 0.0
    check_seconds_whole: float = 0.0
    whole_checks: int = 0
    answered: int = 0
    answers_covered: int = 0

    @property
    def calls(self) -> int:
        """Calls that were performed."""
        return int(self.started.sum() + self.done.sum())

    @property
    def succeeded(self) -> int:
        """Calls that returned without an error."""
        return int(self.done[:, 0].sum())

    def labels(self, names: Sequence[str], errors_by_number: Mapping[int, str] | None = None) -> dict[str, Any]:
        """For each label: attempted, succeeded, and errors by name, or by number where they have none."""
        known = errors_by_number or {}
        started = np.zeros(len(names), np.int64)
        done = np.zeros((len(names), ERRORS), np.int64)
        started[: len(self.started)], done[: len(self.done)] = self.started, self.done
        table = {}
        for index, name in enumerate(names):
            errors = {
                known.get(error, str(error)): int(count) for error, count in enumerate(done[index]) if error and count
            }
            if started[index]:
                errors["no answer"] = int(started[index])
            table[name] = {
                "attempted": int(started[index] + done[index].sum()),
                "succeeded": int(done[index, 0]),
                "errors": errors,
            }
        return table


def merge(parts: Sequence[Totals]) -> Totals:
    """The sum of several workers' totals; the corpus is shared, so its size is the largest."""
    merged = Totals()
    for part in parts:
        merged.executions += part.executions
        merged.started = _sum(merged.started, part.started)
        merged.done = _sum(merged.done, part.done)
        merged.hit = part.hit.copy() if not len(merged.hit) else merged.hit | part.hit if len(part.hit) else merged.hit
        merged.outcomes.update(part.outcomes)
        add_judged(merged.invariants, part.invariants)
        merged.corpus = max(merged.corpus, part.corpus)
        merged.audits += part.audits
        merged.machines.update(part.machines)
        merged.check_seconds += part.check_seconds
        merged.check_seconds_whole += part.check_seconds_whole
        merged.whole_checks += part.whole_checks
        merged.answered += part.answered
        merged.answers_covered += part.answers_covered
    return merged


def _sum(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    if not one.size:
        return other.copy()
    return one + other if other.size else one


def add_judged(into: dict[str, tuple[int, int]], more: Mapping[str, tuple[int, int]]) -> None:
    """Add (checks, objects) by invariant."""
    for name, (checks, objects) in more.items():
        had_checks, had_objects = into.get(name, (0, 0))
        into[name] = (had_checks + checks, had_objects + objects)
