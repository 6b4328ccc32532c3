# SPDX-License-Identifier: BSD-2-Clause
"""What no program can reach, and why: the list in `unreachable.yaml`, applied to a build.

An entry names a function, and where not all of it is meant the text of its lines, not their
numbers: those move with every patch. It covers each block whose instructions all stand there, in
every function into which the function is inlined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import Field

from harness.coverage.functions import Frame, Function
from harness.coverage.source_map import Flags, SourceMap
from harness.errors import ConfigError
from harness.yaml_model import StrictModel, validate
from harness.yaml_source import read_yaml

_NOWHERE: frozenset[int] = frozenset()
LIST = Path(__file__).with_name("unreachable.yaml")


class Kind(Enum):
    """Why a block is not reached."""

    BOOT = "boot"
    """Runs only while the system starts."""
    ASSERTION = "assertion"
    """Leads only to a failed assertion or a halt: reaching it is a finding."""
    HARDWARE = "hardware"
    """Handles something that the machine under QEMU does not have or never does."""
    OPTION = "option"
    """Belongs to a configuration that this build is not."""
    HARNESS = "harness"
    """Left out by the harness on purpose: not counted, or not offered to programs."""
    OUTPUT = "output"
    """Text of the debug kernel, on which nothing depends: not aimed at, and no contradiction when it is hit."""
    IMPOSSIBLE = "impossible"
    """A state that other code excludes; the reason names that code."""
    BEHIND = "behind"
    """Lies between blocks that are excluded for one of the other reasons; needs no entry."""


class Entry(StrictModel):
    """One entry of the list.

    `function` names one or more functions; `within` restricts it to copies that are inlined into one
    of those. `code` gives texts of single lines, or with `to` the first line of a range that ends at
    the next line with that text. With `begins` a block need only begin there: for code that the compiler
    joins with what follows. `build` restricts it to `debug` or `release` kernels.
    """

    component: str = "kernel"
    function: str | list[str]
    within: str | list[str] = ""
    code: str | list[str] = ""
    to: str = ""
    begins: bool = False
    build: str = Field("", pattern="^(debug|release)?$")
    kind: Kind
    reason: str = Field(min_length=10)

    @property
    def functions(self) -> list[str]:
        """The functions that it names."""
        return _listed(self.function)

    def __str__(self) -> str:
        code = "; ".join(_listed(self.code))
        return ", ".join(self.functions) + (f" at '{code}'" if code else "")


class _File(StrictModel):
    unreachable: list[Entry]


@dataclass(frozen=True)
class Exclusion:
    """Why one block is not expected to be hit."""

    kind: Kind
    reason: str


class Unreachable:
    """The list applied to one build."""

    def __init__(self, entries: Iterable[Entry], source: SourceMap, *, release: bool) -> None:
        self.source = source
        self._build = "release" if release else "debug"
        self.entries = [entry for entry in entries if entry.build in ("", self._build)]
        by_name: dict[tuple[str, str], list[Function]] = {}
        for component in source.blocks.components:
            for function in source.functions(component):
                by_name.setdefault((component, function.name), []).append(function)
        self._by_name = by_name
        self._starts: dict[str, list[int]] = {}
        for functions in by_name.values():
            for function in functions:
                self._starts.setdefault(function.file, []).append(function.line)

    @classmethod
    def load(cls, source: SourceMap, *, release: bool, path: Path = LIST) -> Unreachable:
        """Read a list and apply it; raises ConfigError with the entry's place for one that is not understood."""
        return cls(read_entries(path), source, release=release)

    @cached_property
    def exclusions(self) -> dict[int, Exclusion]:
        """For each runtime block that is not expected to be hit: why."""
        found: dict[int, Exclusion] = {}
        blocks = self.source.blocks
        for entry in self.entries:
            for block in self.covered(entry):
                found.setdefault(block, Exclusion(entry.kind, entry.reason))
        for block in np.flatnonzero(blocks.reachable() & blocks.between_programs()).tolist():
            found.setdefault(block, Exclusion(Kind.HARNESS, "leads from one program to the next, and is not counted"))
        for block in np.flatnonzero(blocks.reachable() & (np.asarray(blocks.halts) != 0)).tolist():
            found.setdefault(block, Exclusion(Kind.ASSERTION, "leads only to a failed assertion or a halt"))
        # What must go on to such blocks, what only they lead to, and functions that nothing else calls.
        closed = np.zeros(len(blocks), np.bool_)
        closed[[block for block, why in found.items() if why.kind is not Kind.OUTPUT]] = True
        closed = blocks.leading_only_to(closed)
        for block in np.flatnonzero(blocks.reachable() & (closed | ~blocks.reachable_without(closed))).tolist():
            found.setdefault(
                block, Exclusion(Kind.BEHIND, "leads only to blocks that cannot be reached, or only they to it")
            )
        return found

    @cached_property
    def mask(self) -> Flags:
        """bool[blocks]: runtime blocks that are not expected to be hit."""
        mask = np.zeros(len(self.source), np.bool_)
        mask[list(self.exclusions)] = True
        return mask

    def wrong(self, hit: Flags) -> list[int]:
        """Blocks that were hit although the list, or the analysis of the code, says that they cannot be.

        Not those behind a failed assertion: such a hit is a finding, and says nothing against the list. What
        is only behind others is told by those.
        """
        blocks = np.flatnonzero(hit & (self.mask | ~self.source.blocks.reachable())).tolist()
        return [block for block in blocks if self._kind(block) not in (Kind.ASSERTION, Kind.OUTPUT, Kind.BEHIND)]

    def _kind(self, block: int) -> Kind | None:
        exclusion = self.exclusions.get(block)
        return exclusion.kind if exclusion else None

    def covered(self, entry: Entry) -> Iterator[int]:
        """The runtime blocks that an entry is about: all instructions of such a block stand there.

        The compiler moves single instructions into other blocks; those are not meant.
        """
        source = self.source
        wanted: dict[Function, set[int] | None] = {}
        for function in self._named(entry):
            wanted[function] = self._lines(entry, function) if entry.code else None
        within = set(_listed(entry.within))

        def meant(frames: tuple[Frame, ...]) -> bool:
            for depth, frame in enumerate(frames):
                lines = wanted.get(frame.function, _NOWHERE)
                if lines is None or frame.line in lines:
                    outer = {other.function.name for other in frames[depth + 1 :]}
                    if not within or within & outer:
                        return True
            return False

        number = source.blocks.components.index(entry.component)
        for block in np.flatnonzero(source.blocks.reachable() & (source.blocks.component == number)).tolist():
            if meant(source.frames[block]) and (entry.begins or all(map(meant, source.all_frames(block)))):
                yield block

    def stale(self) -> list[str]:
        """What is wrong with entries: a function or line that is not there, or nothing left to cover."""
        problems = []
        for entry in self.entries:
            names = {function.name for function in self._named(entry)}
            missing = [name for name in entry.functions if name not in names]
            if missing:
                problems.append(f"{entry}: no function {', '.join(missing)} in the {self._build} {entry.component}")
            for function in self._named(entry):
                if entry.code and not self._lines(entry, function):
                    problems.append(f"{entry}: no such line in {function.name} ({function.file}:{function.line})")
        return problems

    def idle(self) -> list[Entry]:
        """Entries that cover no block of this build."""
        return [entry for entry in self.entries if next(self.covered(entry), None) is None]

    def _named(self, entry: Entry) -> list[Function]:
        return [one for name in entry.functions for one in self._by_name.get((entry.component, name), [])]

    def _lines(self, entry: Entry, function: Function) -> set[int]:
        """Line numbers within a function that an entry's texts stand for."""
        text = self.source.text(entry.component, function.file)
        later = [line for line in self._starts.get(function.file, []) if line > function.line]
        end = min(later, default=len(text) + 1) - 1
        # A function of the kernel ends at the first brace in column 0.
        end = next((line for line in range(function.line, end + 1) if text[line - 1].rstrip() == "}"), end)
        found: set[int] = set()
        for wanted in _listed(entry.code):
            for line in range(function.line, end + 1):
                if wanted not in text[line - 1]:
                    continue
                last = line
                if entry.to:
                    last = next((n for n in range(line, end + 1) if entry.to in text[n - 1]), 0)
                found.update(range(line, last + 1))
        return found


def read_entries(path: Path = LIST) -> list[Entry]:
    """The entries of a list; raises ConfigError with file and place."""
    return validate(read_yaml(path, ConfigError), _File, ConfigError).unreachable


def _listed(value: str | list[str]) -> list[str]:
    if isinstance(value, str):
        return [value] if value else []
    return value
