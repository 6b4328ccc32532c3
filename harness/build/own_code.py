# SPDX-License-Identifier: BSD-2-Clause
"""Users' own code in the place of the project's: a kernel source tree, a firmware.

A tree is turned into one patch on the pinned source. So it goes the way of every other patch: it
names the build in the cache, and a finding that was made with it keeps it and can be repeated where
the tree is not.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.build.artefacts import OwnCode
from harness.build.cache import publish
from harness.build.patches import apply_patch, apply_patches, read_lines, read_patch, read_series, reversed_patch
from harness.build.source import fetch_kernel_source
from harness.errors import InputError, OutputError, PatchError

PARTS = ("include", "libsel4", "src", "tools")
"""Directories of a kernel tree that the build reads."""
_LANDMARK = Path("libsel4/include/interfaces/sel4.xml")
_SKIPPED_DIRECTORIES = frozenset({".git", "__pycache__", "build"})
_SKIPPED_SUFFIXES = frozenset({".o", ".pyc", ".orig", ".rej", ".swp"})
_GENERATED = frozenset({"parsetab.py", "parser.out"})
"""What the kernel's own generators leave behind in tools/."""
SOURCE_PATCH = "kernel-source.patch"


def kernel_patches(own: OwnCode) -> list[Path]:
    """All patches on the pinned source, in order; those of `--extra-patch` come behind them."""
    first = [own.source_patch] if own.source_patch is not None else []
    return first + (read_series() if own.series else [])


def write_source(directory: Path, *, patches: Sequence[Path]) -> None:
    """Write the pinned source with patches applied to a new directory: a start for a tree of one's own.

    Raises InputError if the directory exists and is not empty, OutputError if it cannot be written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"--source {directory}: exists already; name a new directory")
    try:
        shutil.copytree(fetch_kernel_source(), directory, dirs_exist_ok=True)
    except OSError as error:
        raise OutputError(f"--source {directory}: cannot be written: {error}") from error
    apply_patches(directory, patches)


def source_patch(tree: Path, *, series: bool = True) -> Path | None:
    """A user's kernel tree as a patch on the pinned source, in the cache; None if it is that source.

    With `series`, patches of the series that the tree holds already are taken back first, since they
    are applied behind the result: a tree may hold all of them, some or none. Raises InputError for a
    directory that is no tree of this kernel, PatchError for one that the series does not fit.
    """
    pinned = fetch_kernel_source()
    _check_tree(tree, pinned)
    patches = read_series() if series else []
    digest = hashlib.sha256()
    for name in _files(tree):
        content = (tree / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    for path in patches:
        digest.update(path.read_bytes())

    def fill(directory: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            plain = Path(scratch) / "tree"
            for name in _files(tree):
                target = plain / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(tree / name, target)
            kept = _take_back(plain, patches)
            text = _difference(pinned, plain)
            _check_series(plain, patches, kept, tree)
        if text:
            header = "SPDX-License-Identifier: GPL-2.0-only\nSubject: A user's kernel tree\n\nOf --kernel-source.\n\n"
            (directory / SOURCE_PATCH).write_bytes((header + text).encode("utf-8", "surrogateescape"))

    patch = publish(f"kernel-source-{digest.hexdigest()[:24]}", fill) / SOURCE_PATCH
    return patch if patch.is_file() else None


def _check_tree(tree: Path, pinned: Path) -> None:
    if not tree.is_dir():
        raise InputError(f"--kernel-source {tree}: there is no such directory")
    if not (tree / _LANDMARK).is_file():
        raise InputError(f"--kernel-source {tree}: not a source tree of seL4: it has no {_LANDMARK}")
    wanted = (pinned / "VERSION").read_text().strip()
    version = tree / "VERSION"
    if version.is_file() and (found := version.read_text(errors="replace").strip()) != wanted:
        raise InputError(f"--kernel-source {tree}: seL4 {found[:20]}; this version of bothworlds builds seL4 {wanted}")


def _files(tree: Path) -> list[str]:
    """Names of the files that the build may read, relative to the tree."""

    def walk(directory: Path) -> Iterator[str]:
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = Path(entry.path)
                if entry.is_dir():
                    if entry.name not in _SKIPPED_DIRECTORIES:
                        yield from walk(path)
                elif entry.is_file() and not _is_left_over(path):
                    yield path.relative_to(tree).as_posix()

    try:
        return [name for part in PARTS if (tree / part).is_dir() for name in walk(tree / part)]
    except OSError as error:
        raise InputError(f"--kernel-source {tree}: cannot be read: {error}") from error


def _is_left_over(path: Path) -> bool:
    return path.suffix in _SKIPPED_SUFFIXES or path.name in _GENERATED or path.name.endswith("~")


def _take_back(plain: Path, patches: list[Path]) -> dict[Path, PatchError]:
    """Take back those patches that the tree holds, the last one first; why the others could not be."""
    kept = {}
    for path in reversed(patches):
        try:
            apply_patch(reversed_patch(read_patch(path)), plain)
        except PatchError as error:  # not in the tree, or changed there: applying the series will tell
            kept[path] = error
    return kept


def _check_series(plain: Path, patches: list[Path], kept: dict[Path, PatchError], tree: Path) -> None:
    """Apply the whole series to a scratch tree; says what to do where it does not fit the user's changes."""
    wrong = None
    for path in patches:
        try:
            apply_patch(read_patch(path), plain)
        except PatchError as error:
            wrong = kept.get(path, error)
    # A change in one patch's lines keeps all earlier ones that share them from being taken back: the last is the one.
    if wrong is not None:
        reason = str(wrong).partition("; make the patch")[0]
        reason = reason.replace("does not apply", "is neither there as it is, nor applies")
        raise PatchError(f"--kernel-source {tree}: {reason}; --no-series builds the tree as it stands") from wrong


def _difference(pinned: Path, plain: Path) -> str:
    """What changes the pinned source into the tree, as a diff."""
    before, after = set(_files(pinned)), set(_files(plain))
    text: list[str] = []
    for name in sorted(before | after):
        old = read_lines(pinned / name) if name in before else []
        new = read_lines(plain / name) if name in after else []
        if old == new and name in before and name in after:
            continue
        source, target = f"a/{name}" if name in before else "/dev/null", f"b/{name}" if name in after else "/dev/null"
        text.append(f"diff --git a/{name} b/{name}\n")
        lines = list(difflib.unified_diff(old, new, source, target))
        text += lines or [f"--- {source}\n", f"+++ {target}\n"]
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in text)
