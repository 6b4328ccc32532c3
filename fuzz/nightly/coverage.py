# SPDX-License-Identifier: BSD-2-Clause
"""Coverage of a night: by function for each build, and by source line over all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.nightly.record import Functions, Night
from harness.coverage.lcov import lcov_text
from harness.coverage.record import RECORD_FILE, load_all
from harness.coverage.report import to_json


@dataclass(frozen=True)
class Covered:
    """What all campaigns of a night hit on one build."""

    functions: Functions
    lcov: str
    root: Path
    """Directory of the build's kernel: its source lies below it."""


def covered(night: Night, directory: Path, build: str) -> Covered | None:
    """Read what campaigns left; None if none of them counted coverage. Raises InputError for what is damaged."""
    left = [
        directory / name
        for campaign in night.campaigns
        if campaign.build == build and campaign.executions
        for name in campaign.directories
        if (directory / name / RECORD_FILE).is_file()
    ]
    if not left:
        return None
    coverage, flags = load_all(left)
    return Covered(
        to_json(coverage.by_function(flags)),
        lcov_text(coverage.source, flags, coverage.unreachable, title=build),
        coverage.files["kernel"].parent,
    )


@dataclass
class _File:
    lines: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    functions: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def merge_lcov(parts: Iterable[tuple[str, Path]], title: str) -> str:
    """One lcov file from several, counts added by source line.

    `parts`: text, and the root of the build that it is of. Builds of the same source have copies of it
    in several places: where file name and content are the same, the first one's path stands for all.
    """
    files: dict[str, _File] = {}
    first: dict[tuple[str, bytes], str] = {}
    for text, root in parts:
        _read(text, root, files, first)
    name = "".join(character if character.isalnum() else "_" for character in title)
    lines: list[str] = []
    for path, file in sorted(files.items()):
        functions = sorted(file.functions.items(), key=lambda item: (item[1], item[0]))
        lines += [f"TN:{name}", f"SF:{path}"]
        lines += [f"FN:{line},{function}" for function, line in functions]
        lines += [f"FNDA:{file.calls[function]},{function}" for function, _ in functions]
        lines += [f"FNF:{len(functions)}", f"FNH:{sum(bool(file.calls[function]) for function, _ in functions)}"]
        lines += [f"DA:{line},{count}" for line, count in sorted(file.lines.items())]
        lines += [f"LF:{len(file.lines)}", f"LH:{sum(map(bool, file.lines.values()))}", "end_of_record"]
    return "".join(line + "\n" for line in lines)


def _read(text: str, root: Path, files: dict[str, _File], first: dict[tuple[str, bytes], str]) -> None:
    """Add one lcov file's records."""
    file = _File()
    for line in text.splitlines():
        kind, _, value = line.partition(":")
        if kind == "SF":
            file = files.setdefault(_same_file(value, root, first), _File())
        elif kind == "DA":
            number, count = value.split(",")[:2]
            file.lines[int(number)] += int(count)
        elif kind == "FN":
            number, function = value.split(",", 1)
            file.functions.setdefault(function, int(number))
        elif kind == "FNDA":
            count, function = value.split(",", 1)
            file.calls[function] += int(count)


def _same_file(path: str, root: Path, first: dict[tuple[str, bytes], str]) -> str:
    """The path that stands for all copies of a file."""
    try:
        name, content = str(Path(path).relative_to(root)), Path(path).read_bytes()
    except (ValueError, OSError):
        return path  # not in a build's own tree: one place only
    return first.setdefault((name, content), path)
