# SPDX-License-Identifier: BSD-2-Clause
"""Which words say what the kernel told the initial thread, and what it was about: they are written at boot only."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.invariants.boot_memory import kernel_parts
from harness.invariants.boot_space import INITIAL_ASID
from harness.kernel_state.layout import PAGE_BITS
from harness.kernel_state.memory import PAGE_WORDS
from harness.kernel_state.state import KernelState

Array = np.ndarray[Any, Any]

_WORD_BITS = 3
_GLOBALS = ("intStateIRQNode", "ksIdleThread", "ksDomSchedule")


def words_at_boot(state: KernelState) -> Array:
    """Numbers (i64[n], ascending) of words of secure RAM; none if there is no boot information.

    The boot information itself; the capabilities in the slots that it names, and one to each object that was made at
    boot (only their links may change); the tables' entries of the initial thread's address space.
    """
    info, found = state.boot_info, state.initial_cnode
    if info is None or found is None:
        return np.zeros(0, np.int64)
    caps, layout = state.caps, state.layout
    told = np.zeros(len(state.ram.words), np.bool_)

    def word(address: int) -> int:
        return (address - state.ram.base) >> _WORD_BITS

    def mark(address: int, size: int) -> None:
        if state.ram.holds(address, size):
            told[word(address) : word(address + size)] = True

    mark(int(caps.base[found[1]]), 1 << PAGE_BITS)
    capability = layout.slot_bytes // 2  # its links follow
    cnode = int(caps.base[found[0]])
    regions = [region for name, region in info.regions.items() if name != "empty"]
    for slot in {slot for start, end in regions for slot in range(start, min(end, start + PAGE_WORDS))}:
        mark(cnode + (slot << layout.slot_bits), capability)
    for row in [*found, *(part.row for part in kernel_parts(state, info) if part.row >= 0)]:
        mark(int(caps.address[row]), capability)
    mark(cnode + (layout.constant("seL4_CapInitThreadIPCBuffer") << layout.slot_bits), capability)
    walk = state.user_walk
    root = state.asid_map.get(INITIAL_ASID)
    if root is not None:
        for row in np.flatnonzero(walk.roots[walk.root] == np.uint64(root)).tolist():
            mark(int(walk.table[row]) + (int(walk.index[row]) << _WORD_BITS), 1 << _WORD_BITS)
        pools = dict(state.asid_pools)
        mark(pools[0] + (INITIAL_ASID << _WORD_BITS), 1 << _WORD_BITS)
        mark(state.global_address("armKSASIDTable"), 1 << _WORD_BITS)
    for name in _GLOBALS:
        mark(state.global_address(name), layout.variable(name).size)
    return np.flatnonzero(told)
