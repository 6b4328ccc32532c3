# SPDX-License-Identifier: BSD-2-Clause
"""What makes two findings the same: the symptom, where it shows, and after which call.

A signature is `symptom:place:label`. The symptom is an invariant's id, or the kind of fault; the
place is a kind of kernel object, or the kernel function that failed; the label is that of the
first call after which the symptom shows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

NOWHERE = "-"
"""Stands for a place or label that is not known."""
BEFORE_ANY_CALL = "start"
"""The label of a symptom that shows before the first call."""


@dataclass(frozen=True)
class Symptom:
    """One thing that is wrong after a program.

    `kind`: `violation`, a liveness outcome such as `assertion`, or `harness-defect`.
    `invariant`: the id of a violated invariant, else empty. `place`: object kind or kernel function.
    """

    kind: str
    invariant: str = ""
    place: str = NOWHERE
    message: str = field(default="", compare=False)
    evidence: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @property
    def name(self) -> str:
        """The invariant's id, or the kind of fault."""
        return self.invariant or self.kind

    @property
    def key(self) -> tuple[str, str]:
        """What stays the same while a program is made smaller, as signatures write it."""
        return (_clean(self.name), _clean(self.place))


@dataclass(frozen=True)
class Signature:
    """Identity of a finding."""

    name: str
    place: str
    label: str

    def __str__(self) -> str:
        return f"{self.name}:{self.place}:{self.label}"

    @classmethod
    def parse(cls, text: str) -> Signature:
        """The inverse of `str`; ValueError if it is not a signature."""
        parts = text.split(":")
        if len(parts) != 3 or not all(parts):
            raise ValueError(f"'{text}' is not of the form symptom:place:label")
        return cls(*parts)

    @property
    def directory_name(self) -> str:
        """A name for the finding's directory: readable, and different for different signatures."""
        text = str(self)
        plain = re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-")[:100]
        return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def signature_of(symptom: Symptom, label: str) -> Signature:
    """The signature of a symptom that first shows after a call with this label."""
    return Signature(*symptom.key, _clean(label))


def _clean(part: str) -> str:
    return re.sub(r"[:\s]+", "_", part) or NOWHERE


def first_showing(shows: Callable[[int], bool], calls: int) -> int | None:
    """The smallest number of calls, from 1 to `calls`, after which a symptom shows; None if it never does.

    `shows(k)` runs the first k calls. Symptoms can come and go (an object with a bad mapping
    may be deleted later), so each length is tried in turn rather than by bisection.
    """
    for stop_after in range(1, calls + 1):
        if shows(stop_after):
            return stop_after
    return None


HALTING_FUNCTIONS = frozenset({"halt", "_fail", "_assert_fail", "idle_thread", "kernel_halt"})
"""Functions at the end of every failure: they do not tell one bug from another."""


def failing_function(functions: Sequence[str]) -> str:
    """The kernel function that failed: the innermost one that is not part of halting itself."""
    for name in functions:
        if name and name != "??" and name not in HALTING_FUNCTIONS:
            return name
    return NOWHERE
