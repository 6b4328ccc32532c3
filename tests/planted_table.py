# SPDX-License-Identifier: BSD-2-Clause
"""The table of planted bugs in docs/planted.md: which oracles see the stored program of each."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "planted.md"
SECTION = "## The bugs\n"


def seen_by() -> dict[str, frozenset[str]]:
    """The last column of the table, by name of the bug."""
    section = DOCUMENT.read_text().split(SECTION, 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    found = {row[1].strip().strip("`"): frozenset(re.findall(r"`(\S+)`", row[3])) for row in rows}
    assert len(found) == len(rows), "a bug stands in the table twice"
    return found
