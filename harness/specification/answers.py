# SPDX-License-Identifier: BSD-2-Clause
"""What an invocation is answered: an error with its details, success, or a capability fault."""

from __future__ import annotations

from dataclasses import dataclass

SUCCESS = "seL4_NoError"
CAP_FAULT = "CapFault"

# How a lookup failed, as the kernel numbers it in messages (seL4_LookupFailureType).
INVALID_ROOT = 1
MISSING_CAPABILITY = 2
DEPTH_MISMATCH = 3
GUARD_MISMATCH = 4


class NotCoveredError(Exception):
    """The answer depends on something that the specification does not know; never leaves this package."""


@dataclass(frozen=True)
class Answer:
    """An answer: the name of a seL4_Error, and the message words that describe an error.

    Of a capability fault, `details` are the words of the fault's message behind the instruction's address.
    """

    error: str
    details: tuple[int, ...] = ()

    def __str__(self) -> str:
        details = ", ".join(hex(word) if word > 0xFFF else str(word) for word in self.details)
        return self.error + (f" ({details})" if details else "")


DONE = Answer(SUCCESS)
ILLEGAL_OPERATION = Answer("seL4_IllegalOperation")
ALIGNMENT_ERROR = Answer("seL4_AlignmentError")
TRUNCATED_MESSAGE = Answer("seL4_TruncatedMessage")
DELETE_FIRST = Answer("seL4_DeleteFirst")
REVOKE_FIRST = Answer("seL4_RevokeFirst")


def invalid_argument(number: int) -> Answer:
    """seL4_InvalidArgument for the argument of that number."""
    return Answer("seL4_InvalidArgument", (number,))


def invalid_capability(number: int) -> Answer:
    """seL4_InvalidCapability; 0 is the invoked one, the others are counted from 1 by most invocations."""
    return Answer("seL4_InvalidCapability", (number,))


def range_error(minimum: int, maximum: int) -> Answer:
    """seL4_RangeError with the values that would do."""
    return Answer("seL4_RangeError", (minimum, maximum))


def not_enough_memory(left: int) -> Answer:
    """seL4_NotEnoughMemory with the bytes that are left."""
    return Answer("seL4_NotEnoughMemory", (left,))


@dataclass(frozen=True)
class LookupFailure:
    """Why a lookup failed: the words that describe it in a message."""

    words: tuple[int, ...]

    def answer(self, *, source: bool = False) -> Answer:
        """seL4_FailedLookup; `source` says whether it was the source that was looked up."""
        return Answer("seL4_FailedLookup", (int(source), *self.words))


NO_ROOT = LookupFailure((INVALID_ROOT,))


def missing(bits_left: int) -> LookupFailure:
    """No capability, or no table, with so many bits of the address left."""
    return LookupFailure((MISSING_CAPABILITY, bits_left))
