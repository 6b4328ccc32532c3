# SPDX-License-Identifier: BSD-2-Clause
"""What the kernel has told the initial thread (seL4_BootInfo), against what that thread has and the machine config.

The initial thread reads it and never writes it, so it can be judged after any program. Slots may be empty: the initial
thread hands capabilities out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.invariants.boot_memory import judge_memory
from harness.invariants.boot_space import judge_initial_space
from harness.invariants.definitions import Context, Judgement, invariant
from harness.kernel_state.layout import PAGE_BITS
from harness.kernel_state.objects import BootInfo

Array = np.ndarray[Any, Any]

FAMILY = "objects"
_PAGE = 1 << PAGE_BITS
_KIND = "boot information"
_NOT_HERE = ("sharedFrames", "ioSpaceCaps", "extraBIPages")
"""Regions of slots that one processor without an SMMU and without further information has nothing for."""
_HOLDS = {
    "userImageFrames": ("frame_cap",),
    "userImagePaging": ("page_upper_directory_cap", "page_directory_cap", "page_table_cap"),
    "untyped": ("untyped_cap",),
}


@invariant("boot_information", family=FAMILY, reference="seL4 manual: initial thread's environment")
def boot_information(context: Context) -> Judgement:
    """What the kernel told the initial thread is what it has: regions of slots, untypeds, addresses."""
    state = context.state
    found = state.initial_cnode
    judgement = Judgement()
    known = context.facts.boot
    if found is not None and known is not None and np.array_equal(state.ram.words[known.numbers], known.words):
        return known.judgement
    info = state.boot_info
    if found is None or info is None:
        judgement.fail_field("initial thread", _KIND, "seL4_BootInfo", "not found", "in the frame that its slot names")
        return judgement
    judgement.judged = len(info.fields) + len(info.regions) + len(info.untypeds)
    caps, cnode = state.caps, found[0]
    rows = np.flatnonzero(caps.container == caps.container[cnode])
    held = dict(zip(caps.index[rows].tolist(), rows.tolist(), strict=True))
    slots = 1 << int(caps.field("cnode_cap", "capCNodeRadix", _one(cnode))[0])
    _judge_fields(context, info, found[1], slots, judgement)
    _judge_regions(context, info, held, slots, judgement)
    _judge_image(context, info, held, judgement)
    judge_initial_space(context, info, held, judgement)
    _judge_untypeds(context, info, held, judgement)
    judge_memory(context, info, judgement)
    return judgement


def _one(row: int) -> Array:
    """One row of the table of capabilities, as its methods take them."""
    return np.array([row], np.int64)


def _fail(judgement: Judgement, field: str, found: object, expected: object) -> None:
    judgement.fail_field("seL4_BootInfo", _KIND, field, found, expected)


def _judge_fields(context: Context, info: BootInfo, frame: int, slots: int, judgement: Judgement) -> None:
    """One processor, nothing besides seL4_BootInfo itself; the IPC buffer lies in front of it."""
    state = context.state
    expected = {
        "extraLen": 0,
        "nodeID": 0,
        "numNodes": 1,
        "numIOPTLevels": 0,
        "archInfo": 0,
        "initThreadCNodeSizeBits": slots.bit_length() - 1,
        "initThreadDomain": int(state.global_words("ksDomSchedule")[0]),
    }
    if (address := _mapped(context, frame)) is not None:
        expected["ipcBuffer"] = address - _PAGE
    for name, value in expected.items():
        if (found := info.fields.get(name, value)) != value:
            _fail(judgement, name, hex(found), hex(value))


def _mapped(context: Context, row: int) -> int | None:
    """Where a frame is mapped, as its capability says; None if it is not."""
    caps = context.state.caps
    if not int(caps.field("frame_cap", "capFMappedASID", _one(row))[0]):
        return None
    return int(caps.field("frame_cap", "capFMappedAddress", _one(row))[0])


def _judge_regions(context: Context, info: BootInfo, held: dict[int, int], slots: int, judgement: Judgement) -> None:
    """Tables first, then the image, and untypeds apart; slots hold what they are for, or nothing; the rest is empty."""
    caps = context.state.caps
    first = context.state.layout.constant("seL4_NumInitialCaps")
    for name in _NOT_HERE:
        if info.regions.get(name, (0, 0)) != (0, 0):
            _fail(judgement, name, _shown(info.regions[name]), "empty")
    last = first
    names: dict[int, str] = {}
    for name, types in _HOLDS.items():
        start, end = info.regions.get(name, (first, first))
        if not first <= start <= end <= slots:
            _fail(judgement, name, _shown((start, end)), f"slots {first} to {slots - 1}")
            continue
        last = max(last, end)
        for slot in range(start, end):
            if slot in names:
                _fail(judgement, name, _shown((start, end)), f"apart from {names[slot]}")
                break
            names[slot] = name
            if slot in held and caps.type_name(held[slot]) not in types:
                _fail(judgement, f"{name}, slot {slot}", caps.type_name(held[slot]), " or ".join(types))
    tables = info.regions.get("userImagePaging", (first, first))
    if tables[0] != first:
        _fail(judgement, "userImagePaging", _shown(tables), f"from slot {first} on")
    if info.regions.get("userImageFrames", (tables[1], 0))[0] != tables[1]:
        _fail(judgement, "userImageFrames", _shown(info.regions["userImageFrames"]), f"from slot {tables[1]} on")
    if info.regions.get("empty", (last, slots)) != (last, slots):
        _fail(judgement, "empty", _shown(info.regions["empty"]), _shown((last, slots)))


def _shown(region: tuple[int, int]) -> str:
    return f"{region[0]}..{region[1]}"


def _judge_image(context: Context, info: BootInfo, held: dict[int, int], judgement: Judgement) -> None:
    """The frames of the initial thread's image lie one behind the other, in memory and up to the IPC buffer."""
    caps = context.state.caps
    start, end = info.regions.get("userImageFrames", (0, 0))
    buffer, base = info.fields.get("ipcBuffer", 0), None
    for slot in range(start, end):
        row = held.get(slot)
        if row is None or caps.type_name(row) != "frame_cap":
            continue
        if base is None:
            base = int(caps.base[row]) - (slot - start) * _PAGE
        expected = {"memory": base + (slot - start) * _PAGE, "bits": PAGE_BITS, "non-secure": 0, "device": 0}
        found = {
            "memory": int(caps.base[row]),
            "bits": int(caps.bits[row]),
            "non-secure": int(caps.non_secure[row]),
            "device": int(caps.device[row]),
        }
        if (address := _mapped(context, row)) is not None:
            expected["address"], found["address"] = buffer - (end - slot) * _PAGE, address
        for name, value in expected.items():
            if found[name] != value:
                _fail(judgement, f"userImageFrames, slot {slot}, {name}", hex(found[name]), hex(value))


def _judge_untypeds(context: Context, info: BootInfo, held: dict[int, int], judgement: Judgement) -> None:
    """Each untyped is as it is described, and lies in memory of that world and kind."""
    caps, regions = context.state.caps, context.regions
    base = np.array([untyped.base for untyped in info.untypeds], np.uint64)
    last = np.array([(untyped.base + (1 << untyped.bits) - 1) & (1 << 64) - 1 for untyped in info.untypeds], np.uint64)
    for untyped, region in zip(info.untypeds, regions.covering(base, last).tolist(), strict=True):
        place = f"untypedList, slot {untyped.slot}"
        world_fits = regions.banked[region] or untyped.non_secure == regions.non_secure[region]
        if not (regions.offered[region] and world_fits and untyped.device == regions.device[region]):
            _fail(judgement, place, _described(untyped.base, untyped.bits, untyped.non_secure, untyped.device),
                  f"memory of that world and kind; it lies {regions.describe(region)}")  # fmt: skip
        row = held.get(untyped.slot)
        if row is None or caps.type_name(row) != "untyped_cap":
            continue
        told = _described(untyped.base, untyped.bits, untyped.non_secure, untyped.device)
        real = _described(int(caps.base[row]), int(caps.bits[row]), bool(caps.non_secure[row]), bool(caps.device[row]))
        if told != real:
            _fail(judgement, place, told, f"as the capability: {real}")


def _described(base: int, bits: int, non_secure: bool, device: bool) -> str:
    world, kind = "non-secure" if non_secure else "secure", "device" if device else "general-purpose"
    return f"{base:#x}, 2^{bits} bytes, {world}, {kind}"
