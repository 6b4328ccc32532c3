# SPDX-License-Identifier: BSD-2-Clause
"""Kernel patches: reading, applying and counting them.

A patch is a header and a unified diff. The header's first lines are `Key: value` fields
(SPDX-License-Identifier, Subject; `harness.build.planted` knows further ones), the rest says
what it does, why, and which upstream rule it follows.

Patches apply without fuzz: every line of a hunk, context included, must be in the file. A hunk
may sit a few lines away from where the patch says, since other patches may come before it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from harness.build.artefacts import PROJECT
from harness.build.cache import publish
from harness.errors import PatchError

PATCH_DIRECTORY = PROJECT / "kernel_patches"
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class Part(StrEnum):
    """What a patch changes."""

    KERNEL = "kernel"
    FIRMWARE = "firmware"
    TRUSTED_OS = "trusted OS"


PART_PATHS = {Part.FIRMWARE: "guest_images/firmware/", Part.TRUSTED_OS: "guest_images/trusted_os/"}
"""How paths begin in patches of the project's own code; all others are the kernel's."""


@dataclass
class Hunk:
    """One hunk: `old` begins at the 1-based line `old_start`, `new` at `new_start`; lines keep their ends."""

    number: int
    old_start: int
    new_start: int
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    added: int = 0
    removed: int = 0


@dataclass
class FileChange:
    """What a patch does to one file. `creates` and `deletes` say that it was or will be absent."""

    path: str
    creates: bool = False
    deletes: bool = False
    hunks: list[Hunk] = field(default_factory=list)


@dataclass(frozen=True)
class Patch:
    """A parsed patch: header fields, header text behind them, and the changes."""

    path: Path
    fields: dict[str, str]
    description: str
    changes: tuple[FileChange, ...]

    @property
    def added(self) -> int:
        """Number of added lines."""
        return sum(hunk.added for change in self.changes for hunk in change.hunks)

    @property
    def removed(self) -> int:
        """Number of removed lines."""
        return sum(hunk.removed for change in self.changes for hunk in change.hunks)


def read_lines(path: Path) -> list[str]:
    """Lines of a file with their ends, bytes that are not UTF-8 kept; OSError.

    Only a newline ends a line; `str.splitlines` knows more.
    """
    *complete, rest = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    return [line + "\n" for line in complete] + ([rest] if rest else [])


def read_patch(path: Path) -> Patch:
    """Parse a patch. Raises PatchError that names file and line."""
    try:
        lines = read_lines(path)
    except OSError as error:
        raise PatchError(f"{path}: cannot read the patch ({error})") from error
    start = next((n for n, line in enumerate(lines) if line.startswith(("diff --git ", "--- "))), None)
    if start is None:
        raise PatchError(f"{path}: holds no diff; a patch is a header and a unified diff with a/ and b/ paths")
    fields: dict[str, str] = {}
    body = 0
    while body < start and (found := re.fullmatch(r"([A-Z][A-Za-z-]*): (.*)\n", lines[body])):
        fields[found[1]] = found[2].strip()
        body += 1
    changes = _parse_changes(path, lines, start)
    return Patch(path, fields, "".join(lines[body:start]).strip(), tuple(changes))


def _parse_changes(path: Path, lines: list[str], position: int) -> list[FileChange]:
    changes: list[FileChange] = []
    while position < len(lines):
        line = lines[position]
        if line.startswith("--- "):
            if position + 1 >= len(lines) or not lines[position + 1].startswith("+++ "):
                raise PatchError(f"{path}, line {position + 1}: a '---' line without a '+++' line behind it")
            old, new = _name(path, line, position), _name(path, lines[position + 1], position + 1)
            if not (old or new):
                raise PatchError(f"{path}, line {position + 1}: neither side names a file")
            changes.append(FileChange(new or old or "", creates=old is None, deletes=new is None))
            position += 2
        elif line.startswith("@@ "):
            if not changes:
                raise PatchError(f"{path}, line {position + 1}: a hunk before any file name")
            position = _parse_hunk(path, lines, position, changes[-1])
        else:
            position += 1
    return changes


def _name(path: Path, line: str, position: int) -> str | None:
    """File name of a `---` or `+++` line without its first directory; None for /dev/null."""
    name = line[4:].split("\t")[0].strip()
    if name == "/dev/null":
        return None
    stripped = name.partition("/")[2]
    if not stripped or ".." in stripped.split("/") or stripped.startswith("/"):
        raise PatchError(f"{path}, line {position + 1}: '{name}' is not a path below a/ or b/")
    return stripped


def _parse_hunk(path: Path, lines: list[str], position: int, change: FileChange) -> int:
    found = _HUNK.match(lines[position])
    if not found:
        raise PatchError(f"{path}, line {position + 1}: not a hunk header: {lines[position].strip()}")
    hunk = Hunk(len(change.hunks) + 1, int(found[1]), int(found[3]))
    want_old, want_new = int(found[2] or 1), int(found[4] or 1)
    position += 1
    while (len(hunk.old) < want_old or len(hunk.new) < want_new) and position < len(lines):
        kind, text = lines[position][:1], lines[position][1:]
        if kind == "\n":  # an editor removed the blank of an empty context line
            kind, text = " ", "\n"
        if kind not in (" ", "-", "+"):
            break
        if kind != "+":
            hunk.old.append(text)
        if kind != "-":
            hunk.new.append(text)
        hunk.added += kind == "+"
        hunk.removed += kind == "-"
        position += 1
    if len(hunk.old) != want_old or len(hunk.new) != want_new:
        raise PatchError(
            f"{path}, line {position + 1}: hunk {hunk.number} of {change.path} has {len(hunk.old)} old and "
            f"{len(hunk.new)} new lines, its header says {want_old} and {want_new}; make the diff again"
        )
    if position < len(lines) and lines[position].startswith("\\"):  # no newline at the end of the file
        for side in (hunk.old, hunk.new):
            if side:
                side[-1] = side[-1].rstrip("\n")
        position += 1
    change.hunks.append(hunk)
    return position


def read_series(directory: Path = PATCH_DIRECTORY) -> list[Path]:
    """Paths of the patches of `directory/series`, in order. Raises PatchError for one that is missing."""
    series = directory / "series"
    paths = []
    for number, line in enumerate(series.read_text().splitlines(), 1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        path = directory / name
        if not path.is_file():
            raise PatchError(f"{series}, line {number}: there is no patch '{name}'")
        paths.append(path)
    return paths


def part_of(path: Path) -> Part:
    """What a patch changes, by the paths in it. Raises PatchError for one that changes several parts."""
    changes = read_patch(path).changes
    parts = {_part(change.path) for change in changes}
    if len(parts) > 1:
        names = " and ".join(part.value for part in Part if part in parts)
        raise PatchError(f"{path}: changes {names}; make one patch for each")
    return parts.pop()


def _part(name: str) -> Part:
    for part, directory in PART_PATHS.items():
        if name.startswith(directory):
            return part
    return Part.KERNEL


def patched_sources(directory: Path, patches: Sequence[Path]) -> Path:
    """A copy of a directory of the project's sources with patches applied, in the cache; without patches itself."""
    if not patches:
        return directory
    digest = hashlib.sha256()
    for path in [*sorted(directory.iterdir()), *patches]:
        digest.update(path.read_bytes())
    sources = directory.relative_to(PROJECT)

    def fill(work: Path) -> None:
        shutil.copytree(directory, work / sources)
        apply_patches(work, patches)

    return publish(f"{directory.name}-source-{digest.hexdigest()[:32]}", fill) / sources


def apply_patch(patch: Patch, directory: Path) -> None:
    """Apply one patch to the tree at `directory`: all of it, or nothing and PatchError."""
    results: dict[str, list[str] | None] = {}
    for change in patch.changes:
        target = directory / change.path
        before = results.get(change.path, read_lines(target) if target.is_file() else None)
        if change.creates and before is not None:
            raise _refusal(patch, change, 1, "the file that it creates exists already")
        if not change.creates and before is None:
            raise _refusal(patch, change, 1, "there is no such file")
        after = _apply_hunks(patch, change, before or [])
        if change.deletes and after:
            raise _refusal(patch, change, 1, "the file that it deletes has lines that the patch does not know")
        results[change.path] = None if change.deletes else after
    for name, lines in results.items():
        target = directory / name
        if lines is None:
            target.unlink()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes("".join(lines).encode("utf-8", "surrogateescape"))


def _apply_hunks(patch: Patch, change: FileChange, lines: list[str]) -> list[str]:
    result: list[str] = []
    done = 0  # lines of the old file that are in the result
    shift = 0  # how far the last hunk was from where its header says
    for hunk in change.hunks:
        # A hunk without old lines stands behind the line that its header names.
        expected = hunk.old_start - (1 if hunk.old else 0) + shift
        place = _find(lines, hunk.old, expected, done)
        if place is None:
            raise _refusal(patch, change, hunk.number, _mismatch(lines, hunk, expected))
        shift += place - expected
        result += lines[done:place] + hunk.new
        done = place + len(hunk.old)
    return result + lines[done:]


def _find(lines: list[str], old: list[str], expected: int, first: int) -> int | None:
    """Index at or behind `first`, nearest to `expected`, at which `old` lies in `lines`."""
    places = range(first, len(lines) - len(old) + 1)
    for place in sorted(places, key=lambda candidate: abs(candidate - expected)):
        if lines[place : place + len(old)] == old:
            return place
    return None


def _mismatch(lines: list[str], hunk: Hunk, expected: int) -> str:
    for offset, line in enumerate(hunk.old):
        found = lines[expected + offset] if 0 <= expected + offset < len(lines) else None
        if found != line:
            shown = "the end of the file" if found is None else repr(found.rstrip("\n"))
            return f"line {expected + offset + 1} is {shown}, the patch expects {line.rstrip(chr(10))!r}"
    return "its lines come before those of an earlier hunk"


def _refusal(patch: Patch, change: FileChange, hunk: int, why: str) -> PatchError:
    return PatchError(
        f"{patch.path.name} does not apply: file {change.path}, hunk {hunk}: {why}; "
        f"make the patch again for the current series ({PATCH_DIRECTORY / 'series'})"
    )


def reversed_patch(patch: Patch) -> Patch:
    """The patch that takes another one back."""

    def turned(hunk: Hunk) -> Hunk:
        return Hunk(hunk.number, hunk.new_start, hunk.old_start, hunk.new, hunk.old, hunk.removed, hunk.added)

    changes = tuple(
        FileChange(change.path, change.deletes, change.creates, [turned(hunk) for hunk in change.hunks])
        for change in patch.changes
    )
    return replace(patch, changes=changes)


def reverse_patch(path: Path) -> Path:
    """A patch that takes another one back, in the cache: the kernel as it was without a fix.

    The series may hold further patches behind it, as long as they leave its lines alone.
    """
    patch = reversed_patch(read_patch(path))
    text = [f"SPDX-License-Identifier: GPL-2.0-only\nSubject: Without {path.name}\n\nTakes that patch back.\n\n"]
    for change in patch.changes:
        before = "/dev/null" if change.creates else f"a/{change.path}"
        after = "/dev/null" if change.deletes else f"b/{change.path}"
        text.append(f"diff --git a/{change.path} b/{change.path}\n--- {before}\n+++ {after}\n")
        for hunk in change.hunks:
            text.append(f"@@ -{hunk.old_start},{len(hunk.old)} +{hunk.new_start},{len(hunk.new)} @@\n")
            text += ["-" + line for line in hunk.old] + ["+" + line for line in hunk.new]
    content = "".join(text)
    digest = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()
    name = f"without-{path.name}"

    def fill(directory: Path) -> None:
        (directory / name).write_bytes(content.encode("utf-8", "surrogateescape"))

    return publish(f"reversed-{digest[:24]}", fill) / name


def apply_patches(directory: Path, patches: Sequence[Path]) -> None:
    """Apply patches in their order to the tree at `directory`."""
    for path in patches:
        apply_patch(read_patch(path), directory)


def line_counts() -> list[tuple[str, int, int]]:
    """(file name, added lines, removed lines) of each patch of the series."""
    return [(path.name, (patch := read_patch(path)).added, patch.removed) for path in read_series()]


if __name__ == "__main__":
    for patch_name, added_lines, removed_lines in line_counts():
        print(f"{patch_name:44} +{added_lines:<4} -{removed_lines}")
