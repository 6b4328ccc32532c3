# SPDX-License-Identifier: BSD-2-Clause
"""What went wrong around the software under test: each kind once, with how often and when."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Trouble:
    """One kind of trouble; seconds count from the start of the campaign."""

    what: str
    detail: str
    count: int
    first_seconds: float
    last_seconds: float

    def __str__(self) -> str:
        """One line, or more where the detail has more; the detail is that of the last time."""
        when = f"after {self.first_seconds:.1f} s"
        if self.count > 1:
            when = f"{self.count} times, first {when}, last after {self.last_seconds:.1f} s"
        return f"{self.what} ({when})" + (f": {self.detail}" if self.detail else "")


class Troubles:
    """All troubles of a campaign."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._kinds: dict[str, Trouble] = {}

    def add(self, what: str, detail: str = "") -> None:
        """Note that something went wrong: `what` names the kind, the same words each time."""
        now = time.monotonic() - self._started
        known = self._kinds.get(what)
        if known is None:
            self._kinds[what] = Trouble(what, detail, 1, now, now)
            return
        known.count += 1
        known.last_seconds = now
        known.detail = detail or known.detail

    def __iter__(self) -> Iterator[Trouble]:
        return iter(self._kinds.values())

    def __len__(self) -> int:
        return len(self._kinds)

    def texts(self) -> list[str]:
        """Each trouble as text."""
        return [str(trouble) for trouble in self]
