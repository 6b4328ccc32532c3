# SPDX-License-Identifier: BSD-2-Clause
"""Refusals after others: which are taken, and what stands before each."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from fuzz.mutants.refusals import after_others
from harness.execution.executor import Executor
from harness.programs.encodings import RAW_OFFSET, records
from harness.programs.interfaces import Interface
from harness.protocol import CALL_BYTES, RESULT, CallState

ARGUMENT, RANGE = 1, 4
"""Errors with one word, and with two."""


class Refusing:
    """Refuses each call as its raw value says: the error, and the words of the answer, a byte each."""

    def run(self, program: bytes) -> Any:
        results = np.zeros(len(records(program)), RESULT)
        for row, result in zip(records(program), results, strict=True):
            error, *words = row[RAW_OFFSET : RAW_OFFSET + 3]
            length = {ARGUMENT: 1, RANGE: 2}.get(error, 0)
            result["state"], result["error"], result["info"] = CallState.DONE, error, error << 12 | length
            result["mr"][:length] = words[:length]
        return SimpleNamespace(results=results)


def call(error: int, *words: int) -> bytes:
    row = bytearray(CALL_BYTES)
    row[RAW_OFFSET : RAW_OFFSET + 1 + len(words)] = bytes((error, *words))
    return bytes(row)


def made(*rows: bytes) -> list[list[bytes]]:
    type_ = SimpleNamespace(target=None, parameters=())
    interface = cast(Interface, SimpleNamespace(calls=(type_,)))
    programs = {"one": b"".join(rows)}
    return [list(records(p)) for p in after_others(cast(Executor, Refusing()), interface, programs).values()]


def test_each_refusal_comes_after_one_with_other_details_and_another_error() -> None:
    first, second, other = call(ARGUMENT, 0), call(ARGUMENT, 2), call(RANGE, 1, 64)
    (rows,) = made(first, second, other)
    assert rows == [second, other, first, first, other, second, first, other]


def test_a_refusal_is_taken_once_and_a_success_never() -> None:
    assert made(call(0), call(0)) == []
    (rows,) = made(call(ARGUMENT, 0), call(ARGUMENT, 0))
    assert rows == [call(ARGUMENT, 0)]


def test_details_that_are_partly_the_same_do_not_do() -> None:
    (rows,) = made(call(RANGE, 1, 64), call(RANGE, 1, 32))
    assert rows == [call(RANGE, 1, 64), call(RANGE, 1, 32)], "the lower bound would be left as it was"


def test_programs_have_sixteen_calls_at_most() -> None:
    programs = made(*(call(ARGUMENT, number) for number in range(16)), call(RANGE, 1, 2))
    assert max(map(len, programs)) <= 16
    assert sum(map(len, programs)) == 16 * 3 + 2
