# SPDX-License-Identifier: BSD-2-Clause
"""The odd states that docs/invariants.md calls legal, as the sentences that begin with `Legal:` list them."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "invariants.md"


def legal_items() -> set[tuple[str, str]]:
    """Invariant and odd state, without what stands in parentheses and without marks."""
    found = set()
    for section in DOCUMENT.read_text().split("\n### ")[1:]:
        invariant, text = section.split("\n", 1)
        for sentence in re.findall(
            r"^Legal: (.*?)\.\n(?:\n|$)", text.split("\n## ")[0] + "\n", re.MULTILINE | re.DOTALL
        ):
            plain = re.sub(r"\([^)]*\)|[`*]", "", " ".join(sentence.split()))
            found |= {(invariant, " ".join(item.split())) for item in plain.split(";")}
    return found
