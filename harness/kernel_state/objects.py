# SPDX-License-Identifier: BSD-2-Clause
"""Boot information, as the kernel left it for the initial thread."""

from __future__ import annotations

from dataclasses import dataclass

from harness.kernel_state.layout import Layout
from harness.kernel_state.memory import MemoryImage, read_optional


@dataclass(frozen=True)
class BootUntyped:
    """An untyped capability of the boot information: physical address and binary logarithm of its bytes."""

    slot: int
    base: int
    bits: int
    device: bool
    non_secure: bool


@dataclass(frozen=True)
class BootInfo:
    """What the kernel told the initial thread (seL4_BootInfo)."""

    address: int
    fields: dict[str, int]
    regions: dict[str, tuple[int, int]]
    """Slot regions by name: first slot, slot behind the last."""
    untypeds: tuple[BootUntyped, ...]


def read_boot_info(layout: Layout, memory: MemoryImage, address: int) -> BootInfo | None:
    """The boot information in the frame at a physical address; None if it cannot be one."""
    struct = layout.struct("seL4_BootInfo")
    data = read_optional(memory, address, struct.size)
    if data is None:
        return None

    def number(offset: int, size: int) -> int:
        return int.from_bytes(data[offset : offset + size], "little")

    fields: dict[str, int] = {}
    regions: dict[str, tuple[int, int]] = {}
    for name, member in struct.members.items():
        if member.type == "seL4_SlotRegion":
            regions[name] = (number(member.offset, 8), number(member.offset + 8, 8))
        elif not member.dimensions:
            fields[name] = number(member.offset, member.size)
    first, last = regions.get("untyped", (0, 0))
    described = struct["untypedList"]
    limit = described.dimensions[0] if described.dimensions else 0
    if not 0 <= last - first <= limit:
        return None
    entry = layout.struct("seL4_UntypedDesc")
    world = next((member for name, member in entry.members.items() if "nonsecure" in name.lower()), None)
    found = []
    for index in range(last - first):
        start = described.offset + index * entry.size
        values = {name: number(start + m.offset, m.size) for name, m in entry.members.items()}
        non_secure = bool(number(start + world.offset, world.size)) if world else False
        found.append(
            BootUntyped(first + index, values["paddr"], values["sizeBits"], bool(values["isDevice"]), non_secure)
        )
    return BootInfo(address, fields, regions, tuple(found))
