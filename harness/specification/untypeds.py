# SPDX-License-Identifier: BSD-2-Clause
"""Rules of Retype."""

from __future__ import annotations

from harness.kernel_state.layout import HUGE_PAGE_BITS, LARGE_PAGE_BITS, PAGE_BITS, TABLE_BITS
from harness.kernel_state.lookup import SlotContent
from harness.programs.population import OBJECT_TYPES
from harness.specification.answers import (
    DELETE_FIRST,
    Answer,
    invalid_argument,
    missing,
    not_enough_memory,
    range_error,
)
from harness.specification.invocations import Invocation, Rule, Rules, message, refuse

MAXIMUM_BITS = 47
MINIMUM_BITS = 4
"""Of an untyped: seL4_MaxUntypedBits, seL4_MinUntypedBits."""
MAXIMUM_OBJECTS = 256
"""Of one Retype: CONFIG_RETYPE_FAN_OUT_LIMIT."""
_WORD_BITS = 64
_UNTYPED, _CNODE = OBJECT_TYPES.index("untyped"), OBJECT_TYPES.index("cnode")
_BITS = {"page-4k": PAGE_BITS, "page-2m": LARGE_PAGE_BITS, "page-1g": HUGE_PAGE_BITS}
_TABLES = ("page-table", "page-directory", "page-upper-directory", "page-global-directory")


def object_bits(call: Invocation) -> int:
    """Binary logarithm of the bytes of each object that a Retype makes."""
    layout, name = call.memory.layout, OBJECT_TYPES[call.word(0)]
    if name == "untyped":
        return call.word(1)
    if name == "cnode":
        return layout.slot_bits + call.word(1)
    if name in _TABLES:
        return TABLE_BITS
    fixed = {"tcb": "thread_cap", "endpoint": "endpoint_cap", "notification": "notification_cap"}
    return _BITS[name] if name in _BITS else layout.object_bits[fixed[name]]


def _node(call: Invocation) -> SlotContent | Answer:
    """The CNode for the new capabilities."""
    root = call.given(0)
    if not call.word(3):
        return root
    slot = call.lookup(root, 2)
    return slot if isinstance(slot, Answer) else slot.cap


def _node_found(call: Invocation) -> Answer | None:
    node = _node(call)
    if isinstance(node, Answer):
        return node
    return None if node.type == "cnode_cap" else missing(call.word(3)).answer()


def _window(call: Invocation) -> tuple[SlotContent, int, int, int]:
    """The CNode, its number of slots, the first slot and the number of new capabilities."""
    node = call.given(0) if not call.word(3) else call.found(call.given(0), 2).cap
    return node, 1 << node.field("capCNodeRadix"), call.word(4), call.word(5)


def _offset(call: Invocation) -> Answer | None:
    _, size, offset, _ = _window(call)
    return range_error(0, size - 1) if offset > size - 1 else None


def _fits(call: Invocation) -> Answer | None:
    _, size, offset, count = _window(call)
    return range_error(1, size - offset) if count > size - offset else None


def _all_empty(call: Invocation) -> Answer | None:
    node, _, offset, count = _window(call)
    memory = call.memory
    slots = (memory.slot(node.base + (i << memory.layout.slot_bits)) for i in range(offset, offset + count))
    return DELETE_FIRST if any(slot.cap.type != "null_cap" for slot in slots) else None


def _enough(call: Invocation) -> Answer | None:
    free = call.cap.field("capFreeIndex") if call.slot.has_children() else 0
    left = (1 << call.cap.field("capBlockSize")) - (free << MINIMUM_BITS)
    bits = object_bits(call)
    return not_enough_memory(left) if bits >= _WORD_BITS or left >> bits < call.word(5) else None


def is_foreign(untyped: SlotContent) -> bool:
    """Whether an untyped can hold no objects of the kernel: device memory, and the other world's."""
    world = untyped.layout.world_field("untyped_cap")
    return bool(untyped.field("capIsDevice") or (world is not None and untyped.field(world.name)))


def _kernel_object(call: Invocation) -> bool:
    name = OBJECT_TYPES[call.word(0)]
    return is_foreign(call.cap) and name not in _BITS and name != "untyped"


UNTYPED: dict[str, Rules] = {
    "UntypedRetype": (
        message(6, 1),
        refuse("there is such a type", lambda call: call.word(0) >= len(OBJECT_TYPES), invalid_argument(0)),
        refuse(
            "no object is larger than the largest untyped",
            lambda call: call.word(1) > MAXIMUM_BITS,
            range_error(0, _WORD_BITS - 3),
        ),
        refuse(
            "a CNode has two slots at least",
            lambda call: call.word(0) == _CNODE and not call.word(1),
            invalid_argument(1),
        ),
        refuse(
            "an untyped has 16 bytes at least",
            lambda call: call.word(0) == _UNTYPED and call.word(1) < MINIMUM_BITS,
            invalid_argument(1),
        ),
        Rule("root, index and depth name a CNode", _node_found),
        Rule("the first slot is one of the CNode", _offset),
        refuse(
            "1 to 256 objects are made",
            lambda call: not 1 <= call.word(5) <= MAXIMUM_OBJECTS,
            range_error(1, MAXIMUM_OBJECTS),
        ),
        Rule("the last slot is one of the CNode", _fits),
        Rule("the slots are empty", _all_empty),
        Rule("the untyped has room", _enough),
        refuse(
            "device memory and the other world's hold only untypeds and frames", _kernel_object, invalid_argument(1)
        ),
    ),
}
