# SPDX-License-Identifier: BSD-2-Clause
"""Untyped memory: what lies in it, and what it still offers."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.invariants.definitions import MAXIMUM_VIOLATIONS, Context, Judgement, invariant
from harness.kernel_state.capabilities import CapTable, Indices
from harness.kernel_state.memory import Words

Array = np.ndarray[Any, Any]

FAMILY = "untyped"
MINIMUM_BITS = 4
MAXIMUM_BITS = 47
"""Binary logarithm of the bytes of an untyped (seL4_MinUntypedBits, seL4_MaxUntypedBits).

The free index counts units of 2^MINIMUM_BITS bytes.
"""


def free_start(caps: CapTable, rows: Indices) -> Words:
    """Physical address at which the free part of each untyped begins (its end plus one if it is full)."""
    return caps.base[rows] + (caps.field("untyped_cap", "capFreeIndex", rows) << np.uint64(MINIMUM_BITS))


@invariant("valid_untyped", family=FAMILY, reference="l4v Invariants_AI: valid_cap (UntypedCap), valid_untyped")
def valid_untyped(context: Context) -> Judgement:
    """An untyped is aligned, its free index fits, and objects lie wholly inside it and before its free part."""
    caps = context.state.caps
    rows = caps.of("untyped_cap")
    judgement = Judgement(len(rows))
    if not len(rows):
        return judgement
    base, last, bits = caps.base[rows], caps.last[rows], caps.bits[rows]
    odd = (bits < MINIMUM_BITS) | (bits > MAXIMUM_BITS) | (base & (last - base) != 0)
    if odd.any():
        judgement.fail_caps(
            context,
            rows[odd],
            lambda row: "its size or alignment is impossible",
            "capPtr and capBlockSize",
            lambda row: f"{int(caps.base[row]):#x}, {int(caps.bits[row])}",
            f"a multiple of its size, which is 2^{MINIMUM_BITS} to 2^{MAXIMUM_BITS}",
        )
    free = free_start(caps, rows)
    overfull = ~odd & (free > last + np.uint64(1))
    if overfull.any():
        judgement.fail_caps(
            context,
            rows[overfull],
            lambda row: "its free index lies behind its end",
            "capFreeIndex",
            lambda row: hex(int(caps.field("untyped_cap", "capFreeIndex", np.array([row]))[0])),
            "at most its size",
        )
    usable = np.flatnonzero(~odd & ~overfull)
    objects = np.flatnonzero(caps.physical & (caps.type != context.state.layout.cap_types["untyped_cap"]))
    if not len(objects) or not len(usable):
        return judgement
    order = objects[np.argsort(caps.base[objects], kind="stable")]
    start, end = caps.base[order], caps.last[order]
    reach = np.maximum.accumulate(end)
    base, last, free, rows = base[usable], last[usable], free[usable], rows[usable]
    first = np.searchsorted(start, base)
    behind = np.searchsorted(start, last, side="right")
    in_free = np.searchsorted(start, free)
    before = np.where(first > 0, reach[first - 1], 0)
    inside = np.where(behind > first, reach[behind - 1], 0)
    below = np.where(in_free > first, reach[in_free - 1], 0)
    # An object that begins before the untyped and ends in it or behind it; one that begins in it and ends behind it.
    crossing = ((first > 0) & (before >= base)) | ((behind > first) & (inside > last))
    # An object that begins in the free part, or reaches into it.
    in_use = (free <= last) & ((in_free < behind) | ((in_free > first) & (below >= free)))
    for index in np.flatnonzero(crossing | in_use).tolist()[:MAXIMUM_VIOLATIONS]:
        row = int(rows[index])
        low, high = int(base[index] if crossing[index] else free[index]), int(last[index])
        guilty = order[(start <= np.uint64(high)) & (end >= np.uint64(low))]
        if crossing[index]:
            guilty = guilty[(caps.base[guilty] < base[index]) | (caps.last[guilty] > last[index])]
        described = caps.describe(row)
        judgement.fail(
            f"untyped_cap at {described['slot']}: "
            + ("an object lies only partly in it" if crossing[index] else "an object lies in its free part"),
            "untyped_cap",
            untyped=described,
            memory=f"{int(base[index]):#x}..{int(last[index]):#x}",
            free=hex(int(free[index])),
            field="objects in its memory" if crossing[index] else "capFreeIndex",
            found="one that lies only partly in it" if crossing[index] else f"free from {int(free[index]):#x}",
            expected="wholly inside of it" if crossing[index] else "free behind all objects",
            objects=[caps.describe(int(r)) for r in guilty[:4]],
        )
    return judgement


@invariant("untyped_inc", family=FAMILY, reference="l4v CSpaceInv_AI: untyped_inc")
def untyped_inc(context: Context) -> Judgement:
    """Two untypeds are apart or one descends from the other, and its parent offers nothing of it."""
    caps = context.state.caps
    rows = caps.of("untyped_cap")
    judgement = Judgement(len(rows))
    if len(rows) < 2:
        return judgement
    derivation = context.state.derivation
    rows, outside = derivation.untypeds
    inner = np.flatnonzero(outside >= 0)
    row, above = rows[inner], rows[outside[inner]]
    overlaps = caps.last[row] > caps.last[above]
    stranger = ~derivation.descendants.hold(above, row)
    free = caps.last[row] >= free_start(caps, above)
    for index in np.flatnonzero(overlaps | stranger | free).tolist()[:MAXIMUM_VIOLATIONS]:
        if overlaps[index]:
            wrong = "overlaps another untyped that does not hold it"
        elif stranger[index]:
            wrong = "lies in another untyped from which it does not descend"
        else:
            wrong = "lies in the free part of the untyped that holds it"
        described = caps.describe(int(row[index]))
        judgement.fail(
            f"untyped_cap at {described['slot']} {wrong}",
            "untyped_cap",
            inner=described,
            outer=caps.describe(int(above[index])),
            field="memory of the untyped",
            found=f"{int(caps.base[row[index]]):#x}..{int(caps.last[row[index]]):#x}",
            expected="apart from other untypeds, or in a used part of one that it descends from",
        )
    return judgement
