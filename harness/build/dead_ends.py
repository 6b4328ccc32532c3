# SPDX-License-Identifier: BSD-2-Clause
"""Which functions never return, and which blocks lead nowhere but to a halt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Block:
    """A block and where control can go from it; all addresses are virtual."""

    start: int
    size: int = 0
    ways: list[int] = field(default_factory=list)
    """Targets of its branches, and the next instruction where it falls through."""
    calls: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    """Code addresses that it materialises, and that may be called later."""
    returns: bool = False
    """It ends in a return, or in a branch to an unknown address."""
    padding: bool = True
    """Nothing but NOPs or zeros: the space between two functions, unless a branch before it falls through."""

    @property
    def successors(self) -> list[int]:
        """All addresses to which control can pass because of this block."""
        return [*self.ways, *self.calls, *self.taken]


def never_returning(blocks: dict[int, Block]) -> set[int]:
    """Addresses of called functions from which no way leads to a return."""
    never = {target for block in blocks.values() for target in block.calls if target in blocks}
    while returning := {entry for entry in never if _returns(blocks, entry, never)}:
        never -= returning
    return never


def _returns(blocks: dict[int, Block], entry: int, never: set[int]) -> bool:
    seen: set[int] = set()
    waiting = [entry]
    while waiting:
        start = waiting.pop()
        block = blocks.get(start)
        if block is None or start in seen:
            continue
        seen.add(start)
        if any(call in never for call in block.calls):
            continue
        if block.returns:
            return True
        waiting += block.ways
    return False


def halting(blocks: dict[int, Block], halts: Iterable[int]) -> set[int]:
    """Leaders of the blocks from which every way leads to a block of `halts`, and those themselves."""
    found = {start for start in halts if start in blocks}
    grown = True
    while grown:
        grown = False
        for start, block in blocks.items():
            if start in found:
                continue
            # What calls a function that halts does not go on behind the call.
            ends = any(call in found for call in block.calls)
            if ends or (block.ways and not block.returns and all(way in found for way in block.ways)):
                found.add(start)
                grown = True
    return found
