# SPDX-License-Identifier: BSD-2-Clause
"""docs/own-code.md as a user follows it: its files are written, its commands run, and they say what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.build.artefacts import PROJECT
from harness.build.own_code import source_patch, write_source
from harness.build.patches import read_series
from harness.errors import BothworldsError, InputError, PatchError

PAGE = PROJECT / "docs" / "own-code.md"
BLOCK = re.compile(r"(?:^`(?P<file>[^`\n]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def steps(page: str) -> list[tuple[str, str, str]]:
    """What the page asks for, in order: ("file", name, content) or ("command", command line, expected output)."""
    found: list[tuple[str, str, str]] = []
    for block in BLOCK.finditer(page):
        if block["kind"] != "console":
            assert block["file"], f"a block without a file name: {block['text'][:60]}"
            found.append(("file", block["file"], block["text"]))
            continue
        for part in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            command = [lines.pop(0)]
            while lines and lines[0].startswith(">"):
                command.append(lines.pop(0)[2:])
            found.append(("command", "\n".join(command), "\n".join(lines)))
    return found


def pattern(expected: str) -> re.Pattern[str]:
    """Expected output as a pattern: `...` stands for anything, and blanks are alike."""
    pieces = [r"\s+".join(re.escape(word) for word in piece.split()) for piece in expected.split("...")]
    return re.compile(r"\s*" + r".*?".join(pieces) + r"\s*", re.DOTALL)


@pytest.mark.slow
def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BOTHWORLDS_K")}
    environment |= {"BOTHWORLDS": str(PROJECT), "COLUMNS": "200"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    commands = 0
    for kind, what, content in steps(PAGE.read_text()):
        if kind == "file":
            path = tmp_path / what
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            continue
        commands += 1
        script = f"{what}\nstatus=$?\nenv -0 > {tmp_path}/.environment\nexit $status"
        result = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        output = result.stdout + result.stderr
        assert result.returncode in (0, 1), f"{what}\n{output}"
        assert pattern(content).fullmatch(output), f"{what}\nexpected:\n{content}\ngot:\n{output}"
        variables = (tmp_path / ".environment").read_bytes().decode().split("\0")
        environment = dict(variable.split("=", 1) for variable in variables if "=" in variable)
    assert commands > 8


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with the whole series."""
    write_source(tmp_path / "tree", patches=read_series())
    return tmp_path / "tree"


def test_a_tree_with_all_some_or_none_of_the_series_is_the_same(tree: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "none", patches=[])
    write_source(tmp_path / "some", patches=read_series()[:9])
    for each in (tree, tmp_path / "none", tmp_path / "some"):
        assert source_patch(each) is None, each


def test_a_change_of_a_user_is_all_that_is_left(tree: Path) -> None:
    file = tree / "src/api/syscall.c"
    file.write_text(file.read_text() + "\n/* mine */")
    patch = source_patch(tree)
    assert patch is not None
    changed = [
        line
        for line in patch.read_text().splitlines()
        if line.startswith(("+", "-")) and line[:3] not in ("+++", "---")
    ]
    assert changed == ["+", "+/* mine */"]
    whole = source_patch(tree, series=False)
    assert whole is not None
    assert "armWorld" not in patch.read_text()
    assert len(whole.read_text()) > len(patch.read_text()) * 10


@pytest.mark.parametrize(
    ("file", "old", "new", "error", "words"),
    [
        # A line that a patch of the series has made, changed by the user: only they know what is meant.
        ("src/object/objecttype.c", "memoryOf", "kindOf", PatchError, ["objecttype.c", "--no-series"]),
        ("VERSION", "5.0.0", "12.1.0", InputError, ["seL4 12.1.0", "builds seL4 5.0.0"]),
        ("libsel4/include/interfaces/sel4.xml", None, None, InputError, ["not a source tree of seL4"]),
    ],
)
def test_a_tree_that_cannot_be_built_is_refused(
    tree: Path, file: str, old: str | None, new: str | None, error: type[BothworldsError], words: list[str]
) -> None:
    path = tree / file
    if old is None or new is None:
        path.unlink()
    else:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    with pytest.raises(error) as caught:
        source_patch(tree)
    for word in [str(tree), *words]:
        assert word in str(caught.value)
