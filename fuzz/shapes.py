# SPDX-License-Identifier: BSD-2-Clause
"""What the typed mutators know, taken from the call table and the snapshot's population.

The kernel's interface descriptions give a parameter a type and a name; here is which slots make
sense for each. A parameter that is not listed takes any slot: the table only makes useful programs
likelier, and makes none impossible.
"""

from __future__ import annotations

from collections.abc import Sequence

from fuzz.calls import Badged, CallShape, PoolShape, Shapes, SlotShape
from fuzz.exchanges import exchange_of
from fuzz.fits import VictimFits
from fuzz.targets import Target
from harness.programs.descriptions import Action, CallType, Parameter, Place
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
    "pud": ("page-global-directory",),
    "pgd": ("page-global-directory",),
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
}
_COPIED = ("endpoint", "notification", "tcb", *_PAGES, "cnode", "smc", "endpoint", "page-4k")
"""What most copies are made of: other capabilities cannot be copied, or only if nothing was derived from them."""
_BY_CALL |= {(f"CNode_{name}", "src_index"): _COPIED for name in ("Copy", "Mint", "Mutate")}
# Addresses that lie free below the tables that a call needs, in the population's address space.
_FREE_OF = {
    "ARM_Page_Map": ((0x10000000, 0x10100000), (0x10400000, 0x11000000), (0x80000000, 0x100000000)),
    "ARM_PageTable_Map": ((0x10400000, 0x11000000),),
    "ARM_PageDirectory_Map": ((0x80000000, 0x100000000),),
    "ARM_PageUpperDirectory_Map": ((0x8000000000, 0x10000000000),),
}
_BY_ACTION = {
    Action.SEND: ("endpoint", "notification", "reply"),
    Action.TRANSFER: ("endpoint", "notification", "reply"),
    Action.RECEIVE: ("endpoint", "notification"),
}

# What a call makes, and which argument says it.
_MAKES = {"IRQControl_Get": "irq-handler", "ARM_ASIDControl_MakePool": "asid-pool", "CNode_SaveCaller": "reply"}
_LIKE = {"Untyped_Retype": "type"} | {f"CNode_{name}": "src_index" for name in ("Copy", "Mint", "Mutate", "Move")}

# The victim's own is the first of these; a map into another address space, say, is the rarer case.
_OWN_FIRST = {"cnode": 0.85, "page-global-directory": 0.85, "untyped": 0.7}
# Untyped memory and capability tables that fit into an arena
_SIZES = (4, 5, 6, 8, 10, 12)
# Where the first of its type is the one that does not work.
_ANY_OF = {"vroot": 0.1, "source": 0.1, "thread": 0.1, "untyped": 0.3}
# Values without which nearly every call fails.
_USUAL_FIRST = {
    "depth": 0.85, "node_index": 0.85, "node_depth": 0.8, "count": 0.6, "attributes": 0.3, "length": 0.3,
    "cap_count": 0.6,
    "cnode_data": 0.85, "register_count": 0.3, "clean_start": 0.6, "clean_end": 0.3, "priorities": 0.3,
    "priority": 0.3, "domain": 0.5, "normal_argument": 0.3, "normal_client": 0.4, "smc_immediate": 0.95,
    "normal_offset": 0.5, "message_count": 0.3,
}  # fmt: skip
_SHORT = 4
"""Words of a message that the fast paths take."""


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
        address = Parameter("", "", call.target, Place.WORD, 0)
        return PoolShape(len(interface.pools[call.target].values), usual=_usual_addresses(call, address, interface))
    types = _BY_ACTION.get(call.action) or _BY_INTERFACE.get(call.interface, ())
    # A victim that suspends itself or writes its own registers makes no more calls.
    first = 0.1 if types == ("tcb",) else None
    return slot_shape(types, sure=0.75, first=first)


def _usual_addresses(call: CallType, parameter: Parameter, interface: Interface) -> tuple[int, ...]:
    """Numbers of the addresses at which a call finds what it needs: tables, or something mapped."""
    population = interface.population
    mapped = {s.slot.mapped for v in range(len(population.victims)) for s in population.slots(v) if s.slot.mapped}
    values = interface.pools[parameter.kind].values
    free = [address for address in values if address not in mapped and address & 0xFFF == 0]
    if call.interface == "seL4_ARM_PageGlobalDirectory":
        return tuple(n for n, address in enumerate(values) if address & -0x1000 in mapped)
    if call.action in (Action.LOAD, Action.STORE) or parameter.name == "buffer":
        return tuple(n for n, address in enumerate(values) if address in mapped)
    needs = _FREE_OF.get(call.name)
    return () if needs is None else tuple(values.index(a) for a in free if any(low <= a < high for low, high in needs))


def _argument(call: CallType, parameter: Parameter, interface: Interface) -> SlotShape | PoolShape:
    if parameter.kind != SLOT:
        values = interface.pools[parameter.kind].values
        usual = _usual_addresses(call, parameter, interface) if parameter.kind in ("vaddr", "vaddr_end") else ()
        if parameter.kind == "size_bits":
            usual = tuple(n for n, bits in enumerate(values) if bits in _SIZES)
        if parameter.kind == "length":
            usual = tuple(n for n, length in enumerate(values) if length <= _SHORT)
        return PoolShape(len(values), _USUAL_FIRST.get(parameter.kind, 0.0), parameter.words > 1, usual)
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
    victims = [VictimFits(interface, victim, target.moves) for victim in range(len(population.victims))]
    calls = tuple(
        CallShape(
            call.name,
            _target(call, interface),
            tuple(_argument(call, parameter, interface) for parameter in call.parameters),
            target.weight(call.name),
            tuple(victim.of(call) for victim in victims),
            _makes(call, target),
            _number(call, _LIKE.get(call.name)),
        )
        for call in interface.calls
    )
    counts = tuple(
        tuple(len(population.of_type(victim, number)) for number in range(len(SLOT_TYPES)))
        for victim in range(len(population.victims))
    )
    meeting = tuple(next(iter(victim.meeting()), b"") for victim in victims)
    shares = tuple(len(population.slots(victim)) for victim in range(len(population.victims)))
    badged, exchange = _badged(interface, target, victims), exchange_of(interface, target.weight("NormalMessage"))
    return Shapes(calls, counts, population.slots_per_victim, shares, badged, meeting, exchange)


def _makes(call: CallType, target: Target) -> int | None:
    """Number of the slot type that a call makes, if it is always the same."""
    name = _MAKES.get(call.name)
    if call.action is Action.RECEIVE and len(target.moves) == 1:
        name = target.moves[0]
    return None if name is None else SLOT_TYPES.index(name)


def _number(call: CallType, name: str | None) -> int | None:
    """Number of the argument of that name."""
    return next((n for n, parameter in enumerate(call.parameters) if parameter.name == name), None)


def _badged(interface: Interface, target: Target, victims: Sequence[VictimFits]) -> Badged | None:
    """How capabilities for one SMC function are made and used, if the target makes such calls."""
    numbers = interface.index
    if not {"CNode_Mint", "ARM_SMC_Call"} <= numbers.keys() or not target.weight("CNode_Mint"):
        return None
    mint, call = interface.call("CNode_Mint"), interface.call("ARM_SMC_Call")
    source, badge, function = _number(mint, "src_index"), _number(mint, "badge"), _number(call, "x0")
    if source is None or badge is None or function is None:
        return None
    whole = tuple(victim.slots("smc", where=lambda slot: slot.slot.badge is None) for victim in victims)
    if not any(whole):
        return None
    weight = round(target.weight("ARM_SMC_Call") / 2)
    return Badged(numbers[mint.name], source, badge, numbers[call.name], function, whole, weight)
