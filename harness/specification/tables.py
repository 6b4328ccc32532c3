# SPDX-License-Identifier: BSD-2-Clause
"""What each invocation of frames and tables writes: capabilities, and entries as the architecture defines them."""

from __future__ import annotations

from collections.abc import Callable

from harness.kernel_state.lookup import SlotContent
from harness.protocol import PAGE
from harness.specification.answers import LookupFailure, NotCoveredError
from harness.specification.invocations import Invocation
from harness.specification.lookups import (
    PD_SHIFT,
    PGD_SHIFT,
    PT_SHIFT,
    PUD_SHIFT,
    entry_address,
    is_block,
    is_table,
    vspace_of,
)
from harness.specification.model import Fresh, Model, changed

FRAME_SHIFTS = (PT_SHIFT, PD_SHIFT, PUD_SHIFT)
"""Of a frame, by capFSize, the level whose entry maps it."""
KINDS = {
    "page_table_cap": ("PT", PD_SHIFT),
    "page_directory_cap": ("PD", PUD_SHIFT),
    "page_upper_directory_cap": ("PUD", PGD_SHIFT),
}
"""How the fields of a table's capability begin behind `cap`, and the level whose entry leads to it."""
_NO_ACCESS, _READ_WRITE, _READ_ONLY = 0, 1, 3
"""Rights of a frame (vm_rights_t): those of a thread."""

# Arm Architecture Reference Manual, VMSAv8-64 block and page descriptors, stage 1.
_TABLE, _BLOCK = 3, 1
_ATTRIBUTE_SHIFT, _NON_SECURE, _ACCESS_SHIFT = 2, 1 << 5, 6
_ACCESS = {_NO_ACCESS: 0b00, _READ_WRITE: 0b01, _READ_ONLY: 0b11}
"""AP[2:1] by rights: EL0 has no access, may read and write, may read."""
_ACCESSED, _NOT_GLOBAL, _NO_EXECUTION = 1 << 10, 1 << 11, 1 << 54
_DEVICE, _NORMAL = 0, 4
"""Indices into MAIR: Device-nGnRnE, and normal memory that is written back."""
_ADDRESS = ((1 << 48) - 1) & ~0xFFF


def masked_rights(frame: SlotContent, word: int) -> int:
    """The rights to a frame that are left with those of a word (seL4_CapRights): none without reading."""
    allowed, rights = frame.layout.block("seL4_CapRights"), frame.field("capFVMRights")
    if rights not in (_READ_WRITE, _READ_ONLY) or not allowed["capAllowRead"].get((word,)):
        return _NO_ACCESS
    return rights if allowed["capAllowWrite"].get((word,)) else _READ_ONLY


def _page(frame: SlotContent, rights: int, attributes: int) -> int:
    """The entry that maps a frame with rights and attributes (seL4_ARM_VMAttributes), on one processor unshared."""
    bits = frame.layout.block("vm_attributes")
    entry = frame.base & _ADDRESS | _NOT_GLOBAL | _ACCESSED | _ACCESS[masked_rights(frame, rights)] << _ACCESS_SHIFT
    entry |= _BLOCK if frame.field("capFSize") else _TABLE
    entry |= (_NORMAL if bits["armPageCacheable"].get((attributes,)) else _DEVICE) << _ATTRIBUTE_SHIFT
    if bits["armExecuteNever"].get((attributes,)):
        entry |= _NO_EXECUTION
    world = frame.layout.world_field("frame_cap")
    return entry | _NON_SECURE if world is not None and frame.field(world.name) else entry


def _entry(model: Model, root: int, address: int, shift: int) -> int:
    place = entry_address(model.memory, root, address, shift)
    if isinstance(place, LookupFailure):
        raise NotCoveredError("an entry that an earlier rule has found")
    return place


def _shift(frame: SlotContent) -> int:
    return FRAME_SHIFTS[frame.field("capFSize")]


def _mapped(model: Model, call: Invocation) -> None:
    vspace, address = call.given(0), call.word(0)
    asid = vspace.field("capPGDMappedASID")
    model.put(call.slot.address, changed(call.cap, capFMappedASID=asid, capFMappedAddress=address))
    place = _entry(model, vspace.base, address, _shift(call.cap))
    model.words[place] = _page(call.cap, call.word(1), call.word(2))


def _mapped_again(model: Model, call: Invocation) -> None:
    place = _entry(model, call.given(0).base, call.cap.field("capFMappedAddress"), _shift(call.cap))
    model.words[place] = _page(call.cap, call.word(0), call.word(1))


def entry_of_frame(model: Model, frame: SlotContent) -> int | None:
    """Where the entry lies that maps a frame at the place that its capability names; None if none does."""
    asid, shift = frame.field("capFMappedASID"), _shift(frame)
    root = vspace_of(model.memory, asid) if asid else 0
    if not root:
        return None
    place = entry_address(model.memory, model.layout.physical(root), frame.field("capFMappedAddress"), shift)
    if isinstance(place, LookupFailure):
        return None
    entry = model.memory.word(place)
    valid = is_table(entry) if shift == PT_SHIFT else is_block(entry)
    return place if valid and entry & _ADDRESS == frame.base else None


def entry_of_table(model: Model, table: SlotContent) -> int | None:
    """Where the entry lies that leads to a table at the place that its capability names; None if none does."""
    name, shift = KINDS[table.type]
    if not table.field(f"cap{name}IsMapped"):
        return None
    root = vspace_of(model.memory, table.field(f"cap{name}MappedASID"))
    if not root:
        return None
    address = table.field(f"cap{name}MappedAddress")
    place = entry_address(model.memory, model.layout.physical(root), address, shift)
    if isinstance(place, LookupFailure):
        return None
    entry = model.memory.word(place)
    return place if is_table(entry) and entry & _ADDRESS == table.base else None


def _unmapped(model: Model, call: Invocation) -> None:
    place = entry_of_frame(model, call.cap)
    if place is not None:
        model.words[place] = 0
    model.put(call.slot.address, changed(call.cap, capFMappedASID=0, capFMappedAddress=0))


def _table_mapped(model: Model, call: Invocation) -> None:
    name, shift = KINDS[call.cap.type]
    vspace, address = call.given(0), call.word(0) >> shift << shift
    asid = vspace.field("capPGDMappedASID")
    fields = {f"cap{name}IsMapped": 1, f"cap{name}MappedASID": asid, f"cap{name}MappedAddress": address}
    model.put(call.slot.address, changed(call.cap, **fields))
    model.words[_entry(model, vspace.base, address, shift)] = call.cap.base | _TABLE


def _table_unmapped(model: Model, call: Invocation) -> None:
    name, _ = KINDS[call.cap.type]
    place = entry_of_table(model, call.cap)
    if place is not None:
        model.words[place] = 0
    if call.cap.field(f"cap{name}IsMapped"):
        model.gone.append((call.cap.base, call.cap.base + PAGE))
        model.fresh.append(Fresh(call.cap.base, call.cap.base + PAGE))
    model.put(call.slot.address, changed(call.cap, **{f"cap{name}IsMapped": 0}))


def _address_told(model: Model, call: Invocation) -> None:
    model.told = (call.cap.base,)


def _nothing(_: Model, __: Invocation) -> None:
    """Caches and no tables change."""


_FLUSHES = ("Clean_Data", "Invalidate_Data", "CleanInvalidate_Data", "Unify_Instruction")

TABLE_CALLS: dict[str, Callable[[Model, Invocation], None]] = {
    "ARMPageMap": _mapped,
    "ARMPageRemap": _mapped_again,
    "ARMPageUnmap": _unmapped,
    "ARMPageGetAddress": _address_told,
    **{f"ARM{kind}Map": _table_mapped for kind in ("PageTable", "PageDirectory", "PageUpperDirectory")},
    **{f"ARM{kind}Unmap": _table_unmapped for kind in ("PageTable", "PageDirectory", "PageUpperDirectory")},
    **{f"ARM{kind}{flush}": _nothing for kind in ("Page", "PageGlobalDirectory") for flush in _FLUSHES},
}
