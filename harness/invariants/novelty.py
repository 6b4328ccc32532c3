# SPDX-License-Identifier: BSD-2-Clause
"""Which programs deserve a look at the whole state: those that bring threads into states not seen together before.

The project's own invariants are judged after every program by what it changed. Those of other packages look at the
whole state, which costs more than running the program; judging one in some hundred by them misses what happens rarely.
New coverage is one sign that a state is worth a look; a new combination of what threads, endpoints and notifications do
is another one, which coverage does not see.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.kernel_state.memory import Ram, Words
from harness.kernel_state.state import KernelState

PROGRAMS_PER_CHECK = 256
"""A new state is worth a check only once in so many programs on average, so that these checks stay a small share."""
SAVED_CHECKS = 64
"""Checks that may come at once: most states are new at the beginning."""
MAXIMUM_STATES = 1 << 18
"""States that are remembered; beyond them nothing counts as new."""
_ALL = (1 << 64) - 1


class Novelty:
    """Remembers states of the snapshot's threads, endpoints and notifications, without their links and messages."""

    def __init__(self, state: KernelState) -> None:
        """What the snapshot holds is not new."""
        layout, ram = state.layout, state.ram
        places: list[tuple[int, int]] = [(state.global_address("ksCurThread"), _ALL)]
        states = layout.struct("tcb")["tcbState"].offset
        block = layout.block("thread_state")
        for name in ("tsType", "tcbQueued"):
            field = block[name]
            offset, mask = states + 8 * field.word, field.mask << field.shift
            places += [(tcb + offset, mask) for tcb in state.threads.tcb.tolist()]
        for objects in (state.endpoints, state.notifications):
            field = objects.block["state"]
            places += [(a + 8 * field.word, field.mask << field.shift) for a in objects.address.tolist()]
        first = np.array([address for address, _ in places], np.uint64) - np.uint64(ram.base)
        self._index = (first >> np.uint64(3)).astype(np.int64)
        self._mask: Words = np.array([mask for _, mask in places], np.uint64)
        self._seen: set[bytes] = {self._key(ram)}
        self._credit = SAVED_CHECKS * PROGRAMS_PER_CHECK

    def _key(self, ram: Ram) -> bytes:
        masked: Any = ram.words[self._index] & self._mask
        return bytes(masked.tobytes())

    def new(self, ram: Ram) -> bool:
        """Whether the state after a program is new, and its turn has come; asked once after each program."""
        self._credit = min(self._credit + 1, SAVED_CHECKS * PROGRAMS_PER_CHECK)
        if self._credit < PROGRAMS_PER_CHECK:
            return False
        key = self._key(ram)
        if key in self._seen or len(self._seen) >= MAXIMUM_STATES:
            return False
        self._seen.add(key)
        self._credit -= PROGRAMS_PER_CHECK
        return True
