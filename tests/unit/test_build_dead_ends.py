# SPDX-License-Identifier: BSD-2-Clause
"""Functions that never return and blocks that lead only to a halt, or only to closed blocks, on graphs made by hand."""

from __future__ import annotations

import numpy as np

from harness.build.blocks import StaticBlocks
from harness.build.dead_ends import Block, halting, never_returning

HALT, RETURNS, WRAPS, CALLER, SPLIT, ASSERTS, WORKS, LOOP = 0x100, 0x200, 0x300, 0x400, 0x500, 0x510, 0x520, 0x600


def graph() -> dict[int, Block]:
    blocks = [
        Block(HALT, 4, ways=[HALT]),  # an endless loop
        Block(RETURNS, 4, returns=True),
        Block(WRAPS, 8, calls=[HALT], ways=[RETURNS]),  # calls it, and seems to fall into the next function
        Block(CALLER, 8, calls=[RETURNS, WRAPS], returns=True),
        Block(SPLIT, 8, ways=[ASSERTS, WORKS]),  # an assertion
        Block(ASSERTS, 8, calls=[HALT], ways=[WORKS]),
        Block(WORKS, 8, calls=[CALLER, SPLIT], returns=True),
        Block(LOOP, 8, ways=[LOOP], calls=[RETURNS]),  # waits for ever, but halts nothing
    ]
    return {block.start: block for block in blocks}


def test_functions_that_never_return_are_found_through_their_callers() -> None:
    assert never_returning(graph()) == {HALT, WRAPS, CALLER, SPLIT}
    blocks = graph()
    blocks[CALLER].calls, blocks[WORKS].calls = [RETURNS], [CALLER]
    blocks[0x700] = Block(0x700, 4, calls=[SPLIT, CALLER], returns=True)
    assert never_returning(blocks) == {HALT}


def test_blocks_that_lead_only_to_a_halt() -> None:
    blocks = graph()
    blocks[WORKS].calls = [RETURNS]
    assert halting(blocks, [HALT]) == {HALT, WRAPS, CALLER, ASSERTS}
    assert halting(blocks, [0x999]) == set()
    # One way round is enough to be worth reaching.
    blocks[SPLIT].ways = [ASSERTS]
    assert SPLIT in halting(blocks, [HALT])


def flags(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    mask = np.zeros(7, np.bool_)
    mask[list(numbers)] = True
    return mask


def test_what_closed_blocks_close() -> None:
    # 0 goes to 1 or 2, 1 to 3, 2 to 3 or 4; 3 calls 5; 6 goes only to 4.
    edges = [(0, 1, 1), (0, 2, 1), (1, 3, 1), (2, 3, 1), (2, 4, 1), (3, 5, 0), (0, 6, 1), (6, 4, 1)]
    zeros = np.zeros(7, np.uint32)
    names = "component address physical size function file line phase halts".split()
    graph = {"edges": np.array(edges, np.uint32), "roots": np.array([0], np.uint32)}
    blocks = StaticBlocks(("kernel",), ("f",), ("",), **dict.fromkeys(names, zeros), **graph)
    assert blocks.reachable_without(flags()).all()
    assert not (blocks.reachable_without(flags(3)) ^ ~flags(3, 5)).any()  # its callee has no other caller
    assert not blocks.reachable_without(flags(0)).any()
    assert (blocks.leading_only_to(flags(4)) == flags(4, 6)).all()
    assert (blocks.leading_only_to(flags(3, 4)) == flags(0, 1, 2, 3, 4, 6)).all()
    # A call is no way on: its caller goes on behind it.
    assert (blocks.leading_only_to(flags(5)) == flags(5)).all()
