# SPDX-License-Identifier: BSD-2-Clause
"""The capability derivation tree, which the kernel keeps as doubly linked lists (mdb_node)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from harness.invariants.definitions import Context, Judgement, invariant

Array = np.ndarray[Any, Any]

FAMILY = "cdt"


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
    looping = np.flatnonzero(context.state.derivation.chains.looping)
    if len(looping):
        judgement.fail_caps(context, looping, lambda row: "following mdbNext from here never ends")
    return judgement
