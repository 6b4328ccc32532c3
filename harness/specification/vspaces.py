# SPDX-License-Identifier: BSD-2-Clause
"""Rules of the invocations of frames, tables, address spaces and ASID pools."""

from __future__ import annotations

from collections.abc import Callable

from harness.kernel_state.capabilities import FRAME_BITS
from harness.kernel_state.lookup import SlotContent
from harness.specification.answers import (
    ALIGNMENT_ERROR,
    DELETE_FIRST,
    ILLEGAL_OPERATION,
    NO_ROOT,
    REVOKE_FIRST,
    Answer,
    LookupFailure,
    NotCoveredError,
    invalid_argument,
    invalid_capability,
    range_error,
)
from harness.specification.cnodes import empty
from harness.specification.invocations import Invocation, Rule, Rules, lookup, message, refuse
from harness.specification.lookups import (
    ASID_LOW_BITS,
    PD_SHIFT,
    PGD_SHIFT,
    PT_SHIFT,
    PUD_SHIFT,
    entry_address,
    is_block,
    is_table,
    translate,
    vspace_of,
)
from harness.specification.untypeds import is_foreign

USER_TOP = (1 << 48) - 1
_WORD = (1 << 64) - 1
_VSPACE = "page_global_directory_cap"
_FRAME_SHIFTS = (PT_SHIFT, PD_SHIFT, PUD_SHIFT)
"""Of a frame, by capFSize, the level whose entry maps it."""


def _frame_bits(call: Invocation) -> int:
    return FRAME_BITS[call.cap.field("capFSize")]


def _is_vspace(cap: SlotContent) -> bool:
    return cap.type == _VSPACE and bool(cap.field("capPGDIsMapped"))


def _vspace(call: Invocation) -> SlotContent:
    return call.given(0)


def _assigned(vspace: Callable[[Invocation], SlotContent], number: int) -> Rule:
    """The ASID of an address space leads to it."""

    def refusal(call: Invocation) -> Answer | None:
        cap = vspace(call)
        root = vspace_of(call.memory, cap.field("capPGDMappedASID"))
        if not root:
            return NO_ROOT.answer()
        return None if call.memory.layout.physical(root) == cap.base else invalid_capability(number)

    return Rule("the address space's ASID leads to it", refusal)


_GIVEN = refuse("the address space has an ASID", lambda call: not _is_vspace(_vspace(call)), invalid_capability(1))
_ASSIGNED = _assigned(_vspace, 1)


def _free_entry(shift: int, address: Callable[[Invocation], int]) -> Rule:
    """The tables above an entry are there, and nothing is in it."""

    def refusal(call: Invocation) -> Answer | None:
        place = entry_address(call.memory, _vspace(call).base, address(call), shift)
        if isinstance(place, LookupFailure):
            return place.answer()
        entry = call.memory.word(place)
        blocks = shift in (PUD_SHIFT, PD_SHIFT)
        return DELETE_FIRST if is_table(entry) or (blocks and is_block(entry)) else None

    return Rule("the tables above are there, and nothing is mapped", refusal)


def _table(kind: str, field: str, shift: int) -> dict[str, Rules]:
    """Map and Unmap of a table whose entry lies at a level."""

    def address(call: Invocation) -> int:
        return call.word(0) & ~((1 << shift) - 1) & _WORD

    return {
        f"ARM{kind}Unmap": (
            refuse("there is no other capability to the table", lambda call: not call.slot.is_final(), REVOKE_FIRST),
        ),
        f"ARM{kind}Map": (
            message(2, 1),
            refuse("the table is not mapped", lambda call: bool(call.cap.field(field)), invalid_capability(0)),
            _GIVEN,
            refuse("the address is a user's", lambda call: address(call) > USER_TOP, invalid_argument(0)),
            _ASSIGNED,
            _free_entry(shift, address),
        ),
    }


def _frame_entry(call: Invocation) -> Answer | None:
    shift = _FRAME_SHIFTS[call.cap.field("capFSize")]
    return _free_entry(shift, lambda call: call.word(0)).refusal(call)


def _remapped_entry(call: Invocation) -> Answer | None:
    shift = _FRAME_SHIFTS[call.cap.field("capFSize")]
    place = entry_address(call.memory, _vspace(call).base, call.cap.field("capFMappedAddress"), shift)
    if isinstance(place, LookupFailure):
        return place.answer()
    return DELETE_FIRST if shift != PT_SHIFT and is_table(call.memory.word(place)) else None


def _beyond_user(call: Invocation) -> bool:
    return (call.word(0) + (1 << _frame_bits(call)) - 1) & _WORD > USER_TOP


def _mapped_somewhere(call: Invocation) -> Answer | None:
    return None if vspace_of(call.memory, call.cap.field("capFMappedASID")) else NO_ROOT.answer()


def _outside_page(call: Invocation) -> bool:
    size = 1 << _frame_bits(call)
    return call.word(0) >= size or call.word(1) > size


_ORDERED = refuse("the end is behind the start", lambda call: call.word(1) <= call.word(0), invalid_argument(1))
_FLUSH_FRAME: Rules = (
    message(2),
    refuse("the frame is mapped", lambda call: not call.cap.field("capFMappedASID"), ILLEGAL_OPERATION),
    Rule("the frame's ASID has an address space", _mapped_somewhere),
    _ORDERED,
    refuse("the range lies in the frame", _outside_page, invalid_argument(0)),
)


def _one_page(call: Invocation) -> Answer | None:
    start, end = call.word(0), call.word(1)
    page = translate(call.memory, call.cap.base, start)
    if page is None or start >> page[1] == (end - 1) >> page[1]:
        return None
    return range_error(start, start | ((1 << page[1]) - 1))


_FLUSH_VSPACE: Rules = (
    message(2),
    _ORDERED,
    refuse("the range is a user's", lambda call: call.word(1) > USER_TOP, ILLEGAL_OPERATION),
    refuse("the address space has an ASID", lambda call: not _is_vspace(call.cap), invalid_capability(0)),
    _assigned(lambda call: call.cap, 0),
    Rule("the range lies in one page", _one_page),
)
_FLUSHES = ("Clean_Data", "Invalidate_Data", "CleanInvalidate_Data", "Unify_Instruction")

FRAME: dict[str, Rules] = {
    "ARMPageMap": (
        message(3, 1),
        refuse("the frame is not mapped", lambda call: call.cap.field("capFMappedASID") != 0, invalid_capability(0)),
        _GIVEN,
        _ASSIGNED,
        refuse(
            "the address is aligned to the frame's size",
            lambda call: bool(call.word(0) & ((1 << _frame_bits(call)) - 1)),
            ALIGNMENT_ERROR,
        ),
        refuse("the addresses are a user's", _beyond_user, invalid_argument(0)),
        Rule("the tables above are there, and nothing is mapped", _frame_entry),
    ),
    "ARMPageRemap": (
        message(2, 1),
        _GIVEN,
        _ASSIGNED,
        refuse(
            "the frame is mapped in this address space",
            lambda call: call.cap.field("capFMappedASID") != _vspace(call).field("capPGDMappedASID"),
            invalid_capability(0),
        ),
        Rule("the tables above are there, and no table is in the frame's place", _remapped_entry),
    ),
    "ARMPageUnmap": (),
    "ARMPageGetAddress": (),
    **{f"ARMPage{flush}": _FLUSH_FRAME for flush in _FLUSHES},
}
TABLES: dict[str, dict[str, Rules]] = {
    "page_table_cap": _table("PageTable", "capPTIsMapped", PD_SHIFT),
    "page_directory_cap": _table("PageDirectory", "capPDIsMapped", PUD_SHIFT),
    "page_upper_directory_cap": _table("PageUpperDirectory", "capPUDIsMapped", PGD_SHIFT),
}
VSPACE: dict[str, Rules] = {f"ARMPageGlobalDirectory{flush}": _FLUSH_VSPACE for flush in _FLUSHES}


def _no_pool_left(call: Invocation) -> bool:
    memory = call.memory
    return all(memory.variable("armKSASIDTable", i) for i in range(memory.words_of("armKSASIDTable")))


def _no_room_for_pool(call: Invocation) -> bool:
    cap = call.given(0)
    bits = call.memory.layout.object_bits["asid_pool_cap"]
    return cap.type != "untyped_cap" or cap.field("capBlockSize") != bits or is_foreign(cap)


ASID_CONTROL: dict[str, Rules] = {
    "ARMASIDControlMakePool": (
        message(2, 2),
        refuse("a pool is left", _no_pool_left, DELETE_FIRST),
        refuse("the untyped has a pool's size and holds kernel objects", _no_room_for_pool, invalid_capability(1)),
        refuse("nothing is made from the untyped", lambda call: call.extra[0].has_children(), REVOKE_FIRST),
        lookup("index and depth name a slot under the root", lambda call: call.given(1), 0),
        empty("the slot is empty", lambda call: call.found(call.given(1), 0)),
    ),
}


def _registered(call: Invocation) -> Answer | None:
    pool = call.memory.variable("armKSASIDTable", call.cap.field("capASIDBase") >> ASID_LOW_BITS)
    if not pool:
        return NO_ROOT.answer()
    return None if call.memory.layout.physical(pool) == call.cap.base else invalid_capability(0)


def _pool_full(call: Invocation) -> bool:
    if call.cap.base == 0:
        raise NotCoveredError("no pool")
    first = int(call.cap.field("capASIDBase") == 0)
    return all(call.memory.word(call.cap.base + 8 * i) for i in range(first, 1 << ASID_LOW_BITS))


ASID_POOL: dict[str, Rules] = {
    "ARMASIDPoolAssign": (
        message(0, 1),
        refuse(
            "the address space has no ASID",
            lambda call: call.given(0).type != _VSPACE or bool(call.given(0).field("capPGDIsMapped")),
            invalid_capability(1),
        ),
        Rule("the pool is in use", _registered),
        refuse("an ASID is left", _pool_full, DELETE_FIRST),
    ),
}
