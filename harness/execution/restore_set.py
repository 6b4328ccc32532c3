# SPDX-License-Identifier: BSD-2-Clause
"""The memory that a program can change, so that only this is compared and restored.

It is computed from the kernel's symbols, from what the root task reports about where its
population lies, and from the normal world's program where there is one. That nothing else
changes is not assumed: audits compare all memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness import protocol
from harness.build.artefacts import Artefacts
from harness.errors import ImageError
from harness.kernel_state.elf import Elf
from harness.machine.memory import MachineMemory
from harness.programs.normal_calls import own_page
from harness.protocol import PAGE, PopulationKind

CONSTANT_OBJECTS = frozenset({"armKSGlobalKernelPDs", "armKSGlobalKernelPTs"})
"""Kernel variables that are not compared: the kernel's own window, 2 MiB that are written at boot only."""

_MUTABLE = frozenset(
    {
        PopulationKind.KERNEL_OBJECT,
        PopulationKind.CNODE,
        PopulationKind.TCB,
        PopulationKind.ENDPOINT,
        PopulationKind.NOTIFICATION,
        PopulationKind.PAGE_TABLE,
        PopulationKind.STATE,
        PopulationKind.SUPERVISOR,
    }
)
INTERRUPT_NODE_BYTES = 1 << 13
"""2^IRQ_CNODE_BITS of the kernel's platform: a slot for each of 256 interrupts."""
Range = tuple[int, int]
"""Physical address and size in bytes."""


def restore_set(artefacts: Artefacts, memory: MachineMemory) -> list[Range]:
    """Page-aligned ranges, sorted by physical address, of a machine at its first park.

    Raises ImageError if there are more than the plugin takes, or the root task reports nothing.
    """
    kernel = Elf(artefacts.kernel_elf)
    ranges = [*kernel_data(kernel), interrupt_node(kernel, memory), *population(artefacts, memory).objects]
    ranges += normal_world(artefacts)
    merged = join(ranges, protocol.RESTORE_RANGES)
    for address, size in merged:
        memory.view(address, size)
    return merged


def kernel_data(kernel: Elf) -> list[Range]:
    """The kernel's writable sections (its stack is in one of them) without the constant objects."""
    ranges: list[Range] = []
    constant = sorted(
        (kernel.symbols[name].address, kernel.symbols[name].size) for name in CONSTANT_OBJECTS & set(kernel.symbols)
    )
    for section in kernel.sections:
        # Sections of boot code are writable as well: they hold instructions.
        if not section.writable or section.executable:
            continue
        start, end = section.address, section.address + section.size
        for address, size in constant:
            # Only whole pages of a constant object can be left out.
            first, last = -(-address // PAGE) * PAGE, (address + size) // PAGE * PAGE
            if start <= first < last <= end:
                ranges.append((kernel.physical(start), first - start))
                start = last
        ranges.append((kernel.physical(start), end - start))
    return [(address, size) for address, size in ranges if size > 0]


def interrupt_node(kernel: Elf, memory: MachineMemory) -> Range:
    """The kernel's table of the interrupts' notifications: it takes its memory when it boots, where it likes."""
    pointer = kernel.symbols["intStateIRQNode"].address
    place = kernel.physical(pointer)
    node = int.from_bytes(memory.read(place, 8), "little")
    return node - (pointer - place), INTERRUPT_NODE_BYTES


def normal_world(artefacts: Artefacts) -> list[Range]:
    """What the normal world's program writes to, and what trusted services do: shared pages, and one of its own."""
    place, program = artefacts.config.normal_world, artefacts.normal_world_elf
    if place is None or program is None:
        return []
    symbols = Elf(program).symbols
    start, end = symbols["writable_start"].address, symbols["writable_end"].address
    return [(start, end - start), (own_page(place), PAGE), (place.shared.base, place.shared.size)]


@dataclass(frozen=True)
class Population:
    """Where the root task's objects lie that programs can change, by its own report."""

    objects: list[Range]
    """What belongs to the restore set: kernel objects, small frames, the victims' pages, the secure arena."""
    large_frames: list[Range]
    arena: list[Range]
    """The non-secure arena: the kernel writes there only where a program makes one of its frames an IPC buffer."""


def population(artefacts: Artefacts, memory: MachineMemory) -> Population:
    """Read the root task's report; raises ImageError if it reports an error or nothing."""
    data = memory.read(artefacts.config.exchange.base + protocol.POPULATION_OFFSET, protocol.POPULATION.itemsize)
    report = np.frombuffer(data, protocol.POPULATION, 1)[0]
    entries = int(report["entries"])
    if int(report["error"]) or not 0 < entries <= protocol.MAXIMUM_POPULATION_ENTRIES:
        raise ImageError(
            f"the root task's population report is not usable: step {report['step']}, error {report['error']}, "
            f"detail {int(report['detail']):#x}, {entries} entries"
        )
    secure = artefacts.config.secure_ram
    found = Population([], [], [])
    for entry in report["entry"][:entries]:
        kind, address, size = int(entry["kind"]), int(entry["address"]), int(entry["size"])
        if kind == PopulationKind.FRAME:
            (found.objects if size == PAGE else found.large_frames).append((address, size))
        elif kind == PopulationKind.ARENA:
            (found.objects if secure.covers(address, size) else found.arena).append((address, size))
        elif kind in _MUTABLE:
            found.objects.append((address, size))
    return found


def join(ranges: Iterable[Range], limit: int) -> list[Range]:
    """The same pages, or a few more, as at most `limit` sorted ranges of whole pages.

    Ranges that touch become one; then the smallest gaps between ranges are closed.
    """
    joined: list[list[int]] = []
    for start, end in sorted((base & -PAGE, -(-(base + size) // PAGE) * PAGE) for base, size in ranges if size > 0):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    while len(joined) > limit:
        gaps = [after[0] - before[1] for before, after in pairwise(joined)]
        nearest = gaps.index(min(gaps))
        if gaps[nearest] > 1 << 20:
            raise ImageError(f"the restore set has over {limit} parts: raise RESTORE_RANGES in harness/protocol.py")
        joined[nearest][1] = joined.pop(nearest + 1)[1]
    return [(start, end - start) for start, end in joined]
