# SPDX-License-Identifier: BSD-2-Clause
"""What translation table entries say beside the address and the world: who may access, and as what memory.

Bits are those of the architecture's VMSAv8-64 descriptors, stage 1 at EL1&0. Each entry is judged by its own word.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.invariants.definitions import MAXIMUM_VIOLATIONS, Context, Judgement, invariant
from harness.invariants.window import known_window
from harness.kernel_state.layout import Layout
from harness.kernel_state.page_tables import Walk

Array = np.ndarray[Any, Any]

FAMILY = "vspace"
USER_NEVER_EXECUTES = 1 << 54
_MEMORY, _MEMORY_SHIFT = 7, 2
_READ_ONLY, _USER = 1 << 7, 1 << 6
_SHAREABILITY, _RESERVED_SHAREABILITY = 3 << 8, 1 << 8
_ACCESSED, _NOT_GLOBAL = 1 << 10, 1 << 11
_CONTIGUOUS = 1 << 52
_BEYOND_ADDRESS = 0xF << 48
_OF_TABLES = 0xF << 59
"""APTable, UXNTable, PXNTable; the NSTable bit is the world's, and the hierarchy is not used for it either."""
_KERNEL_MEMORY, _DEVICE_MEMORY = "NORMAL", "DEVICE_nGnRnE"


@dataclass(frozen=True)
class Rule:
    """What must be so of an entry: its bits in `mask` are `value` (or, with `differs`, are not)."""

    what: str
    mask: int
    value: int
    differs: bool = False

    def broken(self, entries: Array) -> Array:
        """Which of these entries (u64[n]) break it."""
        equal = entries & np.uint64(self.mask) == np.uint64(self.value)
        found: Array = equal if self.differs else ~equal
        return found

    def breaks(self, entry: int) -> bool:
        """Whether one entry breaks it."""
        return (entry & self.mask == self.value) == self.differs


_LEAF = (
    Rule("AF is set, as nobody handles its faults", _ACCESSED, _ACCESSED),
    Rule("SH is none that is reserved", _SHAREABILITY, _RESERVED_SHAREABILITY, differs=True),
    Rule("no Contiguous bit, as the entries beside it are others", _CONTIGUOUS, 0),
    Rule("no address beyond 48 bits", _BEYOND_ADDRESS, 0),
)
TABLE_RULES = (Rule("it limits nothing below it (PXNTable, UXNTable, APTable, NSTable)", _OF_TABLES | 1 << 63, 0),)
USER_RULES = (
    *_LEAF,
    Rule("nG is set: it is of one ASID", _NOT_GLOBAL, _NOT_GLOBAL),
    Rule("AP is none that only the kernel could read by", _READ_ONLY | _USER, _READ_ONLY, differs=True),
)
WINDOW_RULES = (
    *_LEAF,
    Rule("nG is clear: it is of all ASIDs", _NOT_GLOBAL, 0),
    Rule("AP lets the kernel write and users do nothing", _READ_ONLY | _USER, 0),
    Rule("UXN is set: users never execute it", USER_NEVER_EXECUTES, USER_NEVER_EXECUTES),
)


def memory_types(layout: Layout) -> dict[str, int]:
    """The two attribute indices (AttrIndx) that the kernel uses, by name."""
    return {name: layout.constant(name) for name in (_DEVICE_MEMORY, _KERNEL_MEMORY)}


def odd(entry: int, rules: Sequence[Rule]) -> bool:
    """Whether one entry breaks a rule."""
    return any(rule.breaks(entry) for rule in rules)


def of_known_memory(entry: int, types: Collection[int]) -> bool:
    """Whether the AttrIndx of a page or block is one of these."""
    return entry >> _MEMORY_SHIFT & _MEMORY in types


def _index(entries: Array) -> Array:
    index: Array = entries >> np.uint64(_MEMORY_SHIFT) & np.uint64(_MEMORY)
    return index


def _fail(judgement: Judgement, walk: Walk, rows: Array, what: str, kind: str) -> None:
    for row in rows.tolist()[:MAXIMUM_VIOLATIONS]:
        entry = walk.describe(row)
        place = f"{entry['table']}[{entry['index']}]"
        judgement.fail_field(place, kind, "attributes", entry["entry"], what, **entry)


def _judge(walk: Walk, rows: Array, rules: Sequence[Rule], judgement: Judgement, kind: str) -> None:
    entries = walk.entry[rows]
    for rule in rules:
        wrong = rule.broken(entries)
        if wrong.any():
            _fail(judgement, walk, rows[wrong], rule.what, kind)


def judge_user_attributes(context: Context, judgement: Judgement) -> None:
    """Every entry that an address space reaches."""
    walk = context.state.user_walk
    leaves, tables = np.flatnonzero(walk.leaf), np.flatnonzero(~walk.leaf & ~walk.malformed)
    _judge(walk, leaves, USER_RULES, judgement, "page table entry")
    _judge(walk, tables, TABLE_RULES, judgement, "page table entry")
    types = memory_types(context.state.layout)
    strange = leaves[~np.isin(_index(walk.entry[leaves]), list(types.values()))]
    _fail(judgement, walk, strange, f"AttrIndx is that of {' or '.join(types)}", "page table entry")


@invariant(
    "valid_global_vspace_mappings",
    family=FAMILY,
    reference="l4v ArchInvariants_AI: valid_global_vspace_mappings, valid_kernel_mappings",
)
def valid_global_vspace_mappings(context: Context) -> Judgement:
    """The kernel's window is the kernel's alone, and maps each kind of memory as what it is, where it belongs."""
    known = known_window(context)
    return judge_window_attributes(context) if known is None else known.attributes


def judge_window_attributes(context: Context) -> Judgement:
    """Judge every entry of the kernel's window."""
    walk, regions, layout = context.state.kernel_walk, context.regions, context.state.layout
    leaves, tables = np.flatnonzero(walk.leaf), np.flatnonzero(~walk.leaf & ~walk.malformed)
    judgement = Judgement(len(walk))
    kind = "kernel mapping"
    _judge(walk, leaves, WINDOW_RULES, judgement, kind)
    _judge(walk, tables, TABLE_RULES, judgement, kind)
    base, size = walk.base[leaves], np.uint64(1) << walk.bits[leaves].astype(np.uint64)
    region = regions.covering(base, base + size - np.uint64(1))
    types = memory_types(layout)
    device = regions.device[region]
    wanted = np.where(device, types[_DEVICE_MEMORY], types[_KERNEL_MEMORY]).astype(np.uint64)
    wrong = leaves[_index(walk.entry[leaves]) != wanted]
    _fail(judgement, walk, wrong, f"{_DEVICE_MEMORY} for a device, {_KERNEL_MEMORY} for memory", kind)
    # Devices have addresses of their own in the uppermost part of the window.
    moved = leaves[~device & (walk.virtual[leaves] != base + np.uint64(layout.offset))]
    _fail(judgement, walk, moved, f"at its physical address and {layout.offset:#x}", kind)
    return judgement
