# SPDX-License-Identifier: BSD-2-Clause
"""What a victim's load or store must come to, by the tables of its address space: a value, or a fault and its message.

The architecture decides (Arm Architecture Reference Manual: VMSAv8-64 translation, ESR_ELx of a data abort); the kernel
only hands on what it is told. A translation that it has taken away is gone: the processor keeps none of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.errors import BothworldsError
from harness.kernel_state.state import KernelState
from harness.protocol import CallState
from harness.specification.answers import NotCoveredError
from harness.specification.lookups import PT_SHIFT, entry_address, is_block, is_table
from harness.specification.memory import Memory

USER_BITS = 48
_LEVELS = (39, 30, 21, 12)
_ADDRESS = ((1 << USER_BITS) - 1) & ~0xFFF
_ACCESS_SHIFT = 6
_READ_ONLY, _READ_WRITE = 0b11, 0b01
"""AP[2:1] with which EL0 may read, and read and write."""
_DATA_ABORT = 0x24 << 26 | 1 << 25
"""ESR_ELx: exception class of a data abort from EL0, and its instruction has 32 bits."""
_TRANSLATION, _PERMISSION, _WRITE = 0b000100, 0b001100, 1 << 6
"""Fault status codes, to which the level is added, and WnR."""


@dataclass(frozen=True)
class Access:
    """A load or store of eight bytes: its virtual address."""

    address: int
    write: bool


def _walk(memory: Memory, root: int, access: Access) -> tuple[int, int]:
    """The physical address and 0; or 0 and the fault's syndrome."""
    write = _WRITE if access.write else 0
    for level, shift in enumerate(_LEVELS):
        place = entry_address(memory, root, access.address, shift)
        if not isinstance(place, int):
            raise NotCoveredError("a table that is not there")
        entry = memory.word(place)
        if not entry & 1:
            return 0, _DATA_ABORT | write | _TRANSLATION + level
        page = is_table(entry) if shift == PT_SHIFT else level > 0 and is_block(entry)
        if page:
            allowed = entry >> _ACCESS_SHIFT & 3
            if allowed != _READ_WRITE and (access.write or allowed != _READ_ONLY):
                return 0, _DATA_ABORT | write | _PERMISSION + level
            inner = (1 << shift) - 1
            return entry & _ADDRESS & ~inner | access.address & inner, 0
    raise NotCoveredError("an entry that the architecture reserves")


def wrong_access(state: KernelState, root: int, access: Access, result: Any, fault: int) -> str:
    """What is wrong with the result of an access (protocol.RESULT) in the state before it; empty if nothing is.

    `root`: physical address of the level-0 table; `fault`: how the kernel numbers faults of virtual memory.
    NotCoveredError for what is not known, such as the value that a device gives.
    """
    if access.address >> USER_BITS or access.address & 7:
        raise NotCoveredError("an address that is not a user's, or spans two words")
    physical, syndrome = _walk(Memory(state.layout, state.ram), root, access)
    faulted = int(result["state"]) == CallState.FAULTED
    if syndrome:
        wanted = [access.address, 0, syndrome]
        if not faulted:
            return "it did not fault, though the tables do not allow it" if not int(result["error"]) else ""
        found = [int(word) for word in result["mr"][1:4]]
        if int(result["error"]) != fault or found != wanted:
            told = f"fault {int(result['error'])} {list(map(hex, found))}"
            return f"it ended with {told} and not {fault} {list(map(hex, wanted))}"
        return ""
    region = state.config.region_at(physical)
    if region is None or region.kind != "ram":
        raise NotCoveredError("what a device answers")
    if faulted:
        return "it faulted, though the tables allow it"
    if access.write:
        return ""
    try:
        held = int.from_bytes(state.memory.read(physical, 8), "little")
    except BothworldsError as error:
        raise NotCoveredError("memory that is not known") from error
    value = int(result["mr"][0])
    return "" if value == held else f"it gave {value:#x} and not {held:#x}, which lies at {physical:#x}"
