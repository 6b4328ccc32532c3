# SPDX-License-Identifier: BSD-2-Clause
"""Coverage by function: what was hit, what was missed, and what is not expected to be hit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.coverage.functions import Function
from harness.coverage.source_map import SourceMap
from harness.coverage.unreachable import Exclusion, Unreachable


@dataclass(frozen=True)
class Gap:
    """A runtime block that was not hit.

    `lines` are those of its instructions within the function, ascending. `copied`: another copy of the
    function, inlined elsewhere, did reach these lines. `exclusion` says why it cannot be reached, if so.
    """

    block: int
    address: int
    lines: tuple[int, ...]
    caller: str
    """The function that holds this copy; empty for the function itself."""
    copied: bool
    exclusion: Exclusion | None = None


@dataclass(frozen=True)
class FunctionCoverage:
    """What was hit of a function as it is written, all inlined copies together; counts are of static blocks."""

    component: str
    function: str
    file: str
    line: int
    hit: int
    total: int
    """All blocks that can run after boot."""
    unreachable: int
    """Those of them that are not expected to be hit, and were not."""
    gaps: tuple[Gap, ...]

    @property
    def missed(self) -> tuple[Gap, ...]:
        """What is expected to be hit, and was not."""
        return tuple(gap for gap in self.gaps if gap.exclusion is None)


@dataclass(frozen=True)
class ComponentCoverage:
    """The sums for one component; counts are of static blocks."""

    hit: int
    total: int
    unreachable: int

    @property
    def reachable(self) -> int:
        """Blocks that are expected to be hit, and those that were."""
        return self.total - self.unreachable

    @property
    def share(self) -> float:
        """What was hit of what is reachable, 0 to 1."""
        return self.hit / self.reachable if self.reachable else 1.0


def by_function(source: SourceMap, hit: NDArray[Any], unreachable: Unreachable | None = None) -> list[FunctionCoverage]:
    """Coverage of each function that can run after boot, in order of component, file and line.

    `hit`: flags or counts, one a block. Raises InputError for coverage of another build.
    """
    flags = source.flags(hit)
    exclusions = unreachable.exclusions if unreachable is not None else {}
    blocks = source.blocks
    members: dict[tuple[int, Function], list[int]] = {}
    reached: dict[Function, set[int]] = {}
    for block in np.flatnonzero(blocks.reachable()).tolist():
        function = source.places[block].function
        members.setdefault((int(blocks.component[block]), function), []).append(block)
        if flags[block]:
            reached.setdefault(function, set()).update(_own_lines(source, block))
    found = []
    for (component, function), own in members.items():
        gaps = tuple(
            _gap(source, block, exclusions.get(block), reached.get(function, set()))
            for block in own
            if not flags[block]
        )
        found.append(
            FunctionCoverage(
                blocks.components[component],
                function.name,
                function.file,
                function.line,
                hit=len(own) - len(gaps),
                total=len(own),
                unreachable=sum(gap.exclusion is not None for gap in gaps),
                gaps=gaps,
            )
        )
    order = {name: index for index, name in enumerate(blocks.components)}
    return sorted(found, key=lambda one: (order[one.component], one.file, one.line, one.function))


def _own_lines(source: SourceMap, block: int) -> list[int]:
    """Lines of a block that lie in the file of its function, ascending; at least its own."""
    place = source.places[block]
    lines = {line for file, line in source.lines[block] if file == place.function.file and line >= place.function.line}
    return sorted(lines | {place.line}) if place.file == place.function.file else sorted(lines) or [place.line]


def _gap(source: SourceMap, block: int, exclusion: Exclusion | None, reached: set[int]) -> Gap:
    place = source.places[block]
    frames = source.frames[block]
    outer = frames[frames.index(place) + 1 :] if place in frames else ()
    lines = _own_lines(source, block)
    return Gap(
        block,
        int(source.blocks.address[block]),
        tuple(lines),
        outer[-1].function.name if outer else "",
        place.line in reached,
        exclusion,
    )


def by_component(functions: list[FunctionCoverage]) -> dict[str, ComponentCoverage]:
    """The sums over functions."""
    sums: dict[str, list[int]] = {}
    for one in functions:
        entry = sums.setdefault(one.component, [0, 0, 0])
        for index, value in enumerate((one.hit, one.total, one.unreachable)):
            entry[index] += value
    return {name: ComponentCoverage(*entry) for name, entry in sums.items()}


def to_json(functions: list[FunctionCoverage]) -> dict[str, dict[str, dict[str, int]]]:
    """The table `functions` of `fuzz --json`: component, function, and hit, total, unreachable."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    for one in functions:
        row = table.setdefault(one.component, {}).setdefault(one.function, {"hit": 0, "total": 0, "unreachable": 0})
        for name in row:
            row[name] += int(getattr(one, name))
    return table
