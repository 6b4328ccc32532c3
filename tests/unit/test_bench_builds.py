# SPDX-License-Identifier: BSD-2-Clause
"""The change that `bench` measures builds with: one line in the body of one function, another one each time."""

from __future__ import annotations

from pathlib import Path

from fuzz.bench_builds import change_of_a_body
from harness.build.patches import apply_patch, read_patch


def test_one_line_of_one_function(tmp_path: Path) -> None:
    file = tmp_path / "src/object/cnode.c"
    file.parent.mkdir(parents=True)
    text = "void\ncteInsert(cap_t cap)\n{\n    one();\n}\n\nvoid\ncteMove(cap_t cap)\n{\n    two();\n}\n"
    results = set()
    for number in (1, 2):
        file.write_text(text)
        patch = tmp_path / f"{number}.patch"
        patch.write_text(change_of_a_body(tmp_path, number))
        apply_patch(read_patch(patch), tmp_path)
        added = [line for line in file.read_text().splitlines() if line not in text.splitlines()]
        assert len(added) == 1 and file.read_text().index(added[0]) < file.read_text().index("one();")
        results.add(file.read_text())
    assert len(results) == 2
