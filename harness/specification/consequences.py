# SPDX-License-Identifier: BSD-2-Clause
"""What each invocation of CNodes and untypeds writes into slots and objects; the table of all is CONSEQUENCES."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.kernel_state.lookup import SlotContent
from harness.programs.population import OBJECT_TYPES
from harness.protocol import PAGE
from harness.specification.answers import NotCoveredError
from harness.specification.cnodes import GUARD_MASK, GUARD_SHIFT, GUARD_SIZE_MASK, GUARD_SIZE_SHIFT
from harness.specification.deletion import delete, revoke
from harness.specification.invocations import Invocation
from harness.specification.lookups import ASID_LOW_BITS
from harness.specification.model import Fresh, Model, changed
from harness.specification.tables import TABLE_CALLS, masked_rights
from harness.specification.untypeds import MINIMUM_BITS, is_foreign, object_bits

Consequence = Callable[[Model, Invocation], None]

_BADGES = {
    "endpoint_cap": ("capEPBadge", (1 << 28) - 1),
    "notification_cap": ("capNtfnBadge", (1 << 64) - 1),
    "smc_cap": ("capSMCBadge", (1 << 64) - 1),
}
"""Which field is a capability's badge, and the bits of a word that fit."""
_RIGHTS = {
    "endpoint_cap": {"capCanSend": "capAllowWrite", "capCanReceive": "capAllowRead", "capCanGrant": "capAllowGrant"},
    "notification_cap": {"capNtfnCanSend": "capAllowWrite", "capNtfnCanReceive": "capAllowRead"},
}
"""The rights of a capability, and the one that each needs to be kept."""
_READ_WRITE = 1
_SMALL, _LARGE, _HUGE = range(3)
_FRAMES = {"page-4k": _SMALL, "page-2m": _LARGE, "page-1g": _HUGE}
_TABLES = {
    "page-table": ("page_table_cap", "capPTBasePtr"),
    "page-directory": ("page_directory_cap", "capPDBasePtr"),
    "page-upper-directory": ("page_upper_directory_cap", "capPUDBasePtr"),
    "page-global-directory": ("page_global_directory_cap", "capPGDBasePtr"),
}
_MODE = ((1 << 64) - 1) & ~0x1C0
"""Of a saved PSTATE, what must be zero for a thread: its mode is EL0, and only A, I and F may be set."""


def _masked(cap: SlotContent, word: int) -> SlotContent:
    """A capability with no rights but those of a word (seL4_CapRights)."""
    if cap.type == "frame_cap":
        return changed(cap, capFVMRights=masked_rights(cap, word))
    allowed = cap.layout.block("seL4_CapRights")
    kept = {name: cap.field(name) & allowed[right].get((word,)) for name, right in _RIGHTS.get(cap.type, {}).items()}
    return changed(cap, **kept)


def _guarded(cap: SlotContent, data: int) -> SlotContent:
    """A capability of a CNode with the guard of a word; others as they are."""
    if cap.type != "cnode_cap":
        return cap
    size = data >> GUARD_SIZE_SHIFT & GUARD_SIZE_MASK
    guard = data >> GUARD_SHIFT & GUARD_MASK & ((1 << size) - 1)
    return changed(cap, capCNodeGuard=guard, capCNodeGuardSize=size)


def _with_data(cap: SlotContent, data: int) -> SlotContent:
    """A capability with the badge or guard of a word."""
    if cap.type in _BADGES:
        name, mask = _BADGES[cap.type]
        return changed(cap, **{name: data & mask})
    return _guarded(cap, data)


def _derived(cap: SlotContent) -> SlotContent:
    """The copy of a capability: that of a frame is mapped nowhere."""
    return changed(cap, capFMappedASID=0) if cap.type == "frame_cap" else cap


def _revocable(cap: SlotContent, source: SlotContent) -> bool:
    """Whether a copy can have descendants of its own: those of another badge, and untypeds."""
    if cap.type in _BADGES:
        name, _ = _BADGES[cap.type]
        return cap.field(name) != source.field(name)
    return cap.type == "untyped_cap"


def _full(cap: SlotContent) -> SlotContent:
    """An untyped that has no free part left."""
    return changed(cap, capFreeIndex=1 << (cap.field("capBlockSize") - MINIMUM_BITS))


def _copy(model: Model, call: Invocation, cap: SlotContent) -> None:
    source, slot = call.found(call.given(0), 2).address, call.found(call.cap, 0).address
    original = model.cap(source)
    first = _revocable(cap, original)
    if cap.type == "untyped_cap":
        model.put(source, _full(original))
    model.insert(source, slot, cap, revocable=first, first_badged=first)


def _copied(model: Model, call: Invocation) -> None:
    _copy(model, call, _derived(_masked(call.found(call.given(0), 2).cap, call.word(4))))


def _minted(model: Model, call: Invocation) -> None:
    masked = _masked(call.found(call.given(0), 2).cap, call.word(4))
    _copy(model, call, _derived(_with_data(masked, call.word(5))))


def _moved(model: Model, call: Invocation) -> None:
    source = call.found(call.given(0), 2)
    model.move(source.address, call.found(call.cap, 0).address, source.cap)


def _mutated(model: Model, call: Invocation) -> None:
    source = call.found(call.given(0), 2)
    model.move(source.address, call.found(call.cap, 0).address, _guarded(source.cap, call.word(4)))


def _rotated(model: Model, call: Invocation) -> None:
    source, pivot, slot = call.found(call.given(1), 6), call.found(call.given(0), 3), call.found(call.cap, 0).address
    cap, other = _guarded(source.cap, call.word(5)), _guarded(pivot.cap, call.word(2))
    if source.address == slot:
        model.exchange(slot, pivot.address, cap, other)
        return
    model.move(pivot.address, slot, other)
    model.move(source.address, pivot.address, cap)


def _caller_saved(model: Model, call: Invocation) -> None:
    slot = call.thread + (model.layout.constant("tcbCaller") << model.layout.slot_bits)
    cap = model.cap(slot)
    if cap.type == "reply_cap":
        model.move(slot, call.found(call.cap, 0).address, cap)


def _nothing(_: Model, __: Invocation) -> None:
    """No slot and no table changes."""


def _object(model: Model, call: Invocation, base: int, bits: int) -> SlotContent:
    """The capability to a new object at a physical address, and what its memory must hold."""
    name, layout, untyped = OBJECT_TYPES[call.word(0)], model.layout, call.cap
    pointer = layout.virtual(base)
    world = layout.world_field("untyped_cap")
    non_secure = 0 if world is None else untyped.field(world.name)
    device = untyped.field("capIsDevice")
    words: dict[int, tuple[int, int]] = {}
    end = base + (1 << bits)
    if name in _FRAMES:
        tag = {"capFIsNonSecure": non_secure} if world is not None else {}
        fields = {"capFSize": _FRAMES[name], "capFVMRights": _READ_WRITE, "capFIsDevice": device, **tag}
        cap = model.new("frame_cap", capFBasePtr=pointer, **fields)
    elif name == "untyped":
        tag = {"capIsNonSecure": non_secure} if world is not None else {}
        cap = model.new("untyped_cap", capPtr=pointer, capBlockSize=bits, capIsDevice=device, **tag)
    elif name in _TABLES:
        kind, field = _TABLES[name]
        cap = model.new(kind, **{field: pointer})
    elif name == "cnode":
        cap = model.new("cnode_cap", capCNodePtr=pointer, capCNodeRadix=call.word(1))
    elif name == "endpoint":
        cap = model.new("endpoint_cap", capEPPtr=pointer, capCanSend=1, capCanReceive=1, capCanGrant=1)
    elif name == "notification":
        cap = model.new("notification_cap", capNtfnPtr=pointer, capNtfnCanSend=1, capNtfnCanReceive=1)
    else:
        thread = base + layout.tcb_offset
        cap = model.new("thread_cap", capTCBPtr=layout.virtual(thread))
        tcb, whole = layout.struct("tcb"), (1 << 64) - 1
        domain = call.member(call.thread, "tcbDomain")  # that in which it is made
        words[thread + 8 * layout.constant("SPSR_EL1")] = (_MODE, 0)
        words[thread + tcb["tcbDomain"].offset] = (whole, domain)
        words[thread + tcb["tcbTimeSlice"].offset] = (0, 0)  # an invariant says how long it may be
        end = thread + tcb.size  # behind it is the thread's name
    if not is_foreign(untyped):
        model.fresh.append(Fresh(base, end, words))
    return cap


def _made(model: Model, call: Invocation) -> None:
    root, number, untyped = call.given(0), call.word(5), call.cap
    node = call.found(root, 2).cap if call.word(3) else root
    bits = object_bits(call)
    free = untyped.field("capFreeIndex") << MINIMUM_BITS if call.slot.has_children() else 0
    start = untyped.base + free
    start += -start & ((1 << bits) - 1)
    end = start + (number << bits)
    model.put(call.slot.address, changed(untyped, capFreeIndex=(end - untyped.base) >> MINIMUM_BITS))
    for index in range(number):
        slot = node.base + (call.word(4) + index << model.layout.slot_bits)
        cap = _object(model, call, start + (index << bits), bits)
        model.insert(call.slot.address, slot, cap, revocable=True, first_badged=True)


def _pool_made(model: Model, call: Invocation) -> None:
    parent, slot = call.extra[0], call.found(call.given(1), 0).address
    table = model.layout.physical(model.layout.variable("armKSASIDTable").address)
    index = next(i for i in range(model.memory.words_of("armKSASIDTable")) if not model.word(table + 8 * i))
    base = parent.cap.base
    model.put(parent.address, _full(parent.cap))
    pool = model.new("asid_pool_cap", capASIDBase=index << ASID_LOW_BITS, capASIDPool=model.layout.virtual(base))
    model.insert(parent.address, slot, pool, revocable=False, first_badged=False)
    model.words[table + 8 * index] = model.layout.virtual(base)
    model.fresh.append(Fresh(base, base + PAGE))


def _assigned(model: Model, call: Invocation) -> None:
    vspace, first = call.extra[0], call.cap.field("capASIDBase")
    free = (i for i in range(1 << ASID_LOW_BITS) if first + i and not model.word(call.cap.base + 8 * i))
    index = next(free)
    model.put(vspace.address, changed(vspace.cap, capPGDMappedASID=first + index, capPGDIsMapped=1))
    model.words[call.cap.base + 8 * index] = vspace.cap.field("capPGDBasePtr")


def _signals(model: Model, call: Invocation) -> None:
    """An interrupt's slot gets a copy of the notification's capability; what was in it goes."""
    layout = model.layout
    node = layout.physical(model.memory.variable("intStateIRQNode"))
    slot, given = node + (call.cap.field("capIRQ") << layout.slot_bits), call.extra[0]
    delete(model, slot)
    model.insert(given.address, slot, given.cap, revocable=False, first_badged=False)


def _silent(model: Model, call: Invocation) -> None:
    layout = model.layout
    node = layout.physical(model.memory.variable("intStateIRQNode"))
    delete(model, node + (call.cap.field("capIRQ") << layout.slot_bits))


def _handed_out(model: Model, call: Invocation) -> None:
    cap = model.new("irq_handler_cap", capIRQ=call.word(0))
    slot = call.found(call.given(0), 1).address
    model.insert(call.slot.address, slot, cap, revocable=True, first_badged=True)


CONSEQUENCES: Mapping[str, Consequence] = {
    "CNodeRevoke": lambda model, call: revoke(model, call.found(call.cap, 0)),
    "CNodeDelete": lambda model, call: delete(model, call.found(call.cap, 0).address),
    "CNodeCancelBadgedSends": _nothing,
    "CNodeCopy": _copied,
    "CNodeMint": _minted,
    "CNodeMove": _moved,
    "CNodeMutate": _mutated,
    "CNodeRotate": _rotated,
    "CNodeSaveCaller": _caller_saved,
    "UntypedRetype": _made,
    "ARMASIDControlMakePool": _pool_made,
    "ARMASIDPoolAssign": _assigned,
    "ARMSMCCall": _nothing,
    "IRQIssueIRQHandler": _handed_out,
    "IRQSetIRQHandler": _signals,
    "IRQClearIRQHandler": _silent,
    "IRQAckIRQ": _nothing,
    **TABLE_CALLS,
}
"""By label; of a label that is not here nothing is said."""


def consequences(model: Model, call: Invocation, label: str) -> None:
    """Work out what an invocation that succeeds writes; NotCoveredError where that is not known."""
    if label not in CONSEQUENCES:
        raise NotCoveredError("a label of which nothing is said")
    CONSEQUENCES[label](model, call)
