# SPDX-License-Identifier: BSD-2-Clause
"""What others use of this package: the checker, its reports, and how to add an invariant."""

from __future__ import annotations

from harness.invariants.checker import Checker, CheckReport
from harness.invariants.definitions import (
    Context,
    Facts,
    Invariant,
    Judgement,
    Violation,
    get,
    invariant,
    invariants,
)

__all__ = [
    "CheckReport",
    "Checker",
    "Context",
    "Facts",
    "Invariant",
    "Judgement",
    "Violation",
    "get",
    "invariant",
    "invariants",
]
