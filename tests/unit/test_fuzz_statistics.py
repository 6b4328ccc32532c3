# SPDX-License-Identifier: BSD-2-Clause
"""Counting is exact, and costs next to nothing."""

from __future__ import annotations

import numpy as np

from fuzz.statistics import BUFFERED_CALLS, CallStatistics, Totals, add_judged, merge
from harness.protocol import CALL_BYTES, RESULT, CallState

LABELS = ["Copy", "Map", "Yield"]


def execution(*calls: tuple[int, CallState, int]) -> tuple[bytes, np.ndarray]:
    results = np.zeros(len(calls), RESULT)
    program = b""
    for index, (selector, state, error) in enumerate(calls):
        program += bytes((selector,)) + bytes(CALL_BYTES - 1)
        results[index]["state"], results[index]["error"] = state, error
    return program, results


def totals(statistics: CallStatistics) -> Totals:
    started, done = statistics.arrays()
    return Totals(executions=1, started=started, done=done)


def test_each_result_is_counted_once() -> None:
    statistics = CallStatistics(LABELS)
    program, results = execution(
        (0, CallState.DONE, 0), (3, CallState.DONE, 8), (1, CallState.STARTED, 0), (1, CallState.NOT_REACHED, 0),
        (2, CallState.SKIPPED, 0), (2, CallState.DONE, 1 << 60),
    )  # fmt: skip
    rounds = BUFFERED_CALLS // 6 * 2 + 1
    for _ in range(rounds):
        statistics.add(program + b"tail", results)
    counted = totals(statistics)
    assert counted.labels(LABELS) == {
        "Copy": {"attempted": 2 * rounds, "succeeded": rounds, "errors": {"8": rounds}},
        "Map": {"attempted": rounds, "succeeded": 0, "errors": {"no answer": rounds}},
        "Yield": {"attempted": rounds, "succeeded": 0, "errors": {"15": rounds}},
    }
    assert counted.calls == 4 * rounds and counted.succeeded == rounds


def test_workers_add_up() -> None:
    statistics = CallStatistics(LABELS)
    statistics.add(*execution((0, CallState.DONE, 0)))
    one, other = totals(statistics), totals(statistics)
    one.hit, other.hit = np.array([1, 0, 0], np.uint8), np.array([0, 0, 8], np.uint8)
    one.invariants, other.invariants = {"a": (1, 10)}, {"a": (2, 5), "b": (1, 1)}
    both = merge([one, other, Totals()])
    assert both.calls == 2 and both.executions == 2
    assert both.hit.astype(bool).tolist() == [True, False, True]
    assert both.invariants == {"a": (3, 15), "b": (1, 1)}
    assert one.invariants == {"a": (1, 10)}, "merging leaves its parts alone"


def test_judged_objects_add_up() -> None:
    into: dict[str, tuple[int, int]] = {}
    for _ in range(2):
        add_judged(into, {"x": (1, 4)})
    assert into == {"x": (2, 8)}
