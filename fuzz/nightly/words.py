# SPDX-License-Identifier: BSD-2-Clause
"""Messages in one line, for tables."""

from __future__ import annotations

LONGEST_LINE = 240
"""Characters."""


def first_line(problem: Exception) -> str:
    """The first line of an error's message; its class if it has none."""
    return shortened(str(problem)) or type(problem).__name__


def shortened(text: str) -> str:
    """The first line of a text, cut where it would no longer fit a table."""
    line = next(iter(text.strip().splitlines()), "")
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 3] + "..."
