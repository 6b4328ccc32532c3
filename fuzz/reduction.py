# SPDX-License-Identifier: BSD-2-Clause
"""Which programs of a corpus are needed for what all of them reach: merging corpora, and making one smaller."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fuzz.corpus import add_program, read_corpus, read_for, write_interface
from harness.errors import InputError, MachineError, OutputError
from harness.programs.interfaces import Interface


class Covered(Protocol):
    """What is needed of an executor: run a program, and see how often each block ran."""

    def run(self, program: bytes, /) -> object:
        """Run a program from the snapshot."""

    def replace(self) -> None:
        """A new machine in place of a lost one."""

    @property
    def coverage(self) -> NDArray[np.uint8]:
        """How often each static block ran in the last program, saturating."""


Watch = Callable[[int, int], None]
"""Called with how many programs have been run, and how many there are."""

_BOUNDS = (1, 2, 3, 4, 8, 16, 32, 128)
"""libFuzzer's classes of counts: 1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128 and more."""


def _class_table() -> NDArray[np.uint8]:
    """For each count its class as one bit; none for a count of 0."""
    table = np.zeros(256, np.uint8)
    for bit, first in enumerate(_BOUNDS):
        table[first:] = 1 << bit
    return table


_CLASSES = _class_table()


@dataclass(frozen=True)
class Reached:
    """What programs reach: `features` u8[programs, blocks], a bit for the class of counts; `lost` ended the machine."""

    programs: list[bytes]
    features: NDArray[np.uint8]
    lost: list[bytes]

    def blocks(self) -> NDArray[np.bool_]:
        """bool[blocks]: reached by any program."""
        return np.asarray(self.features.any(axis=0))


def run_all(executor: Covered, programs: Sequence[bytes], watch: Watch | None = None) -> Reached:
    """Run each program once; one with which the machine is lost is tried again on a new one."""
    rows = np.zeros((len(programs), len(executor.coverage)), np.uint8)
    ran: list[bytes] = []
    lost: list[bytes] = []
    for number, program in enumerate(programs):
        for _ in range(2):
            executor.coverage[:] = 0
            try:
                executor.run(program)
            except MachineError:
                executor.replace()
            else:
                rows[len(ran)] = _CLASSES[executor.coverage]
                ran.append(program)
                break
        else:
            lost.append(program)
        if watch is not None:
            watch(number + 1, len(programs))
    return Reached(ran, rows[: len(ran)], lost)


def fewest(features: NDArray[np.uint8]) -> list[int]:
    """Rows that together reach all that all rows reach: few of them, and early ones rather than late ones.

    The row that adds most comes first, and rows that later ones made needless leave again: no smaller choice is
    known that takes less than trying all of them. `features`: u8[rows, blocks], any bits.
    """
    if not len(features):
        return []
    missing = np.bitwise_or.reduce(features, axis=0)
    # What a row adds only shrinks: only the row that seemed best needs to be looked at again.
    heap = [(-int(np.bitwise_count(row).sum()), number) for number, row in enumerate(features)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while missing.any():
        _, number = heapq.heappop(heap)
        gain = int(np.bitwise_count(features[number] & missing).sum())
        if heap and (-gain, number) > heap[0]:
            if gain:
                heapq.heappush(heap, (-gain, number))
            continue
        chosen.append(number)
        missing = missing & ~features[number]
    return _without_needless(features, chosen)


def _without_needless(features: NDArray[np.uint8], chosen: list[int]) -> list[int]:
    """Leave out rows, late ones first, whose every feature others of the choice have."""
    if not chosen:
        return []
    bits = np.unpackbits(features[chosen], axis=1)
    counts = bits.sum(axis=0, dtype=np.int64)
    kept = set(chosen)
    order = {row: position for position, row in enumerate(chosen)}
    for row in sorted(chosen, reverse=True):
        own = bits[order[row]].astype(bool)
        if (counts[own] > 1).all():
            counts[own] -= 1
            kept.discard(row)
    return sorted(kept)


def merge(
    executor: Covered, into: Path, sources: Sequence[Path], interface: Interface, watch: Watch | None = None
) -> tuple[int, int]:
    """Add to a corpus what reaches more than it does; returns how many were added and how many looked at.

    Corpora for another call table are read by names. Raises InputError, OutputError.
    """
    old = read_for(into, interface).programs if into.is_dir() else []
    known = set(old)
    more: set[bytes] = set()
    for source in sources:
        more.update(read_for(source, interface).programs)
    more -= known
    new = sorted(more, key=lambda program: (len(program), program))
    reached = run_all(executor, [*old, *new], watch)
    seen = np.zeros(reached.features.shape[1], np.uint8)
    first = 0
    while first < len(reached.programs) and reached.programs[first] in known:
        seen |= reached.features[first]
        first += 1
    chosen = fewest(reached.features[first:] & ~seen)
    write_interface(into, interface)
    added = sum(add_program(into, reached.programs[first + row]) for row in chosen)
    return added, len(new)


@dataclass(frozen=True)
class Minimised:
    """What became of a corpus: programs that stay and were there, blocks that they reach, bytes after and before."""

    kept: int
    there: int
    blocks: int
    kept_bytes: int
    bytes: int


def minimise(executor: Covered, directory: Path, *, blocks_only: bool = False, watch: Watch | None = None) -> Minimised:
    """Remove from a corpus the programs that are not needed for what all of it reaches.

    What counts are static blocks and how often they ran, in libFuzzer's classes; with `blocks_only` just the blocks,
    which keeps fewer. Programs with which the machine is lost stay. Raises InputError, OutputError.
    """
    programs = read_corpus(directory)
    reached = run_all(executor, programs, watch)
    features = (reached.features != 0).astype(np.uint8) if blocks_only else reached.features
    chosen = fewest(features)
    if programs and not chosen:
        raise InputError(f"{directory}: no program reaches anything; nothing was removed")
    kept = {reached.programs[row] for row in chosen} | set(reached.lost)
    assert (reached.features[chosen].any(axis=0) == reached.blocks()).all()
    try:
        for path in [path for path in directory.iterdir() if path.is_file() and not path.name.startswith(".")]:
            if path.read_bytes() not in kept:
                path.unlink()
    except OSError as error:
        raise OutputError(f"{directory}: cannot be changed: {error.strerror or error}") from error
    return Minimised(
        len(kept), len(programs), int(reached.blocks().sum()), sum(map(len, kept)), sum(map(len, programs))
    )
