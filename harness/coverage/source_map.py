# SPDX-License-Identifier: BSD-2-Clause
"""From static blocks to the source: functions, lines, and the files that hold them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.build.artefacts import PROJECT, Artefacts
from harness.build.blocks import StaticBlocks, blocks_of_files, covered_files
from harness.build.kernel import SOURCE_NAME
from harness.coverage.functions import Frame, Function, SourceFunctions, written_function
from harness.errors import InputError
from harness.kernel_state.elf import Elf

Flags = NDArray[np.bool_]
_UNKNOWN = Frame(Function("?", "", 0), "", 0)


class SourceMap:
    """The source behind each static block of a build. Making one takes about a second.

    `files` gives the ELF file of each component, `roots` the directories in which its source files are
    looked up, in this order.
    """

    def __init__(self, blocks: StaticBlocks, files: dict[str, Path], roots: dict[str, tuple[Path, ...]]) -> None:
        self.blocks = blocks
        self._roots = roots
        self._elves = {name: Elf(path) for name, path in files.items()}
        self._functions = {name: SourceFunctions(elf) for name, elf in self._elves.items()}
        self._texts: dict[tuple[str, str], tuple[str, ...]] = {}

    @classmethod
    def of(cls, artefacts: Artefacts) -> SourceMap:
        """The map of a build."""
        return cls.of_files(covered_files(artefacts))

    @classmethod
    def of_files(cls, files: dict[str, Path]) -> SourceMap:
        """The map of a build, given its ELF files by component; the sources lie beside them, or in the project."""
        return cls(blocks_of_files(files), files, {name: (path.parent, PROJECT) for name, path in files.items()})

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each component's ELF file: block addresses mean something for these only."""
        return {name: elf.sha256 for name, elf in self._elves.items()}

    def component(self, block: int) -> str:
        """Name of a block's component."""
        return self.blocks.components[int(self.blocks.component[block])]

    @cached_property
    def frames(self) -> list[tuple[Frame, ...]]:
        """For each block: where its first instruction is, innermost function first."""
        functions = [self._functions[name] for name in self.blocks.components]
        pairs = zip(self.blocks.component.tolist(), self.blocks.address.tolist(), strict=True)
        return [functions[component].frames(address) for component, address in pairs]

    def all_frames(self, block: int) -> list[tuple[Frame, ...]]:
        """Where each row of the line table within a block is; `frames` has the first of them."""
        functions = self._functions[self.component(block)]
        table = self._elves[self.component(block)].lines
        start = int(self.blocks.address[block])
        first, last = np.searchsorted(table.address, np.array([start + 1, start + int(self.blocks.size[block])], "<u8"))
        return [self.frames[block], *(functions.frames(int(address)) for address in table.address[first:last])]

    @cached_property
    def places(self) -> list[Frame]:
        """For each block: the function that it counts for, and its line within that function."""
        return [written_function(frames) or _UNKNOWN for frames in self.frames]

    @cached_property
    def lines(self) -> list[list[tuple[str, int]]]:
        """For each block: file and line of its instructions in order, each once."""
        found = []
        for block in range(len(self)):
            table = self._elves[self.component(block)].lines
            start = int(self.blocks.address[block])
            end = start + int(self.blocks.size[block])
            first = max(0, int(np.searchsorted(table.address, np.uint64(start), side="right")) - 1)
            last = int(np.searchsorted(table.address, np.uint64(end), side="left"))
            rows = ((table.files[int(table.file[row])], int(table.line[row])) for row in range(first, last))
            found.append(list(dict.fromkeys(row for row in rows if row[1])))
        return found

    def functions(self, component: str) -> Iterator[Function]:
        """Every function of a component that has code somewhere."""
        seen = set(self._functions[component].all())
        yield from seen
        for place, number in zip(self.places, self.blocks.component.tolist(), strict=True):
            if self.blocks.components[number] == component and place.function not in seen:
                seen.add(place.function)
                yield place.function

    def flags(self, hit: NDArray[Any]) -> Flags:
        """Hit flags or counts as flags, bool[blocks]; InputError for another number of blocks."""
        if len(hit) != len(self):
            raise InputError(f"coverage of {len(hit)} blocks, but this build has {len(self)}: it is of another build")
        flags: Flags = np.asarray(hit) != 0
        return flags

    def path(self, component: str, file: str) -> Path | None:
        """The source file of that name in the debug information; None if it is not there."""
        relative = file.removeprefix(SOURCE_NAME + "/").removeprefix("./")
        return next((path for root in self._roots[component] if (path := root / relative).is_file()), None)

    def text(self, component: str, file: str) -> tuple[str, ...]:
        """Lines of a source file, empty if it is not there."""
        if (component, file) not in self._texts:
            path = self.path(component, file)
            content = path.read_text(errors="replace") if path else ""
            self._texts[component, file] = tuple(content.splitlines())
        return self._texts[component, file]
