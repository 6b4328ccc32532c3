# SPDX-License-Identifier: BSD-2-Clause
"""The initial thread's own spaces: its CNode, and the address space that the kernel made for its image.

The image is mapped page by page; behind it lie the IPC buffer and the boot information. The tables are those that
these pages need, told from the uppermost level down, in order of address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from harness.invariants.attributes import USER_NEVER_EXECUTES
from harness.invariants.capabilities import table_field
from harness.invariants.definitions import Context, Judgement
from harness.kernel_state.layout import PAGE_BITS
from harness.kernel_state.objects import BootInfo
from harness.kernel_state.page_tables import LEVEL_SHIFT
from harness.kernel_state.state import KernelState

KIND = "boot information"
_PAGE = 1 << PAGE_BITS
_WORD_BITS = 64
INITIAL_ASID = 1
"""The initial thread's address space is the first there is."""
_TABLES = ("page_upper_directory_cap", "page_directory_cap", "page_table_cap")


def judge_initial_space(context: Context, info: BootInfo, held: Mapping[int, int], judgement: Judgement) -> None:
    """`held`: row of the capability in each used slot of the initial thread's CNode."""
    state = context.state
    _judge_cnode(state, held, judgement)
    buffer = info.fields.get("ipcBuffer")
    if buffer is None:
        return
    start, end = info.regions.get("userImageFrames", (0, 0))
    first = buffer - (end - start) * _PAGE
    _judge_tables(state, info, held, first, buffer + 2 * _PAGE, judgement)
    constant = state.layout.constant
    pages = [(slot, first + number * _PAGE, False) for number, slot in enumerate(range(start, end))]
    pages.append((constant("seL4_CapInitThreadIPCBuffer"), buffer, True))
    pages.append((constant("seL4_CapBootInfoFrame"), buffer + _PAGE, True))
    _judge_pages(state, held, pages, judgement)


def _judge_cnode(state: KernelState, held: Mapping[int, int], judgement: Judgement) -> None:
    """Its guard makes up for what its radix leaves of a word, so that a slot's number is its address."""
    row = held.get(state.layout.constant("seL4_CapInitThreadCNode"))
    if row is None:
        return
    rows = np.array([row])
    guard, size, radix = (
        int(state.caps.field("cnode_cap", f"capCNode{name}", rows)[0]) for name in ("Guard", "GuardSize", "Radix")
    )
    if (guard, size) != (0, _WORD_BITS - radix):
        judgement.fail_cap(state.caps, row, "guard", f"{guard:#x} of {size} bits", f"0 of {_WORD_BITS - radix} bits")


def _needed_tables(start: int, end: int) -> Iterator[tuple[str, int]]:
    """The tables below the root that translate `[start, end)`: type, first address."""
    for name, shift in zip(_TABLES, LEVEL_SHIFT, strict=False):
        for address in range(start >> shift << shift, end, 1 << shift):
            yield name, address


def _judge_tables(
    state: KernelState, info: BootInfo, held: Mapping[int, int], start: int, end: int, judgement: Judgement
) -> None:
    if "userImagePaging" not in info.regions:
        return
    first, last = info.regions["userImagePaging"]
    needed = list(_needed_tables(start, end))
    if last - first != len(needed):
        judgement.fail_field(
            "seL4_BootInfo", KIND, "userImagePaging", f"{last - first} tables", f"{len(needed)} tables"
        )
    for slot, (name, address) in zip(range(first, last), needed, strict=False):
        row = held.get(slot)
        if row is None:
            continue
        found, caps = state.caps.type_name(row), state.caps
        if found != name:
            judgement.fail_cap(caps, row, f"userImagePaging, slot {slot}", found, name)
            continue
        rows = np.array([row])
        at, asid, mapped = (
            int(caps.field(name, table_field(name, field), rows)[0])
            for field in ("MappedAddress", "MappedASID", "IsMapped")
        )
        if (at, asid, mapped) != (address, INITIAL_ASID, 1):
            place = f"{at:#x} of ASID {asid}" if mapped else "not mapped"
            judgement.fail_cap(
                caps, row, f"userImagePaging, slot {slot}", place, f"{address:#x} of ASID {INITIAL_ASID}"
            )


def _judge_pages(
    state: KernelState, held: Mapping[int, int], pages: list[tuple[int, int, bool]], judgement: Judgement
) -> None:
    """`pages`: slot, address, and whether it holds no code."""
    caps, walk, layout = state.caps, state.user_walk, state.layout
    root = state.asid_map.get(INITIAL_ASID)
    of_root = np.flatnonzero(walk.leaf & (walk.roots[walk.root] == np.uint64(root or 0)))
    entries = {int(walk.virtual[row]): int(row) for row in of_root}
    rights = layout.constant("VMReadWrite")
    for slot, address, data in pages:
        row = held.get(slot)
        if row is None or caps.type_name(row) != "frame_cap":
            continue
        rows = np.array([row])
        asid, at, right = (
            int(caps.field("frame_cap", f"capF{name}", rows)[0]) for name in ("MappedASID", "MappedAddress", "VMRights")
        )
        place = f"the initial thread's page of slot {slot}"
        found = f"{int(caps.bits[row])} bits, rights {right}"
        if found != (expected := f"{PAGE_BITS} bits, rights {rights}"):
            judgement.fail_field(place, KIND, "frame", found, expected)
        if not asid:
            continue
        if (asid, at) != (INITIAL_ASID, address):
            judgement.fail_field(
                place, KIND, "mapped at", f"{at:#x} of ASID {asid}", f"{address:#x} of ASID {INITIAL_ASID}"
            )
        entry = entries.get(at)
        if entry is None or int(walk.base[entry]) != int(caps.base[row]):
            judgement.fail_field(place, KIND, "its mapping", "another page or none", f"{int(caps.base[row]):#x}")
        elif bool(int(walk.entry[entry]) & USER_NEVER_EXECUTES) != data:
            never = "never executed (UXN)" if data else "code: executable (UXN is 0)"
            judgement.fail_field(place, KIND, "its mapping", hex(int(walk.entry[entry])), never)
