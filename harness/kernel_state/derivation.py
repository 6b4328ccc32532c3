# SPDX-License-Identifier: BSD-2-Clause
"""The capability derivation tree: the order of the mapping database, and who descends from whom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harness.kernel_state.capabilities import CapTable, Indices
from harness.kernel_state.memory import Words

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Chains:
    """Order of slots in the mapping database.

    `order`: rows of the table, chain by chain, each from its head; `position`: where each row
    stands in `order`; `chain`: for each row, the row at the end of its chain; `looping`: rows
    from which following mdbNext never ends. Rows that loop have no meaningful order.
    """

    order: Indices
    position: Indices
    chain: Indices
    looping: Array


def chains(caps: CapTable) -> Chains:
    """Follow all mdbNext links at once (pointer doubling: log2(n) steps, whatever memory holds)."""
    count = len(caps)
    following = caps.rows_at(caps.next)
    following[caps.next == 0] = -1
    end = np.arange(count)
    step = np.where(following >= 0, following, end)
    distance = (following >= 0).astype(np.int64)
    for _ in range(max(1, count.bit_length())):
        distance = distance + distance[step]
        step = step[step]
    # Whoever has arrived stands on a row without a successor.
    looping = following[step] >= 0
    order = np.lexsort((-distance, step))
    position = np.empty(count, np.int64)
    position[order] = np.arange(count)
    return Chains(order, position, step, looping)


class Descendants:
    """Which slots descend from an untyped: the run behind it that isMDBParentOf accepts."""

    def __init__(self, caps: CapTable, known: Chains) -> None:
        self._caps, self._chains = caps, known
        order = known.order
        self._base, self._last = caps.base[order], caps.last[order]
        self._physical, self._chain = caps.physical[order], known.chain[order]
        self._ends: dict[int, int] = {}

    def end(self, parent: int) -> int:
        """Position behind the last descendant of a row."""
        if parent not in self._ends:
            caps, at = self._caps, int(self._chains.position[parent])
            if not caps.revocable[parent]:
                self._ends[parent] = at + 1
            else:
                tail = slice(at + 1, None)
                inside = (
                    self._physical[tail]
                    & (self._base[tail] >= caps.base[parent])
                    & (self._last[tail] <= caps.last[parent])
                    & (self._chain[tail] == self._chains.chain[parent])
                )
                stop = int(np.argmin(inside)) if len(inside) and not inside.all() else len(inside)
                self._ends[parent] = at + 1 + stop
        return self._ends[parent]

    def holds(self, parent: int, child: int) -> bool:
        """Whether `child` descends from `parent`."""
        at = int(self._chains.position[child])
        return int(self._chains.position[parent]) < at < self.end(parent)


class Derivation:
    """What follows from a table of capabilities: chains, the nesting of untypeds, descendants."""

    def __init__(self, caps: CapTable) -> None:
        self._caps = caps

    @cached_property
    def chains(self) -> Chains:
        """The order of the mapping database."""
        return chains(self._caps)

    @cached_property
    def descendants(self) -> Descendants:
        """Who descends from an untyped."""
        return Descendants(self._caps, self.chains)

    @cached_property
    def untypeds(self) -> tuple[Indices, Indices]:
        """Rows of all untypeds, outer before inner, and for each the index in there of the next one outside (-1: none).

        Of untypeds that cover the same, the one that comes first in the mapping database is outside. An
        untyped that only crosses another one counts as inside of it.
        """
        caps = self._caps
        rows = caps.of("untyped_cap")
        order = np.lexsort((self.chains.position[rows], -caps.bits[rows].astype(np.int64), caps.base[rows]))
        rows = rows[order]
        bases, lasts = caps.base[rows].tolist(), caps.last[rows].tolist()
        outer = np.full(len(rows), -1, np.int64)
        stack: list[int] = []
        for index, base in enumerate(bases):
            while stack and lasts[stack[-1]] < base:
                stack.pop()
            if stack:
                outer[index] = stack[-1]
            stack.append(index)
        return rows, outer

    def innermost(self, base: Words, last: Words) -> Indices:
        """Row of the innermost untyped that holds each `[base, last]`; -1 where none does."""
        caps = self._caps
        rows, outer = self.untypeds
        if not len(rows):
            return np.full(len(base), -1, np.int64)
        ends = caps.last[rows]
        at = np.searchsorted(caps.base[rows], base, side="right") - 1
        # Each step leads to an untyped further outside, which stands further in front.
        while True:
            wrong = np.flatnonzero((at >= 0) & (ends[at] < last))
            if not len(wrong):
                return np.where(at >= 0, rows[at], -1)
            at[wrong] = outer[at[wrong]]
