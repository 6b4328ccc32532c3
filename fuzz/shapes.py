# SPDX-License-Identifier: BSD-2-Clause
"""What the typed mutators know, taken from the call table and the snapshot's population.

The kernel's interface descriptions give a parameter a type and a name; here is which slots make
sense for each. A parameter that is not listed takes any slot: the table only makes useful programs
likelier, and makes none impossible.
"""

from __future__ import annotations

from fuzz.mutators import CallShape, PoolShape, Shapes, SlotShape
from fuzz.targets import Target
from harness.programs.descriptions import Action, CallType, Parameter
from harness.programs.interfaces import Interface
from harness.programs.population import SLOT_TYPES

SLOT = "slot"
FREE = "free"

_PAGES = ("page-4k", "page-2m", "page-1g")
_BY_INTERFACE = {
    "seL4_CNode": ("cnode",),
    "seL4_Untyped": ("untyped",),
    "seL4_TCB": ("tcb",),
    "seL4_IRQControl": ("irq-control",),
    "seL4_IRQHandler": ("irq-handler",),
    "seL4_DomainSet": ("domain",),
    "seL4_ARM_Page": _PAGES,
    "seL4_ARM_PageTable": ("page-table",),
    "seL4_ARM_PageDirectory": ("page-directory",),
    "seL4_ARM_PageUpperDirectory": ("page-upper-directory",),
    "seL4_ARM_PageGlobalDirectory": ("page-global-directory",),
    "seL4_ARM_ASIDControl": ("asid-control",),
    "seL4_ARM_ASIDPool": ("asid-pool",),
    "seL4_ARM_SMC": ("smc",),
}
_BY_NAME = {
    "pd": ("page-global-directory",),
    "vspace": ("page-global-directory",),
    "vroot": ("page-global-directory",),
    "vspace_root": ("page-global-directory",),
    "cspace_root": ("cnode",),
    "root": ("cnode",),
    "fault_ep": ("endpoint",),
    "bufferFrame": ("page-4k",),
    "notification": ("notification",),
    "source": ("tcb",),
}
# For one call only, before the names that are the same for all.
_BY_CALL = {
    ("CNode_CancelBadgedSends", "index"): ("endpoint",),
    ("CNode_SaveCaller", "index"): (FREE,),
    ("CNode_Rotate", "dest_index"): (FREE,),
    ("CNode_Rotate", "pivot_index"): tuple(name for name in SLOT_TYPES if name != FREE),
    ("ARM_ASIDPool_Assign", "vroot"): ("page-global-directory",),
}
_BY_ACTION = {
    Action.SEND: ("endpoint", "notification", "reply"),
    Action.TRANSFER: ("endpoint", "notification", "reply"),
    Action.RECEIVE: ("endpoint", "notification"),
}

# The victim's own is the first of these; a map into another address space, say, is the rarer case.
_OWN_FIRST = {"cnode": 0.85, "page-global-directory": 0.85, "untyped": 0.7}
# Where the first of its type is the one that does not work.
_ANY_OF = {"vroot": 0.1, "source": 0.1, "thread": 0.1, "untyped": 0.3}
# Values without which nearly every call fails.
_USUAL_FIRST = {
    "depth": 0.85, "node_index": 0.85, "node_depth": 0.8, "count": 0.6, "attributes": 0.3, "length": 0.3,
    "cnode_data": 0.85, "register_count": 0.3, "clean_start": 0.6, "clean_end": 0.3, "priorities": 0.3,
    "priority": 0.3, "domain": 0.5,
}  # fmt: skip


def slot_shape(types: tuple[str, ...], *, sure: float = 0.7, first: float | None = None) -> SlotShape:
    """The shape of a slot argument that wants one of these types; names that are no slot types are left out."""
    numbers = tuple(SLOT_TYPES.index(name) for name in types if name in SLOT_TYPES)
    if first is None:
        first = _OWN_FIRST.get(types[0], 0.2) if types else 0.2
    return SlotShape(numbers, sure, first)


def _target(call: CallType, interface: Interface) -> SlotShape | PoolShape | None:
    if not call.target:
        return None
    if call.target != SLOT:
        return PoolShape(len(interface.pools[call.target].values))
    types = _BY_ACTION.get(call.action) or _BY_INTERFACE.get(call.interface, ())
    # A victim that suspends itself or writes its own registers makes no more calls.
    first = 0.1 if types == ("tcb",) else None
    return slot_shape(types, sure=0.75, first=first)


def _argument(call: CallType, parameter: Parameter, interface: Interface) -> SlotShape | PoolShape:
    if parameter.kind != SLOT:
        values = interface.pools[parameter.kind].values
        return PoolShape(len(values), _USUAL_FIRST.get(parameter.kind, 0.0), parameter.words > 1)
    if parameter.destination:
        return slot_shape((FREE,), sure=0.9)
    first = _ANY_OF.get(parameter.name)
    if types := _BY_CALL.get((call.name, parameter.name)):
        return slot_shape(types, sure=0.85, first=first)
    types = _BY_NAME.get(parameter.name) or _BY_INTERFACE.get(parameter.type, ())
    if types:
        return slot_shape(types, sure=0.85, first=first)
    return SlotShape(tuple(number for number, name in enumerate(SLOT_TYPES) if name != FREE))


def shapes_of(interface: Interface, target: Target) -> Shapes:
    """What a target's typed mutators know."""
    population = interface.population
    calls = tuple(
        CallShape(
            call.name,
            _target(call, interface),
            tuple(_argument(call, parameter, interface) for parameter in call.parameters),
            target.weight(call.name),
        )
        for call in interface.calls
    )
    counts = tuple(
        tuple(len(population.of_type(victim, number)) for number in range(len(SLOT_TYPES)))
        for victim in range(len(population.victims))
    )
    shares = tuple(len(population.slots(victim)) for victim in range(len(population.victims)))
    return Shapes(calls, counts, population.slots_per_victim, shares)
