# SPDX-License-Identifier: BSD-2-Clause
"""The capability derivation tree, which the kernel keeps as doubly linked lists (mdb_node)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from harness.invariants.definitions import Context, Judgement, invariant
from harness.kernel_state.capabilities import CapTable, Indices

Array = np.ndarray[Any, Any]

FAMILY = "cdt"


@dataclass(frozen=True)
class Chains:
    """Order of slots in the mapping database.

    `order`: rows of the table, chain by chain, each from its head; `position`: where each row
    stands in `order`; `chain`: for each row, the row at the end of its chain; `looping`: rows
    from which following mdbNext never ends. Rows that loop have no meaningful order.
    """

    order: Indices
    position: Indices
    chain: Indices
    looping: Array


def chains(caps: CapTable) -> Chains:
    """Follow all mdbNext links at once (pointer doubling: log2(n) steps, whatever memory holds)."""
    count = len(caps)
    following = caps.rows_at(caps.next)
    following[caps.next == 0] = -1
    end = np.arange(count)
    step = np.where(following >= 0, following, end)
    distance = (following >= 0).astype(np.int64)
    for _ in range(max(1, count.bit_length())):
        distance = distance + distance[step]
        step = step[step]
    # Whoever has arrived stands on a row without a successor.
    looping = following[step] >= 0
    order = np.lexsort((-distance, step))
    position = np.empty(count, np.int64)
    position[order] = np.arange(count)
    return Chains(order, position, step, looping)


@invariant("mdb_cte_at", family=FAMILY, reference="l4v CSpaceInv_AI: mdb_cte_at; Refine: valid_dlist, valid_nullcaps")
def mdb_cte_at(context: Context) -> Judgement:
    """Both ends of a mapping database link are slots with a capability, and each names the other."""
    caps = context.state.caps
    judgement = Judgement(len(caps))
    null = caps.type == context.state.layout.cap_types["null_cap"]
    linked = (caps.next != 0) | (caps.previous != 0)
    left_over = np.flatnonzero(null & linked)
    if len(left_over):
        judgement.fail_caps(context, left_over, lambda row: "an empty slot is linked into the mapping database")
    for name, ahead, back in (("mdbNext", caps.next, caps.previous), ("mdbPrev", caps.previous, caps.next)):
        rows = np.flatnonzero(ahead)
        target = caps.rows_at(ahead[rows])
        missing = (target < 0) | null[target]
        if missing.any():
            judgement.fail_caps(
                context,
                rows[missing],
                partial(_link, "{} is {:#x}, no slot with a capability", name, ahead),
            )
        one_sided = ~missing & (back[target] != caps.address[rows])
        if one_sided.any():
            judgement.fail_caps(
                context,
                rows[one_sided],
                partial(_link, "{} is {:#x}, which does not name it in turn", name, ahead),
            )
    return judgement


def _link(text: str, name: str, target: Array, row: int) -> str:
    return text.format(name, int(target[row]))


@invariant("no_mloop", family=FAMILY, reference="l4v CSpaceInv_AI: no_mloop")
def no_mloop(context: Context) -> Judgement:
    """No capability is derived from itself: following mdbNext always ends."""
    caps = context.state.caps
    judgement = Judgement(len(caps))
    looping = np.flatnonzero(chains(caps).looping)
    if len(looping):
        judgement.fail_caps(context, looping, lambda row: "following mdbNext from here never ends")
    return judgement
