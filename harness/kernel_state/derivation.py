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

_WORD_BITS = 64


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
    """Which slots descend from an untyped: the run behind it that isMDBParentOf accepts.

    Runs are measured in powers of two, by the lowest base and the highest end of each 2^k slots in
    order: whatever memory holds, many untypeds cost no more than n log(n).
    """

    def __init__(self, caps: CapTable, known: Chains) -> None:
        self._caps, self._chains = caps, known
        order = known.order
        # What is no object in memory lies inside of nothing.
        physical = caps.physical[order]
        self._lowest = [np.where(physical, caps.base[order], np.uint64(0))]
        self._highest = [np.where(physical, caps.last[order], ~np.uint64(0))]
        while 1 << len(self._lowest) <= len(order):
            half = 1 << (len(self._lowest) - 1)
            low, high = self._lowest[-1], self._highest[-1]
            self._lowest.append(np.minimum(low[:-half], low[half:]))
            self._highest.append(np.maximum(high[:-half], high[half:]))
        chain = known.chain[order]
        starts = np.flatnonzero(np.append(True, chain[1:] != chain[:-1])) if len(chain) else np.zeros(0, np.int64)
        limits = np.append(starts[1:], len(order))
        self._limit = np.repeat(limits, limits - starts) if len(starts) else starts

    def ends(self, parents: Indices) -> Indices:
        """Position behind the last descendant of each of some rows."""
        caps = self._caps
        at = self._chains.position[parents] + 1
        limit = np.where(caps.revocable[parents], self._limit[at - 1], at)
        base, last = caps.base[parents], caps.last[parents]
        for step in reversed(range(len(self._lowest))):
            low, high = self._lowest[step], self._highest[step]
            where = np.minimum(at, len(low) - 1)
            inside = (at + (1 << step) <= limit) & (low[where] >= base) & (high[where] <= last)
            at = at + (inside.astype(np.int64) << step)
        return at

    def hold(self, parents: Indices, children: Indices) -> Array:
        """Whether each of `children` descends from the parent beside it."""
        position = self._chains.position
        found: Array = (position[parents] < position[children]) & (position[children] < self.ends(parents))
        return found

    def holds(self, parent: int, child: int) -> bool:
        """Whether `child` descends from `parent`."""
        return bool(self.hold(np.array([parent]), np.array([child]))[0])


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
        """Row of the innermost untyped that holds each `[base, last]`; -1 where none does.

        Among untypeds that cross each other, which no kernel makes, it may be missed.
        """
        caps = self._caps
        rows, outer = self.untypeds
        if not len(rows):
            return np.full(len(base), -1, np.int64)
        ends = caps.last[rows]
        larger = self._larger(ends.tolist(), outer.tolist())
        at = np.searchsorted(caps.base[rows], base, side="right") - 1
        # Each step leads further outside, to an untyped with more bits.
        for _ in range(_WORD_BITS):
            wrong = np.flatnonzero((at >= 0) & (ends[at] < last))
            if not len(wrong):
                break
            at[wrong] = larger[at[wrong]]
        return np.where((at >= 0) & (ends[at] >= last), rows[at], -1)

    @staticmethod
    def _larger(ends: list[int], outer: list[int]) -> Indices:
        """For each untyped, the next one outside that ends behind it (-1: none)."""
        larger: list[int] = []
        for index, outside in enumerate(outer):
            larger.append(outside if outside < 0 or ends[outside] > ends[index] else larger[outside])
        return np.array(larger, np.int64)
