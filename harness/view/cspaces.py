# SPDX-License-Identifier: BSD-2-Clause
"""Capability spaces as trees: slots by number, CNodes within CNodes."""

from __future__ import annotations

import numpy as np

from harness.kernel_state.state import ContainerKind, KernelState
from harness.view.capabilities import capability_text
from harness.view.names import Names
from harness.view.nodes import Grower, Node, count_text

_DEPTH = 16
"""CNodes within CNodes; more levels resolve no 64-bit capability pointer unless their guards are empty."""
_KINDS = {ContainerKind.CNODE: "CNode", ContainerKind.ZOMBIE: "zombie"}


class _View:
    def __init__(self, state: KernelState, names: Names) -> None:
        self._state, self._names = state, names
        caps = state.caps
        order = np.lexsort((caps.index, caps.container))
        bounds = np.searchsorted(caps.container[order], np.arange(len(state.containers) + 1))
        self._rows = {i: order[bounds[i] : bounds[i + 1]].tolist() for i in range(len(state.containers))}
        self._container_at: dict[int, int] = {}
        for index, container in enumerate(state.containers):
            if container.kind in _KINDS:
                self._container_at.setdefault(container.address, index)
        self._shown: set[int] = set()
        self.root = Node("")
        self._grower = Grower(self.root)

    def _title(self, container: int) -> str:
        entry = self._state.containers[container]
        name = self._names.object(entry.address)
        used = len(self._rows[container])
        named = f" ({name})" if name else ""
        return f"{_KINDS[entry.kind]} {entry.address:#x}{named}: {used} of {count_text(entry.slots, 'slot')} used"

    def _fill(self, node: Node, container: int, depth: int) -> None:
        self._shown.add(container)
        caps, address = self._state.caps, self._state.containers[container].address
        for row in self._rows[container]:
            if self._grower.full:
                return
            number = int(caps.index[row])
            name = self._names.slot(address, number)
            text = capability_text(self._state, self._names, row)
            inside = self._container_at.get(int(caps.base[row])) if caps.type_name(row) == "cnode_cap" else None
            again = inside in self._shown
            entry = self._grower.add(node, f"{number:3d} {name + ': ' if name else ''}{text}" + (" ^" if again else ""))
            if inside is not None and not again and depth < _DEPTH:
                self._fill(entry, inside, depth + 1)

    def run(self) -> Node:
        state, names = self._state, self._names
        users: dict[int, list[str]] = {}
        roots = state.caps.rows_at(state.thread_slot("tcbCTable"))
        for thread, row in enumerate(roots.tolist()):
            if row >= 0 and state.caps.type_name(row) == "cnode_cap":
                container = self._container_at.get(int(state.caps.base[row]))
                if container is not None:
                    users.setdefault(container, []).append(names.thread(state, thread))
        slots = sum(len(self._rows[container]) for container in self._container_at.values())
        self.root.text = (
            f"cspaces: {len(users)} of {count_text(len(self._container_at), 'CNode')} are roots of threads; "
            f"{slots} slots used (^: its slots are shown elsewhere)"
        )
        # All roots first, so that a CNode which is a root is shown there and not where another one holds it.
        self._shown |= set(users)
        for container, threads in users.items():
            who = ", ".join(threads[:12]) + (" ..." if len(threads) > 12 else "")
            node = self._grower.add(self.root, f"{self._title(container)}; root of {who}")
            self._fill(node, container, 0)
        for container in sorted(set(self._container_at.values()) - self._shown):
            if container in self._shown or self._grower.full:
                continue
            self._fill(self._grower.add(self.root, f"{self._title(container)}; of no thread"), container, 0)
        return self.root


def cspaces(state: KernelState, names: Names) -> Node:
    """The capability space of each thread, and the CNodes that belong to none."""
    return _View(state, names).run()
