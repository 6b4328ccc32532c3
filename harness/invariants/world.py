# SPDX-License-Identifier: BSD-2-Clause
"""The world family: page tables, capabilities and the config's address map agree on worlds."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.invariants.definitions import Context, Judgement, invariant
from harness.invariants.window import known_window
from harness.kernel_state.capabilities import KERNEL_OBJECTS, CapTable
from harness.kernel_state.memory import PAGE_WORDS, Words, contains, read_optional
from harness.kernel_state.page_tables import Walk

Array = np.ndarray[Any, Any]

FAMILY = "world"
REFERENCE = "docs/invariants.md"
"""This family is the project's own."""
_OF_MEMORY = "that of the memory that it maps"
_LEAF_KIND = {12: "pte", 21: "pde_large", 30: "pude_1g"}


def _last(walk: Walk, rows: Array) -> Words:
    return walk.base[rows] + ((np.uint64(1) << walk.bits[rows].astype(np.uint64)) - np.uint64(1))


def _fail_leaves(
    context: Context, judgement: Judgement, walk: Walk, rows: Array, why: str, expected: str | None
) -> None:
    """Add entries whose effective NS bit must be as expected; `None`: they must not be there."""
    regions = context.regions.covering(walk.base[rows], _last(walk, rows))
    for row, region in zip(rows.tolist()[:16], regions.tolist(), strict=False):
        entry = walk.describe(row)
        place = context.regions.describe(region)
        judgement.fail(
            f"{entry['virtual']} -> {entry['physical']} ({place}) has effective NS={int(walk.ns[row])}: {why}",
            _LEAF_KIND.get(int(walk.bits[row]), "page table entry"),
            **entry,
            region=place,
            field="entry" if expected is None else "effective NS bit",
            found=entry["entry"] if expected is None else str(int(walk.ns[row])),
            expected="none" if expected is None else expected,
        )


@invariant("ns_bit_matches_world", family=FAMILY, reference=REFERENCE)
def ns_bit_matches_world(context: Context) -> Judgement:
    """Each page's effective NS bit is the world of the memory it maps, and of the capability behind it."""
    walk = context.state.user_walk
    rows = np.flatnonzero(walk.leaf)
    judgement = Judgement(len(rows))
    if not len(rows):
        return judgement
    regions = context.regions
    region = regions.covering(walk.base[rows], _last(walk, rows))
    ns = walk.ns[rows]
    good = np.where(ns, regions.non_secure[region], regions.secure[region]) | regions.banked[region]
    if not good.all():
        _fail_leaves(context, judgement, walk, rows[~good], "it is not the world of that memory", _OF_MEMORY)
    differing = _differs_from_capability(context.state.caps, walk, rows) & good
    if differing.any():
        _fail_leaves(
            context, judgement, walk, rows[differing], "the frame capability says otherwise", "that of the frame_cap"
        )
    if walk.overflow:
        judgement.fail("the tables have no end", "page table", tables=walk.tables)
    return judgement


def _differs_from_capability(caps: CapTable, walk: Walk, rows: Array) -> Array:
    """Leaves whose NS bit is that of no frame capability with their base and size, though there are such."""
    frames = caps.of("frame_cap")
    key = (caps.base[frames] & np.uint64(-4096 & ((1 << 64) - 1))) | caps.bits[frames]
    world = caps.non_secure[frames]
    wanted = walk.base[rows] | walk.bits[rows]
    ns = walk.ns[rows]
    with_world = np.sort(key << np.uint64(1) | world)
    same = contains(with_world, wanted << np.uint64(1) | ns)
    other = contains(with_world, wanted << np.uint64(1) | ~ns)
    differs: Array = other & ~same
    return differs


@invariant("no_cross_world_mapping", family=FAMILY, reference=REFERENCE)
def no_cross_world_mapping(context: Context) -> Judgement:
    """The kernel's window maps its regions of the config, each in its own world, and nothing else."""
    known = known_window(context)
    return judge_window(context) if known is None else known.worlds


def judge_window(context: Context) -> Judgement:
    """Judge every entry of the kernel's window."""
    state = context.state
    walk = state.kernel_walk
    rows = np.flatnonzero(walk.leaf)
    judgement = Judgement(len(rows))
    if state.kernel_root != state.global_address("armKSGlobalKernelPGD"):
        judgement.fail(
            f"TTBR1 holds {state.kernel_root:#x}, not armKSGlobalKernelPGD",
            "ttbr1",
            field="TTBR1",
            found=hex(state.kernel_root),
            expected=hex(state.global_address("armKSGlobalKernelPGD")),
        )
    regions = context.regions
    region = regions.covering(walk.base[rows], _last(walk, rows))
    ns = walk.ns[rows]
    good = np.where(ns, regions.non_secure[region], regions.secure[region]) | regions.banked[region]
    inside = regions.window[region]
    if not (good & inside).all():
        _fail_leaves(context, judgement, walk, rows[inside & ~good], "it is not the world of that memory", _OF_MEMORY)
        _fail_leaves(context, judgement, walk, rows[~inside], "the window must not map it", None)
    for row in np.flatnonzero(walk.stray | walk.malformed).tolist()[:16]:
        judgement.fail("the window has a table outside of the kernel's memory", "page table", **walk.describe(row))
    return judgement


@invariant("kernel_objects_in_secure_memory", family=FAMILY, reference=REFERENCE)
def kernel_objects_in_secure_memory(context: Context) -> Judgement:
    """Every kernel object lies in secure general-purpose memory."""
    caps = context.state.caps
    rows = np.concatenate([caps.of(name) for name in KERNEL_OBJECTS])
    judgement = Judgement(len(rows))
    if len(rows):
        region = context.regions.covering(caps.base[rows], caps.last[rows])
        bad = rows[~context.regions.kernel[region]]
        if len(bad):
            judgement.fail_caps(
                context,
                bad,
                lambda row: f"its object lies {_place(context, row)}, not in secure memory of the kernel",
                "place of its object",
                lambda row: _place(context, row),
                "in secure memory of the kernel",
            )
    walk = context.state.user_walk
    for row in np.flatnonzero(walk.stray).tolist()[:16]:
        judgement.fail("a table of an address space lies outside of secure memory", "page table", **walk.describe(row))
    return judgement


def _place(context: Context, row: int) -> str:
    caps = context.state.caps
    region = context.regions.covering(caps.base[row : row + 1], caps.last[row : row + 1])
    return context.regions.describe(int(region[0]))


@invariant("world_is_inherited", family=FAMILY, reference=REFERENCE)
def world_is_inherited(context: Context) -> Judgement:
    """World and device bit of an untyped or frame capability are those of the memory it covers."""
    caps = context.state.caps
    regions = context.regions
    rows = np.concatenate([caps.of("untyped_cap"), caps.of("frame_cap")])
    judgement = Judgement(len(rows))
    if not len(rows):
        return judgement
    region = regions.covering(caps.base[rows], caps.last[rows])
    non_secure, device = caps.non_secure[rows], caps.device[rows]
    good = (
        regions.offered[region]
        & (regions.banked[region] | (non_secure == regions.non_secure[region]))
        & (device == regions.device[region])
    )
    if not good.all():
        # Memory of the firmware is what el3_untouched is about.
        bad = rows[~good & ~context.regions.firmware(caps.base[rows], caps.last[rows])]
        judgement.fail_caps(
            context,
            bad,
            lambda row: (
                f"it says {'non-secure' if caps.non_secure[row] else 'secure'}, "
                f"{'device' if caps.device[row] else 'general-purpose'}, and its memory lies {_place(context, row)}"
            ),
            "world and device",
            lambda row: f"non-secure={int(caps.non_secure[row])}, device={int(caps.device[row])}",
            "those of the memory that it covers",
        )
    return judgement


@invariant("ipc_buffer_not_device", family=FAMILY, reference=REFERENCE)
def ipc_buffer_not_device(context: Context) -> Judgement:
    """The frame in a thread's IPC buffer slot is general-purpose memory."""
    state = context.state
    caps = state.caps
    rows = caps.rows_at(state.thread_slot("tcbBuffer"))
    rows = rows[rows >= 0]
    rows = rows[caps.type[rows] != state.layout.cap_types["null_cap"]]
    judgement = Judgement(len(rows))
    if not len(rows):
        return judgement
    frame = caps.type[rows] == state.layout.cap_types["frame_cap"]
    if not frame.all():
        judgement.fail_caps(
            context,
            rows[~frame],
            lambda row: "a thread's IPC buffer slot holds no frame capability",
            "tcbBuffer",
            caps.type_name,
            "frame_cap or null_cap",
        )
    frames = rows[frame]
    region = context.regions.covering(caps.base[frames], caps.last[frames])
    bad = frames[caps.device[frames] | ~context.regions.ram[region]]
    if len(bad):
        judgement.fail_caps(
            context,
            bad,
            lambda row: f"a thread's IPC buffer lies {_place(context, row)}",
            "tcbBuffer",
            lambda row: _place(context, row),
            "in general-purpose memory",
        )
    return judgement


@invariant("el3_untouched", family=FAMILY, reference=REFERENCE)
def el3_untouched(context: Context) -> Judgement:
    """EL3's text, constants and SCR_EL3 are as built, and no capability or mapping covers its memory."""
    state = context.state
    caps = state.caps
    regions = context.regions
    rows = np.flatnonzero(caps.physical)
    bad = rows[regions.firmware(caps.base[rows], caps.last[rows])]
    walk = state.user_walk
    judgement = Judgement(len(rows) + len(walk))
    if len(bad):
        judgement.fail_caps(
            context,
            bad,
            lambda row: "it covers memory of the firmware",
            "memory of its object",
            lambda row: f"{int(caps.base[row]):#x}..{int(caps.last[row]):#x}",
            "none of the firmware's",
        )
    valid = np.flatnonzero(~walk.malformed)
    touching = valid[regions.firmware(walk.base[valid], _last(walk, valid))]
    if len(touching):
        _fail_leaves(context, judgement, walk, touching, "it is memory of the firmware", None)
    report, expected = state.report, context.facts.scr_el3
    if report is not None and expected:
        judgement.judged += 1
        if int(report["scr_el3"]) not in expected:
            value, right = int(report["scr_el3"]), " or ".join(map(hex, sorted(expected)))
            judgement.fail(
                f"SCR_EL3 is {value:#x}, not {right}",
                "scr_el3",
                field="SCR_EL3",
                found=hex(value),
                expected=right,
            )
    for address, content in context.facts.constants:
        data = read_optional(state.memory, address, len(content))
        if data is not None:
            judgement.judged += len(content) // (8 * PAGE_WORDS) + 1
            if data != content:
                first = next(i for i, (a, b) in enumerate(zip(data, content, strict=True)) if a != b)
                judgement.fail(
                    f"the firmware's memory changed at {address + first:#x}", "el3", address=hex(address + first)
                )
    return judgement
