# SPDX-License-Identifier: BSD-2-Clause
"""Trees of text: grown within bounds, shown with lines on a terminal and as indented text in a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.text import Text
from rich.tree import Tree

MAXIMUM_NODES = 1 << 12
"""Lines that one view may have; corrupt memory can hold millions of objects."""
MAXIMUM_DEPTH = 64
"""Levels that one view may have."""
INDENTATION = "  "


@dataclass
class Node:
    """One line, and what belongs below it."""

    text: str
    style: str = ""
    children: list[Node] = field(default_factory=list)
    ancestors: int = 0
    """Levels above it."""
    host: Node | None = None
    """Where its children go instead of below it."""

    def lines(self, depth: int | None = None, level: int = 0) -> Iterator[str]:
        """The tree as indented lines; `depth` levels below this one (all by default)."""
        yield INDENTATION * level + self.text
        if depth is None or level < depth:
            for child in self.children:
                yield from child.lines(depth, level + 1)

    def rich(self, depth: int | None = None) -> Tree:
        """The tree for a terminal."""
        tree = Tree(Text(self.text, self.style), guide_style="dim")
        self._fill(tree, depth)
        return tree

    def _fill(self, tree: Tree, depth: int | None) -> None:
        if depth is not None and depth <= 0:
            return
        for child in self.children:
            child._fill(tree.add(Text(child.text, child.style)), None if depth is None else depth - 1)


class Grower:
    """Adds nodes until there are enough of them."""

    def __init__(self, root: Node, maximum: int = MAXIMUM_NODES) -> None:
        self.root = root
        self._left = maximum

    @property
    def full(self) -> bool:
        """Whether no more nodes fit; whoever adds many asks."""
        return self._left <= 0

    def add(self, parent: Node, text: str, style: str = "") -> Node:
        """Add a node below another one; when there are enough, it is made and not kept."""
        # So deep down it stands beside what it belongs below.
        host = parent if parent.host is None else parent.host
        node = Node(text, style, ancestors=host.ancestors + 1)
        if node.ancestors >= MAXIMUM_DEPTH:
            node.host = host
        if self._left > 0:
            self._left -= 1
            host.children.append(node)
            if not self._left:
                self.root.children.append(Node(f"... there is more than {len(self)} lines show", "dim"))
        return node

    def __len__(self) -> int:
        return sum(1 for _ in self.root.lines())


def size_text(size: int) -> str:
    """A number of bytes for people, such as `4 KiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024 or (size % 1024 and size < 1 << 14):
            return f"{size} {unit}"
        size //= 1024
    return f"{size} EiB"


def count_text(count: int, one: str, many: str = "") -> str:
    """A number of things for people, such as `3 threads`."""
    return f"{count} {one if count == 1 else many or one + 's'}"
