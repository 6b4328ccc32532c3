# SPDX-License-Identifier: BSD-2-Clause
"""Translation tables as the MMU walks them: four levels, 4 KiB granule, three sizes of pages.

The decoder follows the architecture, not the kernel's own description of its tables: it is
what the hardware will do. An entry's effective NS bit counts NSTable of the levels above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.kernel_state.layout import PAGE_BITS, TABLE_BITS
from harness.kernel_state.memory import PAGE_WORDS, Ram, Words

Array = np.ndarray[Any, Any]

LEVELS = 4
LEVEL_NAMES = ("page global directory", "page upper directory", "page directory", "page table")
LEVEL_SHIFT = (39, 30, 21, 12)
"""Binary logarithm of the bytes that one entry of a level translates."""
_ONE = np.uint64(1)
_TYPE = np.uint64(3)
_ADDRESS = np.uint64(((1 << 48) - 1) & -(1 << PAGE_BITS))
_NS = np.uint64(5)
_NS_TABLE = np.uint64(63)


@dataclass(frozen=True)
class Walk:
    """All valid entries below some roots; one row an entry.

    `root`: i64[n], index of the root; `level`: u8[n], 0 to 3; `table`: u64[n], physical address
    of the table; `index`: i64[n], the entry's number in it; `entry`: u64[n]; `virtual`: u64[n],
    first address that it translates; `leaf`: bool[n], a page or block rather than a table;
    `base`: u64[n], physical address of page or table; `bits`: u8[n], binary logarithm of its
    bytes; `ns`: bool[n], effective NS bit; `malformed`: bool[n], an encoding that the
    architecture reserves (it faults); `stray`: bool[n], a table outside of `ram`, not followed.
    """

    roots: Words
    overflow: bool
    """The walk was given up: there were more tables than memory has pages."""
    tables: int
    """Tables that were read."""
    root: Array
    level: Array
    table: Words
    index: Array
    entry: Words
    virtual: Words
    leaf: Array
    base: Words
    bits: Array
    ns: Array
    malformed: Array
    stray: Array

    def __len__(self) -> int:
        return len(self.entry)

    def describe(self, row: int) -> dict[str, Any]:
        """An entry for people and findings."""
        return {
            "table": f"{LEVEL_NAMES[int(self.level[row])]} at {int(self.table[row]):#x}",
            "root": hex(int(self.roots[int(self.root[row])])),
            "index": int(self.index[row]),
            "entry": hex(int(self.entry[row])),
            "virtual": hex(int(self.virtual[row])),
            "physical": hex(int(self.base[row])),
            "size_bits": int(self.bits[row]),
            "effective_ns": bool(self.ns[row]),
        }


def walk(ram: Ram, roots: Sequence[int], *, upper: bool = False) -> Walk:
    """Walk the tables below the given roots (physical addresses of level-0 tables).

    `upper`: the tables translate the upper half of the address space (TTBR1). Tables outside of
    `ram` are reported and not followed. Never loops: four levels, as many tables as `ram` has pages.
    """
    table = np.array(roots, np.uint64).reshape(-1)
    root = np.arange(len(table))
    inside = (table >= np.uint64(ram.base)) & (table < np.uint64(ram.end)) & (table & np.uint64(0xFFF) == 0)
    all_roots = table
    table, root = table[inside], root[inside]
    virtual = np.full(len(table), 0xFFFF << 48 if upper else 0, np.uint64)
    ns_above = np.zeros(len(table), np.bool_)
    parts: list[tuple[Array, ...]] = []
    count, overflow = len(table), False
    for level in range(LEVELS):
        if not len(table):
            break
        pages = ((table - np.uint64(ram.base)) >> np.uint64(PAGE_BITS)).astype(np.int64)
        entries = ram.pages[pages] if len(pages) != 1 else ram.pages[pages[0]].reshape(1, -1)
        used = np.flatnonzero(entries & _ONE)
        row, index = used // PAGE_WORDS, used % PAGE_WORDS
        entry = entries.reshape(-1)[used]
        shift = LEVEL_SHIFT[level]
        is_table = (entry & _TYPE == _TYPE) if level < LEVELS - 1 else np.zeros(len(entry), np.bool_)
        # Level 0 has no blocks; at level 3 the block encoding is reserved.
        if level == 0:
            malformed = ~is_table
        elif level == LEVELS - 1:
            malformed = entry & _TYPE != _TYPE
        else:
            malformed = np.zeros(len(entry), np.bool_)
        leaf = ~is_table & ~malformed
        ns_bit = np.where(is_table, entry >> _NS_TABLE, entry >> _NS) & _ONE != 0
        ns = ns_bit | ns_above[row]
        below = entry & _ADDRESS
        base = np.where(is_table, below, below & np.uint64(-(1 << shift) & ((1 << 64) - 1)))
        bits = np.where(is_table, TABLE_BITS, shift).astype(np.uint8)
        first = virtual[row] + (index.astype(np.uint64) << np.uint64(shift))
        stray = is_table & ((base < np.uint64(ram.base)) | (base >= np.uint64(ram.end)))
        levels = np.full(len(entry), level, np.uint8)
        parts.append((root[row], levels, table[row], index, entry, first, leaf, base, bits, ns, malformed, stray))
        follow = np.flatnonzero(is_table & ~stray)
        count += len(follow)
        # The kernel uses each table once, so more tables than pages can only come from corrupt memory.
        if count > len(ram.pages):
            overflow = True
            break
        table, root, virtual, ns_above = base[follow], root[row[follow]], first[follow], ns[follow]
    if not parts:
        empty = np.zeros(0, np.uint64)
        none, byte, number = np.zeros(0, np.bool_), np.zeros(0, np.uint8), np.zeros(0, np.int64)
        parts.append((number, byte, empty, number, empty, empty, none, empty, byte, none, none, none))
    join: Callable[[Sequence[Array]], Array] = np.concatenate
    columns: list[Any] = [join(column) for column in zip(*parts, strict=True)]
    return Walk(all_roots, overflow, count, *columns)


def translate(ram: Ram, root: int, virtual: Words) -> tuple[Words, Array]:
    """What the tables below a root (physical address) map at virtual addresses.

    Returns physical addresses (u64[n]) and whether there is one (bool[n]). Tables outside of `ram` map nothing.
    """
    table = np.full(len(virtual), root, np.uint64)
    found = np.zeros(len(virtual), np.uint64)
    mapped = np.zeros(len(virtual), np.bool_)
    searching = np.arange(len(virtual))
    for level in range(LEVELS):
        inside = (table >= np.uint64(ram.base)) & (table < np.uint64(ram.end))
        searching, table = searching[inside], table[inside]
        shift = np.uint64(LEVEL_SHIFT[level])
        index = (virtual[searching] >> shift) & np.uint64(PAGE_WORDS - 1)
        where = ((table - np.uint64(ram.base)) >> np.uint64(3)) + index
        entry = ram.words.take(where.astype(np.int64), mode="clip")
        wanted = np.uint64(3 if level == LEVELS - 1 else 1)
        leaf = (entry & _TYPE == wanted) if level else np.zeros(len(entry), np.bool_)
        inner = (_ONE << shift) - _ONE
        rows = searching[leaf]
        found[rows] = (entry[leaf] & _ADDRESS & ~inner) | (virtual[rows] & inner)
        mapped[rows] = True
        below = (entry & _TYPE == _TYPE) & ~leaf
        searching, table = searching[below], entry[below] & _ADDRESS
    return found, mapped
