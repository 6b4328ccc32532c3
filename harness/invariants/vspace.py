# SPDX-License-Identifier: BSD-2-Clause
"""Address spaces: what their tables hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.invariants.definitions import MAXIMUM_VIOLATIONS, Context, Judgement, invariant
from harness.kernel_state.memory import Words

Array = np.ndarray[Any, Any]

FAMILY = "vspace"
# The capability type of the table that an entry of each level points to.
_NEXT = ("page_upper_directory_cap", "page_directory_cap", "page_table_cap")


def _in(ordered: Words, wanted: Words) -> Array:
    if not len(ordered):
        return np.zeros(len(wanted), np.bool_)
    found: Array = ordered[np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)] == wanted
    return found


@invariant("valid_vspace_objs", family=FAMILY, reference="l4v ARM_HYP/ArchInvariants_AI: valid_vspace_objs, valid_pte")
def valid_vspace_objs(context: Context) -> Judgement:
    """Every entry that an address space reaches points to a table of the next level or to a frame."""
    state = context.state
    caps, walk = state.caps, state.user_walk
    judgement = Judgement(len(walk) + len(walk.roots))

    def fail(rows: Array, message: str, kind: str) -> None:
        for row in rows.tolist()[:MAXIMUM_VIOLATIONS]:
            entry = walk.describe(row)
            judgement.fail(f"{entry['table']}[{entry['index']}] = {entry['entry']}: {message}", kind, **entry)

    fail(np.flatnonzero(walk.malformed), "this encoding is reserved", "page table entry")
    fail(np.flatnonzero(walk.stray), "the table lies outside of secure memory", "page table entry")
    table = ~walk.leaf & ~walk.malformed & ~walk.stray
    for level, name in enumerate(_NEXT):
        rows = np.flatnonzero(table & (walk.level == level))
        known = np.sort(caps.base[caps.of(name)])
        missing = rows[~_in(known, walk.base[rows])]
        fail(missing, f"no {name} has the table that it points to", "page table entry")
    rows = np.flatnonzero(walk.leaf)
    frames = caps.of("frame_cap")
    known = np.sort(caps.base[frames] | caps.bits[frames])
    fail(rows[~_in(known, walk.base[rows] | walk.bits[rows])], "no frame has this base and size", "page table entry")
    roots = set(caps.base[caps.of("page_global_directory_cap")].tolist())
    roots.add(state.global_address("armKSGlobalUserPGD"))
    for root, asids in zip(state.vspaces.roots, state.vspaces.asids, strict=True):
        if root not in roots:
            leads = f"ASID {asids[0]}" if asids else "TTBR0"
            judgement.fail(
                f"{leads} leads to {root:#x}, which is no page global directory",
                "asid_pool",
                root=hex(root),
                asids=list(asids),
            )
    if walk.overflow:
        judgement.fail("the tables have no end", "page table", tables=walk.tables)
    return judgement
