# SPDX-License-Identifier: BSD-2-Clause
"""Reading and applying kernel patches."""

from __future__ import annotations

import difflib
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.build.artefacts import PROJECT
from harness.build.patches import (
    PART_PATHS,
    PATCH_DIRECTORY,
    Part,
    _apply_hunks,
    apply_patch,
    apply_patches,
    line_counts,
    part_of,
    read_patch,
    read_series,
)
from harness.build.planted import planted_bugs, preserving_patches
from harness.build.source import fetch_kernel_source
from harness.errors import PatchError

BEFORE = "".join(f"line {number}\n" for number in range(1, 21))


def write_patch(path: Path, before: str, after: str, name: str = "a.c") -> Path:
    diff = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{name}", f"b/{name}"
    )
    path.write_text("SPDX-License-Identifier: GPL-2.0-only\nSubject: a test\n\nWhat: nothing.\n\n" + "".join(diff))
    return path


def test_header_and_counts(tmp_path: Path) -> None:
    after = BEFORE.replace("line 5\n", "five\nand more\n")
    patch = read_patch(write_patch(tmp_path / "x.patch", BEFORE, after))
    assert patch.fields == {"SPDX-License-Identifier": "GPL-2.0-only", "Subject": "a test"}
    assert patch.description == "What: nothing."
    assert (patch.added, patch.removed) == (2, 1)


def test_applies_exactly_and_with_an_offset(tmp_path: Path) -> None:
    after = BEFORE.replace("line 5\n", "five\nand more\n").replace("line 18\n", "")
    patch = read_patch(write_patch(tmp_path / "x.patch", BEFORE, after))
    for prefix in ("", "new\n" * 7):
        (tmp_path / "a.c").write_text(prefix + BEFORE)
        apply_patch(patch, tmp_path)
        assert (tmp_path / "a.c").read_text() == prefix + after


def test_no_fuzz_and_nothing_half_done(tmp_path: Path) -> None:
    after = BEFORE.replace("line 2\n", "two\n").replace("line 15\n", "fifteen\n")
    patch = read_patch(write_patch(tmp_path / "x.patch", BEFORE, after))
    changed = BEFORE.replace("line 13\n", "line thirteen\n")  # context of the second hunk only
    (tmp_path / "a.c").write_text(changed)
    with pytest.raises(
        PatchError, match=r"x\.patch does not apply: file a\.c, hunk 2: line 13 is 'line thirteen'.*expects"
    ):
        apply_patch(patch, tmp_path)
    assert (tmp_path / "a.c").read_text() == changed


def test_applied_twice_is_refused(tmp_path: Path) -> None:
    patch = read_patch(write_patch(tmp_path / "x.patch", BEFORE, BEFORE.replace("line 9\n", "nine\n")))
    (tmp_path / "a.c").write_text(BEFORE)
    apply_patch(patch, tmp_path)
    with pytest.raises(PatchError, match="hunk 1"):
        apply_patch(patch, tmp_path)


def test_creates_and_deletes_files(tmp_path: Path) -> None:
    create = tmp_path / "create.patch"
    create.write_text("Subject: x\n\n--- /dev/null\n+++ b/dir/new.c\n@@ -0,0 +1,2 @@\n+one\n+two\n")
    apply_patch(read_patch(create), tmp_path)
    assert (tmp_path / "dir/new.c").read_text() == "one\ntwo\n"
    with pytest.raises(PatchError, match="exists already"):
        apply_patch(read_patch(create), tmp_path)
    delete = tmp_path / "delete.patch"
    delete.write_text("Subject: x\n\n--- a/dir/new.c\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-one\n-two\n")
    apply_patch(read_patch(delete), tmp_path)
    assert not (tmp_path / "dir/new.c").exists()
    with pytest.raises(PatchError, match="no such file"):
        apply_patch(read_patch(delete), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Subject: nothing else\n", "no diff"),
        ("--- a/x\nno plus line\n", "line 1: a '---' line without"),
        ("--- a/../../x\n+++ b/../../x\n@@ -1 +1 @@\n-a\n+b\n", "not a path below"),
        ("--- /dev/null\n+++ /dev/null\n", "neither side"),
        (
            "--- a/x\n+++ b/x\n@@ -1,4 +1,4 @@\n a\n-b\n+c\n",
            "hunk 1 of x has 2 old and 2 new lines, its header says 4 and 4",
        ),
        ("--- a/x\n+++ b/x\n@@ nonsense @@\n", "line 3: not a hunk header"),
        ("diff --git a/x b/x\n@@ -1 +1 @@\n-a\n+b\n", "before any file name"),
    ],
)
def test_damaged_patches(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "damaged.patch"
    path.write_text(text)
    with pytest.raises(PatchError, match=re.escape(message)) as caught:
        read_patch(path)
    assert str(path) in str(caught.value)


def test_series_names_a_missing_patch(tmp_path: Path) -> None:
    (tmp_path / "series").write_text("# a comment\n\nabsent.patch\n")
    with pytest.raises(PatchError, match=r"series, line 3: there is no patch 'absent\.patch'"):
        read_series(tmp_path)


@given(st.lists(st.sampled_from("abc\f\x1c"), max_size=30), st.lists(st.sampled_from("abc\f\x1c"), max_size=30))
def test_any_difference_round_trips(tmp_path_factory: pytest.TempPathFactory, old: list[str], new: list[str]) -> None:
    """What difflib writes is applied to what it was written for."""
    before, after = [f"{line}\n" for line in old], [f"{line}\n" for line in new]
    if before == after:
        return
    path = tmp_path_factory.mktemp("patch") / "x.patch"
    path.write_bytes("".join(difflib.unified_diff(before, after, "a/x", "b/x")).encode())
    patch = read_patch(path)
    assert _apply_hunks(patch, patch.changes[0], before) == after


def test_every_patch_has_a_header() -> None:
    paths = [*PATCH_DIRECTORY.glob("*.patch"), *PATCH_DIRECTORY.glob("*/*.patch")]
    assert paths
    for path in paths:
        patch = read_patch(path)
        assert patch.fields["SPDX-License-Identifier"] == "GPL-2.0-only", path
        assert patch.fields["Subject"], path
        for part in (
            "What: ",
            "Why: ",
            {"planted": "Hit by: ", "preserving": "Same: "}.get(path.parent.name, "Rule: "),
        ):
            assert f"\n{part}" in f"\n{patch.description}", f"{path}: no '{part}'"


def test_series_planted_bugs_and_fixes_apply(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(fetch_kernel_source(), tree)
    apply_patches(tree, read_series())
    names = [path.name for path in read_series()]
    bugs = planted_bugs()
    assert len({bug.name for bug in bugs}) == len(bugs) >= 5
    in_series = set(names)
    fixes = [path for path in (PATCH_DIRECTORY / "fixes").glob("*.patch") if path.name not in in_series]
    for path in [*(bug.path for bug in bugs), *(patch.path for patch in preserving_patches()), *fixes]:
        patch = read_patch(path)
        copy = tmp_path / path.stem
        sources = PROJECT if part_of(path) in PART_PATHS else tree
        for change in patch.changes:
            (copy / change.path).parent.mkdir(parents=True, exist_ok=True)
            if not change.creates:
                shutil.copyfile(sources / change.path, copy / change.path)
        apply_patch(patch, copy)


def test_a_patch_is_for_the_kernel_the_firmware_or_the_trusted_os(tmp_path: Path) -> None:
    kernel = write_patch(tmp_path / "kernel.patch", BEFORE, BEFORE.replace("line 3", "line three"), "src/a.c")
    firmware = write_patch(tmp_path / "smc.patch", BEFORE, BEFORE.replace("line 3", "3"), "guest_images/firmware/a.S")
    trusted = write_patch(tmp_path / "os.patch", BEFORE, BEFORE.replace("line 3", "3"), "guest_images/trusted_os/a.c")
    assert [part_of(path) for path in (kernel, firmware, trusted)] == [Part.KERNEL, Part.FIRMWARE, Part.TRUSTED_OS]
    both = tmp_path / "both.patch"
    both.write_text(kernel.read_text() + firmware.read_text())
    with pytest.raises(PatchError, match="changes kernel and firmware; make one patch for each"):
        part_of(both)


def test_the_documentation_counts_the_world_tag_as_it_is() -> None:
    """docs/kernel-patches.md says how many lines the tag takes, file by file and in all."""
    text = (PROJECT / "docs/kernel-patches.md").read_text()
    counts = {name: (added, removed) for name, added, removed in line_counts()}
    window, tag = counts["0010-kernel-window-by-world.patch"], counts["0011-world-tag.patch"]
    assert f"the world tag alone: +{tag[0]}/-{tag[1]}." in text
    assert f"(0010, +{window[0]}/-{window[1]})" in text
    assert f"it is +{tag[0] + window[0]}/-{tag[1] + window[1]}." in text
    rows = re.findall(r"^\| [^|]*\| [^|]*\| \+(\d+)(?:/-(\d+))? \|$", text, re.MULTILINE)
    assert (sum(int(added) for added, _ in rows), sum(int(removed or 0) for _, removed in rows)) == tag
