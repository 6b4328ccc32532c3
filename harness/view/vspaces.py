# SPDX-License-Identifier: BSD-2-Clause
"""Address spaces as trees: tables, and below them pages as ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.configs import Region, World
from harness.kernel_state.page_tables import LEVEL_NAMES, Walk
from harness.kernel_state.state import KernelState
from harness.view.names import Names
from harness.view.nodes import Grower, Node, count_text, size_text

_MAXIMUM_ROWS = 1 << 16
_MEMORY_TYPES = ("DEVICE_nGnRnE", "DEVICE_nGnRE", "DEVICE_GRE", "NORMAL_NC", "NORMAL")
"""The kernel's names of memory attributes (mair_types)."""
_TYPE_TEXT = {"NORMAL": "cached", "NORMAL_NC": "uncached"}


@dataclass
class _Range:
    """Pages that follow each other in both address spaces, with equal attributes."""

    virtual: int
    physical: int
    bits: int
    attributes: str
    ns: bool
    region: Region | None
    count: int = 1

    def follows(self, other: _Range) -> bool:
        """Whether this page goes on where the range ends."""
        size = other.count << other.bits
        return (
            (self.virtual, self.physical) == (other.virtual + size, other.physical + size)
            and (self.bits, self.attributes, self.ns) == (other.bits, other.attributes, other.ns)
            and self.region is other.region
        )


class _View:
    def __init__(self, state: KernelState, names: Names) -> None:
        self._state, self._names = state, names
        constants = state.layout.types.constants
        self._types = {constants[name]: name for name in _MEMORY_TYPES if name in constants}
        self.root = Node("")
        self._grower = Grower(self.root)
        self.pages = self.tables = 0

    def _attributes(self, entry: int) -> str:
        """Rights of EL0 (of EL1 where EL0 has none), and how memory is accessed."""
        write = "-" if entry >> 7 & 1 else "w"
        execute = "-" if entry >> 54 & 1 else "x"
        who = "" if entry >> 6 & 1 else "kernel only "
        memory = self._types.get(entry >> 2 & 7, f"attribute {entry >> 2 & 7}")
        return f"{who}r{write}{execute} {_TYPE_TEXT.get(memory, memory.replace('DEVICE_', 'device '))}"

    def _leaf(self, parent: Node, part: _Range) -> None:
        region = part.region
        world = "non-secure" if part.ns else "secure"
        place = region.name if region is not None else "no region of the config"
        wrong = region is None or (region.world != World.BANKED and (region.world == World.NON_SECURE) != part.ns)
        name = self._names.object(part.physical)
        size = size_text(1 << part.bits)
        many = f"{part.count} x {size}" if part.count > 1 else size
        self._grower.add(
            parent,
            f"{part.virtual:#x}..{part.virtual + (part.count << part.bits) - 1:#x} -> {part.physical:#x} {many} "
            f"{part.attributes} {world}, {place}{f' ({name})' if name else ''}{' WRONG WORLD' if wrong else ''}",
            "red" if wrong else "",
        )
        self.pages += part.count

    def space(self, parent: Node, walk: Walk, root: int) -> None:
        """Add the tables and pages below one root of a walk."""
        rows = np.flatnonzero(walk.root == root)[:_MAXIMUM_ROWS]
        # A table comes before what it holds: that begins at the same address and is of a later level, or behind.
        rows = rows[np.lexsort((walk.level[rows], walk.virtual[rows]))]
        levels = walk.level[rows].astype(np.int64)
        table = ~walk.leaf[rows] & ~walk.malformed[rows] & ~walk.stray[rows]
        empty = table & (np.append(levels[1:], 0) <= levels) if len(rows) else table
        above = [parent]
        pending: _Range | None = None
        holder = parent
        nothing: list[int] = []
        for row, level, is_empty in zip(rows.tolist(), levels.tolist(), empty.tolist(), strict=True):
            if self._grower.full:
                return
            if nothing and (not is_empty or level != walk.level[nothing[0]]):
                self._empty(above[int(walk.level[nothing[0]])], walk, nothing)
                nothing = []
            del above[level + 1 :]
            if is_empty:
                if pending is not None:
                    self._leaf(holder, pending)
                    pending = None
                nothing.append(row)
                continue
            if walk.leaf[row]:
                entry = int(walk.entry[row])
                virtual, base, bits = int(walk.virtual[row]), int(walk.base[row]), int(walk.bits[row])
                region = self._state.config.region_at(base)
                page = _Range(virtual, base, bits, self._attributes(entry), bool(walk.ns[row]), region)
                if pending is not None and holder is above[-1] and page.follows(pending):
                    pending.count += 1
                    continue
                if pending is not None:
                    self._leaf(holder, pending)
                pending, holder = page, above[-1]
                continue
            if pending is not None:
                self._leaf(holder, pending)
                pending = None
            above.append(self._table(above[-1], walk, row))
        if pending is not None:
            self._leaf(holder, pending)
        if nothing:
            self._empty(above[int(walk.level[nothing[0]])], walk, nothing)

    def _empty(self, parent: Node, walk: Walk, rows: list[int]) -> None:
        """Add tables of one parent that hold nothing."""
        if len(rows) == 1:
            self._table(parent, walk, rows[0]).text += ", empty"
            return
        self.tables += len(rows)
        first, last = int(walk.virtual[rows[0]]), int(walk.virtual[rows[-1]])
        name = LEVEL_NAMES[int(walk.level[rows[0]]) + 1].replace("directory", "directories").replace("table", "tables")
        where = f"{first:#x} [{int(walk.index[rows[0]])}] to {last:#x} [{int(walk.index[rows[-1]])}]"
        self._grower.add(parent, f"{where}: {len(rows)} {name}, empty", "dim")

    def _table(self, parent: Node, walk: Walk, row: int) -> Node:
        level, base = int(walk.level[row]), int(walk.base[row])
        where = f"{int(walk.virtual[row]):#x} [{int(walk.index[row])}]"
        if walk.malformed[row]:
            return self._grower.add(parent, f"{where}: reserved encoding {int(walk.entry[row]):#x}", "red")
        name = self._names.object(base)
        self.tables += 1
        text = f"{where}: {LEVEL_NAMES[level + 1]} {base:#x}{f' ({name})' if name else ''}"
        if walk.stray[row]:
            return self._grower.add(parent, f"{text} OUTSIDE OF SECURE MEMORY", "red")
        return self._grower.add(parent, text)

    def run(self) -> Node:
        state, names = self._state, self._names
        users: dict[int, list[str]] = {}
        rows = state.caps.rows_at(state.thread_slot("tcbVTable"))
        for thread, row in enumerate(rows.tolist()):
            if row >= 0 and state.caps.type_name(row) == "page_global_directory_cap":
                users.setdefault(int(state.caps.base[row]), []).append(names.thread(state, thread))
        spaces = state.vspaces
        walk = state.user_walk
        for number, (root, asids) in enumerate(zip(spaces.roots, spaces.asids, strict=True)):
            if self._grower.full:
                break
            self.space(self._grower.add(self.root, self._space_text(root, asids, users.get(root, []))), walk, number)
        self.root.text = (
            f"vspaces: {len(spaces.roots)}, with {count_text(self.tables, 'table')} below their roots "
            f"and {count_text(self.pages, 'page')}"
        )
        if walk.overflow:
            self._grower.add(self.root, "the tables have no end: they lead to each other", "red")
        window = self._grower.add(self.root, f"the kernel's window: page global directory {state.kernel_root:#x}")
        self.space(window, state.kernel_walk, 0)
        return self.root

    def _space_text(self, root: int, asids: Sequence[int], users: list[str]) -> str:
        name = self._names.object(root)
        if root == self._state.global_address("armKSGlobalUserPGD"):
            name = name or "armKSGlobalUserPGD, of threads without one"
        shown = ", ".join(str(asid) for asid in asids[:8]) + (" ..." if len(asids) > 8 else "")
        parts = [f"page global directory {root:#x}" + (f" ({name})" if name else "")]
        parts.append(f"ASID {shown}" if asids else "no ASID")
        if root == self._state.vspaces.live:
            parts.append("live in TTBR0")
        if users:
            parts.append("of " + ", ".join(users[:12]) + (" ..." if len(users) > 12 else ""))
        return "; ".join(parts)


def vspaces(state: KernelState, names: Names) -> Node:
    """All address spaces, and the kernel's own window."""
    return _View(state, names).run()
