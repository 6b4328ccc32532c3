# SPDX-License-Identifier: BSD-2-Clause
"""Untyped memory as a tree: what was made of it, nested by address."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.invariants.untyped import free_start
from harness.kernel_state.state import KernelState
from harness.view.capabilities import title, world_text
from harness.view.names import Names
from harness.view.nodes import Grower, Node, count_text, size_text


@dataclass
class _Objects:
    """Objects of one type and size that follow each other without a gap."""

    type: str
    base: int
    size: int
    caps: int
    name: str
    count: int = 1

    def takes(self, other: _Objects) -> bool:
        """Whether another object goes on where these end, and nothing tells it from them."""
        same = (self.type, self.size, self.name, other.name) == (other.type, other.size, "", "")
        return same and self.base + self.count * self.size == other.base

    def text(self) -> str:
        named = f" ({self.name})" if self.name else ""
        many = f"{self.count} x " if self.count > 1 else ""
        copies = f", {self.caps} capabilities" if self.caps > self.count else ""
        end = self.base + self.count * self.size - 1
        return f"{many}{title(self.type)} {size_text(self.size)} {self.base:#x}..{end:#x}{named}{copies}"


def _objects(state: KernelState, names: Names) -> Iterator[tuple[int, _Objects]]:
    """Each object that capabilities name, once, in order of address, with the row of its untyped (-1: none)."""
    caps = state.caps
    untyped = np.uint8(state.layout.cap_types["untyped_cap"])
    rows = np.flatnonzero(caps.physical & (caps.type != untyped))
    if not len(rows):
        return
    rows = rows[np.lexsort((caps.type[rows], caps.bits[rows], caps.base[rows]))]
    base, bits, type_ = caps.base[rows], caps.bits[rows], caps.type[rows]
    new = np.append(True, (base[1:] != base[:-1]) | (bits[1:] != bits[:-1]) | (type_[1:] != type_[:-1]))
    starts = np.flatnonzero(new)
    counts = np.diff(np.append(starts, len(rows)))
    first = rows[starts]
    parents = state.derivation.innermost(caps.base[first], caps.last[first])
    for row, count, parent in zip(first.tolist(), counts.tolist(), parents.tolist(), strict=True):
        address = int(caps.base[row])
        size = 1 << int(caps.bits[row])
        yield parent, _Objects(caps.type_name(row), address, size, count, names.object(address))


def _merged(objects: list[_Objects]) -> Iterator[_Objects]:
    """Neighbours without names, of one type and size, as one."""
    run: _Objects | None = None
    for item in objects:
        if run is not None:
            if run.takes(item):
                run.count += 1
                run.caps += item.caps
                continue
            yield run
        run = item
    if run is not None:
        yield run


def untypeds(state: KernelState, names: Names) -> Node:
    """All untyped memory, what lies in it, and how much of it is left."""
    caps = state.caps
    rows, outer = state.derivation.untypeds
    made: dict[int, list[_Objects]] = {}
    total = 0
    for parent, item in _objects(state, names):
        made.setdefault(parent, []).append(item)
        total += 1
    free = free_start(caps, rows) - caps.base[rows] if len(rows) else np.zeros(0, np.uint64)
    outside = np.flatnonzero(outer < 0)
    secure = int((~caps.non_secure[rows] & ~caps.device[rows]).sum()) if len(rows) else 0
    device = int(caps.device[rows].sum()) if len(rows) else 0
    root = Node(
        f"untypeds: {len(rows)} ({secure} secure, {len(rows) - secure - device} non-secure, {device} device), "
        f"{len(outside)} of them outermost; {count_text(total, 'object')}"
    )
    grower = Grower(root)
    inner: dict[int, list[int]] = {}
    for index in np.flatnonzero(outer >= 0).tolist():
        inner.setdefault(int(outer[index]), []).append(index)
    waiting: list[tuple[Node, int]] = [(root, index) for index in reversed(outside.tolist())]
    while waiting and not grower.full:
        above, index = waiting.pop()
        row = int(rows[index])
        used, size = int(free[index]), 1 << int(caps.bits[row])
        node = grower.add(above, _untyped_text(state, names, row, used, size), "" if used else "dim")
        children: list[tuple[int, _Objects | int]] = [(item.base, item) for item in _merged(made.get(row, []))]
        children += [(int(caps.base[rows[i]]), i) for i in inner.get(index, [])]
        for _, child in sorted(children, key=lambda pair: pair[0]):
            if isinstance(child, _Objects):
                grower.add(node, child.text())
        # Untypeds inside come behind the objects beside them.
        waiting += [(node, child) for _, child in reversed(children) if isinstance(child, int)]
    if -1 in made and not grower.full:
        node = grower.add(root, f"in no untyped: {count_text(len(made[-1]), 'object')} that the kernel made at boot")
        for item in _merged(made[-1]):
            if grower.full:
                break
            grower.add(node, item.text())
    return root


def _untyped_text(state: KernelState, names: Names, row: int, used: int, size: int) -> str:
    base = int(state.caps.base[row])
    name = names.object(base)
    named = f" ({name})" if name else ""
    left = "unused" if not used else "full" if used >= size else f"{size_text(used)} used"
    return f"untyped {size_text(size)} {base:#x}..{base + size - 1:#x} {world_text(state, row)}{named}: {left}"
