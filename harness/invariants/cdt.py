# SPDX-License-Identifier: BSD-2-Clause
"""The capability derivation tree, which the kernel keeps as doubly linked lists (mdb_node)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from harness.invariants.definitions import MAXIMUM_VIOLATIONS, Context, Judgement, invariant

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
        judgement.fail_caps(
            context,
            left_over,
            lambda row: "an empty slot is linked into the mapping database",
            "cteMDBNode",
            lambda row: f"mdbNext {int(caps.next[row]):#x}, mdbPrev {int(caps.previous[row]):#x}",
            "0, as the slot is empty",
        )
    for name, ahead, back in (("mdbNext", caps.next, caps.previous), ("mdbPrev", caps.previous, caps.next)):
        rows = np.flatnonzero(ahead)
        target = caps.rows_at(ahead[rows])
        missing = (target < 0) | null[target]
        if missing.any():
            judgement.fail_caps(
                context,
                rows[missing],
                partial(_link, "{} is {:#x}, no slot with a capability", name, ahead),
                name,
                partial(_link, "{1:#x}", name, ahead),
                "0 or a slot with a capability",
            )
        one_sided = ~missing & (back[target] != caps.address[rows])
        if one_sided.any():
            judgement.fail_caps(
                context,
                rows[one_sided],
                partial(_link, "{} is {:#x}, which does not name it in turn", name, ahead),
                name,
                partial(_link, "{1:#x}", name, ahead),
                "a slot that names this one in turn",
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
        judgement.fail_caps(
            context,
            looping,
            lambda row: "following mdbNext from here never ends",
            "mdbNext",
            lambda row: hex(int(caps.next[row])),
            "an end",
        )
    return judgement


@invariant("untyped_mdb", family=FAMILY, reference="l4v CSpaceInv_AI: untyped_mdb")
def untyped_mdb(context: Context) -> Judgement:
    """What lies in an untyped's memory descends from the untyped."""
    state = context.state
    caps, derivation = state.caps, state.derivation
    rows = np.flatnonzero(caps.physical & (caps.type != state.layout.cap_types["untyped_cap"]))
    judgement = Judgement(len(rows))
    owner = derivation.innermost(caps.base[rows], caps.last[rows])
    rows, owner = rows[owner >= 0], owner[owner >= 0]
    for index in np.flatnonzero(~derivation.descendants.hold(owner, rows)).tolist()[:MAXIMUM_VIOLATIONS]:
        row, above = int(rows[index]), caps.describe(int(owner[index]))
        judgement.fail_cap(
            caps,
            row,
            "place in the mapping database",
            f"behind {int(caps.previous[row]):#x}",
            f"among the descendants of the untyped_cap at {above['slot']}, in whose memory its object lies",
            memory=f"{int(caps.base[row]):#x}..{int(caps.last[row]):#x}",
            untyped=above,
        )
    return judgement


@invariant(
    "descendants_inc",
    family=FAMILY,
    reference="l4v CSpaceInv_AI: descendants_inc; Refine Invariants_H: mdb_chunked, caps_contained'",
)
def descendants_inc(context: Context) -> Judgement:
    """Capabilities to one object stand together, so that nothing else is among its descendants."""
    state = context.state
    caps, layout = state.caps, state.layout
    chained = state.derivation.chains
    # A word that tells objects apart: physical ones by address, others by what sameObjectAs compares.
    key = np.where(caps.physical, caps.base, np.uint64(0))
    rows = caps.of("reply_cap")
    key[rows] = caps.field("reply_cap", "capTCBPtr", rows)
    rows = caps.of("irq_handler_cap")
    key[rows] = caps.field("irq_handler_cap", "capIRQ", rows)
    skipped = [layout.cap_types[name] for name in ("null_cap", "zombie_cap", "untyped_cap")]
    judged = np.ones(256, np.bool_)
    judged[skipped] = False
    rows = np.flatnonzero(judged[caps.type])
    judgement = Judgement(len(rows))
    rows = rows[np.lexsort((chained.position[rows], key[rows], caps.type[rows]))]
    first, second = rows[:-1], rows[1:]
    same = (key[first] == key[second]) & (caps.type[first] == caps.type[second])
    apart = (chained.position[second] != chained.position[first] + 1) | (chained.chain[second] != chained.chain[first])
    for index in np.flatnonzero(same & apart).tolist()[:MAXIMUM_VIOLATIONS]:
        row, other = int(second[index]), caps.describe(int(first[index]))
        judgement.fail_cap(
            caps,
            row,
            "place in the mapping database",
            f"behind {int(caps.previous[row]):#x}",
            f"next to the other {other['cap']} to the same object, at {other['slot']}",
            other=other,
        )
    return judgement


@invariant("ut_revocable", family=FAMILY, reference="l4v CSpaceInv_AI: ut_revocable")
def ut_revocable(context: Context) -> Judgement:
    """Every untyped is revocable: what was made from it can be taken back."""
    caps = context.state.caps
    rows = caps.of("untyped_cap")
    judgement = Judgement(len(rows))
    for row in rows[~caps.revocable[rows]].tolist()[:MAXIMUM_VIOLATIONS]:
        judgement.fail_cap(caps, row, "mdbRevocable", 0, "1 for an untyped_cap")
    return judgement
