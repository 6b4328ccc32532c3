# SPDX-License-Identifier: BSD-2-Clause
"""Capabilities in words that a seL4 developer knows."""

from __future__ import annotations

from harness.kernel_state.state import KernelState
from harness.view.names import Names
from harness.view.nodes import size_text

_TITLES = {
    "untyped_cap": "untyped",
    "endpoint_cap": "endpoint",
    "notification_cap": "notification",
    "reply_cap": "reply",
    "cnode_cap": "cnode",
    "thread_cap": "tcb",
    "irq_control_cap": "irq control",
    "irq_handler_cap": "irq handler",
    "zombie_cap": "zombie",
    "domain_cap": "domain",
    "frame_cap": "frame",
    "page_table_cap": "page table",
    "page_directory_cap": "page directory",
    "page_upper_directory_cap": "page upper directory",
    "page_global_directory_cap": "page global directory",
    "asid_control_cap": "asid control",
    "asid_pool_cap": "asid pool",
    "smc_cap": "smc",
    "null_cap": "null",
}
_RIGHTS = (
    ("R", ("capCanReceive", "capNtfnCanReceive")),
    ("W", ("capCanSend", "capNtfnCanSend")),
    ("G", ("capCanGrant",)),
)
_MAPPED = ("capFMappedASID", "capPTMappedASID", "capPDMappedASID", "capPUDMappedASID", "capPGDMappedASID")
_ADDRESSES = ("capFMappedAddress", "capPTMappedAddress", "capPDMappedAddress", "capPUDMappedAddress")
_FRAME_RIGHTS = {
    "VMKernelOnly": "kernel only",
    "VMReadWrite": "read-write",
    "VMKernelReadOnly": "kernel only, read",
    "VMReadOnly": "read",
}


def title(type_: str) -> str:
    """What people call the object of a capability type."""
    return _TITLES.get(type_, type_)


def world_text(state: KernelState, row: int) -> str:
    """World and kind of the memory that an untyped or frame capability is for."""
    caps = state.caps
    world = "non-secure" if caps.non_secure[row] else "secure"
    return f"{world} device" if caps.device[row] else world


def _fields(state: KernelState, row: int) -> dict[str, int]:
    caps, layout = state.caps, state.layout
    name = caps.type_name(row)
    if name not in layout.bitfields.blocks:
        return {}
    return layout.block(name).decode([int(word) for word in caps.words[row, :2]])


def capability_text(state: KernelState, names: Names, row: int) -> str:
    """One capability: object, its name, and what the capability adds (badge, rights, mapping)."""
    caps = state.caps
    type_ = caps.type_name(row)
    fields = _fields(state, row)
    base, size = int(caps.base[row]), 1 << int(caps.bits[row])
    parts = [title(type_)]
    if type_ in ("untyped_cap", "frame_cap"):
        parts += [size_text(size), world_text(state, row)]
    if caps.physical[row]:
        parts.append(hex(base))
        if name := names.object(base):
            parts.append(f"({name})")
    if type_ == "cnode_cap":
        parts.append(
            f"2^{fields['capCNodeRadix']} slots, guard {fields['capCNodeGuard']:#x}/{fields['capCNodeGuardSize']}"
        )
    if type_ == "zombie_cap":
        parts.append(f"type {fields['capZombieType']:#x}")
    if type_ == "irq_handler_cap":
        parts.append(str(fields["capIRQ"]))
    if type_ == "reply_cap":
        parts.append(_reply(state, names, fields))
    if "capFVMRights" in fields:
        parts.append(_FRAME_RIGHTS.get(state.layout.enumerator("VM", fields["capFVMRights"]), "?"))
    if rights := "".join(letter for letter, keys in _RIGHTS if any(fields.get(key) for key in keys)):
        parts.append(rights)
    elif type_ in ("endpoint_cap", "notification_cap"):
        parts.append("no rights")
    if int(caps.badge[row]):
        parts.append(f"badge {int(caps.badge[row]):#x}")
    if asid := next((fields[key] for key in _MAPPED if fields.get(key)), 0):
        at = next((fields[key] for key in _ADDRESSES if key in fields), None)
        parts.append(f"mapped in ASID {asid}" + (f" at {at:#x}" if at is not None else ""))
    return " ".join(part for part in parts if part)


def _reply(state: KernelState, names: Names, fields: dict[str, int]) -> str:
    tcb = state.layout.physical(fields["capTCBPtr"])
    row = state.threads.row_of.get(tcb)
    to = names.thread(state, row) if row is not None else f"tcb {tcb:#x}"
    return f"{'master of' if fields.get('capReplyMaster') else 'to'} {to}"
