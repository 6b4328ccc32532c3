# SPDX-License-Identifier: BSD-2-Clause
"""All invariants but the world family, from the words that a program changed: certainly held, or not certain.

The snapshot was judged as a whole, and held. What a program changed is little: a dozen slots, a few threads, an entry
or two. So each invariant is judged around what changed only; each module here says why that is enough. A state is
either recognised as right, or left to the whole check, whose judgement is the one that is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from harness.invariants.boot_words import words_at_boot
from harness.invariants.changes import report_word
from harness.invariants.incremental.decoding import Unclear
from harness.invariants.incremental.delta import Delta
from harness.invariants.incremental.derivation import Memory, judge_links, judge_neighbours
from harness.invariants.incremental.snapshot import SnapshotIndex
from harness.invariants.incremental.threads import ThreadFields, Threads
from harness.invariants.incremental.vspaces import AddressSpaces
from harness.kernel_state.layout import PAGE_BITS
from harness.kernel_state.memory import PAGE_WORDS, Ram
from harness.kernel_state.state import KernelState

Array = np.ndarray[Any, Any]

COVERED = frozenset(
    """
    valid_untyped untyped_inc mdb_cte_at no_mloop untyped_mdb descendants_inc ut_revocable valid_vspace_objs
    valid_vs_lookup valid_table_caps unique_table_refs valid_arch_state pspace_aligned pspace_distinct
    pspace_in_kernel_window valid_global_refs valid_objs if_live_then_nonz_cap if_unsafe_then_cap zombies_final cur_tcb
    only_idle valid_queues sym_refs valid_reply_caps valid_reply_masters valid_irq_node valid_irq_handlers
    boot_information valid_global_vspace_mappings
    """.split()
)
"""Ids of the invariants that are judged here."""
_REMEMBERED = 1 << 18
"""States that are remembered."""
_TTBR0 = report_word("ttbr0_el1")


class KernelChanges:
    """What is kept of one snapshot. `exact` is false if the snapshot itself needs the whole check."""

    def __init__(self, state: KernelState, *, held: bool) -> None:
        """`held`: whether the snapshot was judged as a whole, and nothing was found."""
        self._index = SnapshotIndex(state)
        self.exact = held and self._index.exact
        self._right: set[bytes] = set()
        """States that were recognised as right, by what matters of the words that differ."""
        self._with_objects = set[bytes]()
        """Such states with new objects, by all words that differ."""
        self.known = 0
        """How often a state was one of these."""
        if self.exact:
            self._fields = ThreadFields(self._index)
            self._told = np.zeros(len(self._index.words), np.bool_)
            self._told[words_at_boot(state)] = True

    def unclear(self, ram: Ram, changed: Array, words: Array | None, report: Sequence[int]) -> Unclear | None:
        """None if all of COVERED certainly hold, otherwise why that is not certain.

        `ram` is the machine's memory now, `changed` the physical addresses (u64[n]) of all pages that differ from the
        snapshot, `report` the words of EL3's report (protocol.REPORT). `words` are the numbers in secure RAM of the
        words that differ, if somebody has looked already. The world family must hold.
        """
        if not self.exact:
            return Unclear("the snapshot", suspect=False)
        if words is None or not len(words):
            words = self._differing(ram, changed)
        if self._told[words].any():
            return Unclear("what was told at boot", suspect=True)
        every, words = words, words[self._index.roles[words].nonzero()[0]]
        # Nothing but these words, their places and TTBR0 is looked at, unless there are new objects.
        root = report[_TTBR0]
        state = _digest(ram, words, root)
        if state in self._right or (self._with_objects and _digest(ram, every, root) in self._with_objects):
            self.known += 1
            return None
        try:
            delta = Delta(self._index, ram, words)
            judge_links(delta)
            judge_neighbours(delta)
            delta.judge_reach()
            Memory(delta).judge_order()
            AddressSpaces(delta, report[_TTBR0]).judge()
            Threads(self._fields, delta).judge()
        except Unclear as reason:
            return reason
        known = self._right
        if delta.has_new_objects:  # whose words matter, too, wherever they lie
            known, state = self._with_objects, _digest(ram, every, root)
        if len(known) >= _REMEMBERED:
            known.clear()
        known.add(state)
        return None

    def _differing(self, ram: Ram, changed: Array) -> Array:
        """Numbers of the words that differ, in the pages at some physical addresses."""
        inside = changed[(changed >= np.uint64(ram.base)) & (changed < np.uint64(ram.end))]
        pages = ((inside - np.uint64(ram.base)) >> np.uint64(PAGE_BITS)).astype(np.int64)
        rows, columns = (ram.pages[pages] != self._index.words.reshape(-1, PAGE_WORDS)[pages]).nonzero()
        found: Array = pages[rows] * PAGE_WORDS + columns
        return found


def _digest(ram: Ram, words: Array, root: int) -> bytes:
    """A digest of some words, where they lie, and TTBR0."""
    return blake2b(words.tobytes() + ram.words[words].tobytes() + root.to_bytes(8, "little"), digest_size=16).digest()
