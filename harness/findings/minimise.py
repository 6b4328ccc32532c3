# SPDX-License-Identifier: BSD-2-Clause
"""Make a finding's program smaller, call by call, while its symptom stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

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
