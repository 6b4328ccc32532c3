# SPDX-License-Identifier: BSD-2-Clause
"""Whether the kernel has handed out all memory at boot, and each byte of it once.

The kernel's memory is its image, the objects that it made for itself and the initial thread, and untypeds that the
boot information tells; other memory that is offered is untypeds only. What is told never changes. The objects are
those outside of all told untypeds, by whatever capability names them: nothing that is made later can lie there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.configs import Region, Use
from harness.invariants.definitions import Context, Judgement
from harness.invariants.untyped import MINIMUM_BITS
from harness.kernel_state.memory import Words
from harness.kernel_state.objects import BootInfo
from harness.kernel_state.state import ContainerKind, KernelState

Array = np.ndarray[Any, Any]

_NO_SLOT = -1


@dataclass(frozen=True, order=True)
class Part:
    """A part of memory, from `start` up to `end`; `row`: one capability to it, if it is known by its capability."""

    start: int
    end: int
    what: str
    row: int = _NO_SLOT
    told: bool = False
    """It is an untyped of the boot information. What shares memory with other objects is for others to judge."""


def judge_memory(context: Context, info: BootInfo, judgement: Judgement) -> None:
    """Each region that is offered is parted without gaps and overlaps."""
    if not any(container.kind is ContainerKind.IRQ_NODE for container in context.state.containers):
        return  # valid_irq_node says so
    told = _told(info)
    kernel = kernel_parts(context.state, info)
    for region in context.regions.regions:
        if region.use in (Use.KERNEL, Use.UNTYPED):
            inside = [part for part in told if region.covers(part.start)]
            parts = sorted([*inside, *kernel] if region.use is Use.KERNEL else inside)
            judgement.judged += len(parts)
            _judge_region(region, parts, judgement)


def _told(info: BootInfo) -> list[Part]:
    return [Part(u.base, u.base + (1 << u.bits), f"the untyped of slot {u.slot}", told=True) for u in info.untypeds]


def kernel_parts(state: KernelState, info: BootInfo) -> list[Part]:
    """The kernel's image without its boot part, and the objects in the kernel's memory that no told untyped holds."""
    layout, caps = state.layout, state.caps
    node = layout.physical(state.global_word("intStateIRQNode"))
    lines = len(state.global_words("intStateIRQTable"))
    idle = state.pointer("ksIdleThread") - layout.tcb_offset
    parts = [
        Part(*layout.image, "the kernel's image"),
        Part(node, node + (lines << layout.slot_bits), "the IRQ node"),
        Part(idle, idle + (1 << layout.tcb_bits), "the idle thread"),
    ]
    ram = state.config.secure_ram
    rows = np.flatnonzero(caps.physical & (caps.type != layout.cap_types["untyped_cap"]))
    rows = rows[(caps.base[rows] >= np.uint64(ram.base)) & (caps.last[rows] < np.uint64(ram.end))]
    rows = rows[~_in_untyped(info, caps.base[rows])]
    found = state.initial_cnode
    own = caps.container[found[0]] if found is not None else _NO_SLOT
    first: dict[tuple[int, int], int] = {}
    for row in rows[np.argsort(caps.container[rows] != own, kind="stable")].tolist():
        first.setdefault((int(caps.base[row]), int(caps.bits[row])), row)
    return parts + [Part(base, base + (1 << bits), f"a {caps.type_name(row)}", row)
                    for (base, bits), row in first.items()]  # fmt: skip


def _in_untyped(info: BootInfo, base: Words) -> Array:
    """Whether each address lies in an untyped that was told."""
    told = sorted((untyped.base, untyped.bits) for untyped in info.untypeds)
    if not told:
        return np.zeros(len(base), np.bool_)
    starts = np.array([start for start, _ in told], np.uint64)
    ends = np.array([(start + (1 << bits)) & (1 << 64) - 1 for start, bits in told], np.uint64)
    place = np.searchsorted(starts, base, side="right") - 1
    inside: Array = (place >= 0) & (base < ends[place])
    return inside


def _judge_region(region: Region, parts: list[Part], judgement: Judgement) -> None:
    before = Part(region.base, region.base, f"the start of {region.name}")
    for part in [*parts, Part(region.end, region.end, f"the end of {region.name}")]:
        if part.start < before.end and (part.told or before.told):
            place = f"memory of {region.name} at {part.start:#x}"
            judgement.fail_field(place, "boot memory", "owner", f"{before.what} and {part.what}", "one of them")
        for gap in _usable(before.end, part.start):
            judgement.fail_field(
                f"memory of {region.name} at {gap:#x}",
                "boot memory",
                "owner",
                f"nobody, between {before.what} and {part.what}",
                "the kernel's image, an object of its own or the initial thread's, or an untyped",
            )
        before = max(before, part, key=lambda one: one.end)


def _usable(start: int, end: int) -> Iterator[int]:
    """Where the part of a gap begins that an untyped could cover, if there is one."""
    smallest = 1 << MINIMUM_BITS
    first = -(-start // smallest) * smallest
    if first + smallest <= end:
        yield first
