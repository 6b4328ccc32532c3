# SPDX-License-Identifier: BSD-2-Clause
"""The time of a night, which its parts share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TypeVar

Item = TypeVar("Item")

RESERVE_SHARE = 0.1
RESERVE_LIMITS = (2.0, 600.0)
"""Seconds, at least and at most, that campaigns leave for what is new and for the report."""


class Time:
    """Seconds of a night: used, and left. Changes of the host's clock do not matter to it."""

    def __init__(self, seconds: float, used: float = 0.0) -> None:
        self._seconds = seconds
        self._started = time.monotonic() - used

    @property
    def used(self) -> float:
        """Seconds since the night began, time between an interruption and its resumption not counted."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds until the night's end; 0 when it is over."""
        return max(0.0, self._seconds - self.used)

    @property
    def left_for_campaigns(self) -> float:
        """Seconds that campaigns may still take."""
        low, high = RESERVE_LIMITS
        return max(0.0, self.left - min(high, max(low, RESERVE_SHARE * self._seconds)))

    def within(self, share: float) -> bool:
        """Whether the first `share` of the night is not over."""
        return self.used < share * self._seconds


def next_share(left: float, shares: Mapping[Item, float], item: Item) -> float:
    """Seconds for one of those that are still to come, so that what one leaves goes to the others."""
    total = sum(shares.values())
    return left * shares[item] / total if total else 0.0
