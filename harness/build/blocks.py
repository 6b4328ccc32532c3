# SPDX-License-Identifier: BSD-2-Clause
"""Static basic blocks of kernel, firmware and Trusted OS: what coverage is counted and reported by.

A block begins at its leader: a function, a target of a branch, or the instruction behind a
branch. A call does not end a block, unless what it calls never returns. An index of a block is
the same on every run of a build.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.build.artefacts import Artefacts, cache_directory
from harness.build.code_blocks import CodeBlocks, Phase
from harness.kernel_state.elf import Elf

_VERSION = "5"
_BETWEEN_PROGRAMS = ("park_pc", "publish", "resume", "restore", "mix_banks", "copy_bank")
"""Functions of the firmware that lead from one program to the next, by how their names begin."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class StaticBlocks:
    """All blocks, ordered by component, then by address; each array has one element a block.

    `address` and `physical` are those of the leader, `size` is in bytes, `component` and
    `function` index `components` and `functions`, `file` indexes `files` (0: unknown). `halts` is not
    zero where every way on leads to a failed assertion or a halt. `edges` (u4[n, 3]) holds, from one block to
    another, the ways that control can go, calls and addresses that are taken; the third number is not
    zero for a way within a function. `roots` are the blocks at which the runtime begins.
    """

    components: tuple[str, ...]
    functions: tuple[str, ...]
    files: tuple[str, ...]
    component: Array
    address: Array
    physical: Array
    size: Array
    function: Array
    file: Array
    line: Array
    phase: Array
    halts: Array
    edges: Array = field(default_factory=lambda: np.zeros((0, 3), np.uint32))
    roots: Array = field(default_factory=lambda: np.zeros(0, np.uint32))

    def __len__(self) -> int:
        return len(self.address)

    @cached_property
    def _reachable(self) -> Array:
        mask: Array = self.phase == Phase.RUNTIME
        mask.setflags(write=False)
        return mask

    def reachable(self) -> Array:
        """Mask (bool, one a block) of the blocks that can run after boot."""
        return self._reachable

    def reachable_without(self, closed: Array) -> Array:
        """Mask (bool, one a block) of the runtime blocks to which a way leads that avoids the blocks of `closed`."""
        reached = np.zeros(len(self), np.bool_)
        front = self.roots[~closed[self.roots]]
        while len(front):
            reached[front] = True
            targets = self.edges[np.isin(self.edges[:, 0], front), 1]
            front = np.unique(targets[~reached[targets] & ~closed[targets]])
        return reached

    def leading_only_to(self, closed: Array) -> Array:
        """Mask (bool, one a block) of `closed` and of the blocks from which every way leads there."""
        found = closed.copy()
        ways = self.edges[self.edges[:, 2] != 0]
        while True:
            open_ways = np.zeros(len(self), np.bool_)
            open_ways[ways[~found[ways[:, 1]], 0]] = True
            grown = found.copy()
            grown[ways[:, 0]] |= ~open_ways[ways[:, 0]]
            if (grown == found).all():
                return found
            found = grown

    def between_programs(self) -> Array:
        """Mask (bool, one a block) of the firmware's way from one program to the next.

        What that executes depends on both programs, so it is coverage of neither, and is not counted.
        """
        mask: Array = np.zeros(len(self), np.bool_)
        if "firmware" in self.components:
            functions = [index for index, name in enumerate(self.functions) if name.startswith(_BETWEEN_PROGRAMS)]
            mask = np.isin(self.function, functions) & self.of("firmware")
        return mask

    def of(self, component: str) -> Array:
        """Mask (bool, one a block) of the blocks of one component."""
        mask: Array = self.component == self.components.index(component)
        return mask

    def leaders(self, component: str) -> Array:
        """Virtual addresses (u8) of one component's leaders, ascending."""
        leaders: Array = self.address[self.of(component)]
        return leaders

    def source(self, block: int) -> str:
        """`file:line` of a block's first instruction; empty where unknown."""
        name = self.files[int(self.file[block])]
        return f"{name}:{int(self.line[block])}" if name else ""

    def describe(self, block: int) -> str:
        """Component, function and source line of a block, for people."""
        function = self.functions[int(self.function[block])]
        return f"{self.components[int(self.component[block])]} {function} {self.source(block)}".rstrip()


def static_blocks(artefacts: Artefacts) -> StaticBlocks:
    """Blocks of the components of a build; kept in the cache by content."""
    return blocks_of_files(covered_files(artefacts))


def covered_files(artefacts: Artefacts) -> dict[str, Path]:
    """The ELF files whose blocks are counted, by component."""
    files = {"kernel": artefacts.kernel_elf, "firmware": artefacts.firmware_elf}
    return files if artefacts.trusted_os_elf is None else files | {"trusted-os": artefacts.trusted_os_elf}


def blocks_of_files(files: dict[str, Path], prefixes: Sequence[str] = ()) -> StaticBlocks:
    """Blocks of some ELF files by component name.

    Source paths lose the first of `prefixes` that they begin with. Raises ImageError for a
    file that is no ELF file.
    """
    elves = {name: Elf(path) for name, path in files.items()}
    key = "|".join([_VERSION, *(f"{name}={elf.sha256}" for name, elf in elves.items()), *prefixes])
    path = cache_directory() / "blocks" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    if path.is_file():
        try:
            return _load(path)
        except Exception:
            # A damaged archive can raise nearly anything, and is worth no more than the seconds to make it again.
            path.unlink(missing_ok=True)
    blocks = _join([(name, CodeBlocks(elf, prefixes)) for name, elf in elves.items()])
    _save(blocks, path)
    return blocks


_TUPLES = ("components", "functions", "files")
_ARRAYS = ("component", "address", "physical", "size", "function", "file", "line", "phase", "halts")
_GRAPH = ("edges", "roots")


def _load(path: Path) -> StaticBlocks:
    with np.load(path, allow_pickle=False) as data:
        components, functions, files = (tuple(str(text) for text in data[name]) for name in _TUPLES)
        arrays = [data[f"block_{name}"] for name in _ARRAYS]
        edges, roots = (data[f"block_{name}"] for name in _GRAPH)
    if len({array.shape for array in arrays}) != 1:
        raise ValueError("columns of unequal length")
    return _made(components, functions, files, arrays, edges, roots)


def _save(blocks: StaticBlocks, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{id(blocks):x}.tmp.npz")
    content: dict[str, Any] = {name: np.array(getattr(blocks, name), dtype=np.str_) for name in _TUPLES}
    content |= {f"block_{name}": getattr(blocks, name) for name in (*_ARRAYS, *_GRAPH)}
    np.savez(temporary, **content)
    temporary.replace(path)


def _join(parts: Sequence[tuple[str, CodeBlocks]]) -> StaticBlocks:
    functions: dict[str, int] = {}
    files: dict[str, int] = {"": 0}
    rows: list[tuple[int, ...]] = []
    edges: list[tuple[int, int, bool]] = []
    roots: list[int] = []
    for index, (_, part) in enumerate(parts):
        kept = list(part.blocks())
        numbers = {leader: len(rows) + i for i, (leader, *_) in enumerate(kept)}
        edges += [(numbers[a], numbers[b], way) for a, b, way in part.edges if a in numbers and b in numbers]
        roots += [numbers[root] for root in part.roots if root in numbers]
        for leader, size, phase, halts in kept:
            symbol = part.elf.function_at(leader)
            place = part.elf.lines.at(leader)
            name, line = (part.shorten(place[0]), place[1]) if place else ("", 0)
            rows.append(
                (
                    index,
                    leader,
                    part.elf.physical(leader),
                    size,
                    functions.setdefault(symbol.name if symbol else "?", len(functions)),
                    files.setdefault(name, len(files)),
                    line,
                    int(phase),
                    int(halts),
                )
            )
    table = np.array(rows, dtype=np.uint64).reshape(-1, len(_ARRAYS))
    types = ("<u1", "<u8", "<u8", "<u4", "<u4", "<u4", "<u4", "<u1", "<u1")
    arrays = [np.ascontiguousarray(table[:, i].astype(t)) for i, t in enumerate(types)]
    pairs, starts = np.array(sorted(set(edges)), np.uint32).reshape(-1, 3), np.array(sorted(set(roots)), np.uint32)
    return _made(tuple(name for name, _ in parts), tuple(functions), tuple(files), arrays, pairs, starts)


def _made(
    components: tuple[str, ...],
    functions: tuple[str, ...],
    files: tuple[str, ...],
    arrays: Sequence[Array],
    edges: Array,
    roots: Array,
) -> StaticBlocks:
    return StaticBlocks(
        components, functions, files, **dict(zip(_ARRAYS, arrays, strict=True)), edges=edges, roots=roots
    )
