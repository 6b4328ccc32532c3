# SPDX-License-Identifier: BSD-2-Clause
"""What goes together in one call, victim by victim, so that the call can succeed in the snapshot.

Kinds and slot types alone leave most combinations wrong: a frame that is mapped already, an address without a table
of the right level, a depth that finds nothing. A call that is not listed gets its own CNode and address space, and
depths that resolve. Nothing here forbids anything: so much of the calls is made without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fuzz.calls import OF_TYPE, Fit
from fuzz.normal_fits import NormalFits
from harness.programs.descriptions import NORMAL_ACTIONS, Action, CallType
from harness.programs.interfaces import Interface
from harness.programs.population import FRAME_BITS, OBJECT_TYPES, OWN, SLOT_TYPES, NamedSlot

Choices = dict[str, tuple[bytes, ...]]
"""Selectors by argument name, and those of the target as `target`."""

TARGET = "target"
MEETING = "channel"
_ROOTS = {"root", "src_root", "dest_root", "pivot_root", "cspace_root"}
_SPACES = {"pd", "pud", "pgd", "vspace_root"}
_SIZES = {"untyped": (4, 5, 6, 8, 10, 12), "cnode": (1, 2, 3, 4, 5, 6)}
_MADE_SECURE = ("untyped", "tcb", "endpoint", "notification", "cnode", "page-upper-directory",
                "page-global-directory", "page-4k", "page-table", "page-directory")  # fmt: skip
_MADE_NON_SECURE = ("untyped", "page-4k")
# Where tables of each level are missing, and frames of each size fit.
_FREE = {
    "page-4k": (0x10000000, 0x10200000),
    "page-2m": (0x10400000, 0x11000000),
    "page-1g": (0x80000000, 0x100000000),
}
_TABLES = {
    "ARM_PageTable_Map": ("page-table", (0x10400000, 0x11000000)),
    "ARM_PageDirectory_Map": ("page-directory", (0x80000000, 0x100000000)),
    "ARM_PageUpperDirectory_Map": ("page-upper-directory", (0x8000000000, 0x10000000000)),
}
_FRAMES = tuple(FRAME_BITS)
_COPIED = ("endpoint", "notification", "tcb", *_FRAMES, "cnode", "smc")


class VictimFits:
    """What goes together for one victim."""

    def __init__(self, interface: Interface, victim: int, only: tuple[str, ...] = ()) -> None:
        """`only`: types of what is copied, moved, deleted and sent; none: all that can be."""
        self._interface = interface
        self._only = only
        self._victim = victim
        self._world = interface.population.victims[victim].world
        self._priority = interface.population.victims[victim].priority
        self._slots = interface.population.slots(victim)
        self._mapped = {s.slot.mapped for s in self._slots if s.slot.mapped is not None}

    def of(self, call: CallType) -> tuple[Fit, ...]:
        """What goes together in a call; none if the victim lacks something that it needs."""
        if call.action in NORMAL_ACTIONS:
            return NormalFits(self._interface).of(call)
        make = _MAKERS.get(call.name) or _BY_ACTION.get(call.action)
        if make is None and call.action is Action.INVOKE:
            make = _by_interface(call)
        if make is None:
            return ()
        common = self._common(call)
        fits = []
        for choices in make(self, call):
            if all(choices.values()):
                whole = common | choices
                arguments = tuple(whole.get(parameter.name, ()) for parameter in call.parameters)
                fits.append(Fit(whole.get(TARGET, ()), arguments))
        return tuple(fits)

    # -- selectors

    def slots(self, *types: str, where: Callable[[NamedSlot], bool] = lambda _: True) -> tuple[bytes, ...]:
        """The victim's slots of these types."""
        found = []
        for name in types:
            type_ = SLOT_TYPES.index(name)
            for which, number in enumerate(self._interface.population.of_type(self._victim, type_)):
                if name == "free" or where(self._slots[number - 1]):
                    found.append(bytes((OF_TYPE | type_ << 2, which)))
        return tuple(found)

    def own(self, what: str) -> tuple[bytes, ...]:
        """The slot of something that the victim has of itself."""
        return self.slots(OWN[what], where=lambda slot: slot.slot.of == what)

    def values(self, kind: str, wanted: Callable[[int], bool]) -> tuple[bytes, ...]:
        """Selectors of the values of a pool."""
        return tuple(bytes((n, 0)) for n, value in enumerate(self._interface.pools[kind].values) if wanted(value))

    def _common(self, call: CallType) -> Choices:
        choices: Choices = {TARGET: self.own("cnode")} if call.interface == "seL4_CNode" else {}
        for parameter in call.parameters:
            if parameter.kind == "depth":
                choices[parameter.name] = self.values("depth", lambda value: value == 64)
            elif parameter.kind in ("node_index", "node_depth", "cnode_data"):
                choices[parameter.name] = (bytes(2),)
            elif parameter.name in _ROOTS:
                choices[parameter.name] = self.own("cnode")
            elif parameter.name in _SPACES:
                choices[parameter.name] = self.own("vspace")
            elif parameter.destination:
                choices[parameter.name] = self.slots("free")
        return choices

    def _between(self, low: int, high: int, alignment: int) -> tuple[bytes, ...]:
        """Addresses at which nothing is mapped."""
        return self.values("vaddr", lambda a: low <= a < high and not a % alignment and a not in self._mapped)

    def _other(self, *types: str) -> tuple[bytes, ...]:
        """Slots of objects that no victim needs to go on."""
        return self.slots(*types, where=lambda slot: slot.slot.of not in OWN)

    def _among(self, *types: str) -> tuple[str, ...]:
        return tuple(type_ for type_ in types if not self._only or type_ in self._only)

    def _threads(self) -> tuple[bytes, ...]:
        return self._other("tcb")

    # -- calls

    def page_map(self, call: CallType) -> Iterable[Choices]:
        for type_, (low, high) in _FREE.items():
            frames = self.slots(type_, where=lambda slot: slot.slot.mapped is None)
            yield {TARGET: frames, "vaddr": self._between(low, high, 1 << FRAME_BITS[type_])}

    def mapped_page(self, call: CallType) -> Iterable[Choices]:
        choices = {TARGET: self.slots(*_FRAMES, where=lambda slot: slot.slot.mapped is not None)}
        if any(parameter.name == "start_offset" for parameter in call.parameters):
            choices |= {"start_offset": self.values("clean_start", lambda v: v < 0x40)}
            choices |= {"end_offset": self.values("clean_end", lambda v: 0x40 <= v <= 0x1000)}
        yield choices

    def table_map(self, call: CallType) -> Iterable[Choices]:
        type_, (low, high) = _TABLES[call.name]
        yield {TARGET: self._other(type_), "vaddr": self._between(low, high, 0x200000)}

    def clean_space(self, call: CallType) -> Iterable[Choices]:
        for slot in self._slots:
            at = slot.slot.mapped
            if at is not None and slot.type in FRAME_BITS:
                yield {
                    TARGET: self.own("vspace"),
                    "start": self.values("vaddr", lambda v, at=at: v == at),  # type: ignore[misc]
                    "end": self.values("vaddr_end", lambda v, at=at: v in (at + 0x40, at + 0x1000)),  # type: ignore[misc]
                }

    def retype(self, call: CallType) -> Iterable[Choices]:
        secure = self._world == "secure"
        arena = self.slots("untyped", where=lambda slot: slot.slot.of.startswith("arena"))
        for type_ in _MADE_SECURE if secure else _MADE_NON_SECURE:
            sizes = _SIZES.get(type_, (4,))
            yield {
                TARGET: arena,
                "type": (bytes((OBJECT_TYPES.index(type_), 0)),),
                "size_bits": self.values("size_bits", lambda v, sizes=sizes: v in sizes),  # type: ignore[misc]
                "num_objects": self.values("count", lambda v: 1 <= v <= 4),
            }

    def copy(self, call: CallType) -> Iterable[Choices]:
        for type_ in self._among(*_COPIED, "untyped", "irq-handler"):
            yield {"src_index": self._other(type_)}
        if self._among("page-table"):
            yield {"src_index": self.slots("page-table", where=lambda slot: slot.slot.mapped is not None)}

    def mint(self, call: CallType) -> Iterable[Choices]:
        functions = {value for _, value in self._interface.pools["smc_function"].names}
        small = self.values("badge", lambda v: 0 < v < 0x100)
        for type_ in self._among("endpoint", "notification"):
            yield {"src_index": self.slots(type_, where=lambda slot: slot.slot.badge is None), "badge": small}
        whole = self.slots("smc", where=lambda slot: slot.slot.badge is None)
        yield {"src_index": whole, "badge": self.values("badge", lambda v: v in functions)}
        yield {"src_index": self._other(*self._among("tcb", *_FRAMES))}

    def moved(self, call: CallType) -> Iterable[Choices]:
        types = ("tcb", *_FRAMES, "page-table", "cnode") if call.name == "CNode_Mutate" else _COPIED
        for type_ in self._among(*types):
            yield {"src_index": self._other(type_)}
        if call.name == "CNode_Move":
            yield {"src_index": self._other(*self._among("reply", "irq-handler", "page-table", "untyped"))}

    def rotate(self, call: CallType) -> Iterable[Choices]:
        some, others = self._other("tcb", "page-table"), self._other(*_FRAMES)
        if self._only:
            some = others = self._other(*self._only)
        yield {"src_index": some, "pivot_index": others, "dest_index": self.slots("free")}
        yield {"src_index": others, "pivot_index": some, "dest_index": self.slots("free")}

    def occupied(self, call: CallType) -> Iterable[Choices]:
        for type_ in self._among(*SLOT_TYPES):
            if type_ != "free":
                yield {"index": self._other(type_)}

    def cancel_sends(self, call: CallType) -> Iterable[Choices]:
        yield {"index": self.slots("endpoint", where=lambda slot: slot.slot.rights is None)}

    def save_caller(self, call: CallType) -> Iterable[Choices]:
        yield {"index": self.slots("free")}

    def irq_get(self, call: CallType) -> Iterable[Choices]:
        yield {TARGET: self.slots("irq-control"), "irq": self.values("irq", lambda v: v in (92, 93))}

    def irq_handler(self, call: CallType) -> Iterable[Choices]:
        choices = {TARGET: self.slots("irq-handler")}
        if call.parameters:
            choices["notification"] = self.slots("notification")
        yield choices

    def make_pool(self, call: CallType) -> Iterable[Choices]:
        memory = self.slots("untyped", where=lambda slot: slot.slot.of == "pool-memory")
        yield {TARGET: self.slots("asid-control"), "untyped": memory}

    def assign(self, call: CallType) -> Iterable[Choices]:
        yield {TARGET: self.slots("asid-pool"), "vroot": self._other("page-global-directory")}

    def domain(self, call: CallType) -> Iterable[Choices]:
        yield {
            TARGET: self.slots("domain"),
            "domain": self.values("domain", lambda v: v < 2),
            "thread": self._threads(),
        }

    def smc(self, call: CallType) -> Iterable[Choices]:
        names = dict(self._interface.pools["badge"].names)
        for slot in self._slots:
            if slot.type == "smc":
                badge = slot.slot.badge
                function = names.get(badge) if isinstance(badge, str) else badge
                functions = self.values("smc_function", lambda v, of=function: of in (None, v))  # type: ignore[misc]
                yield {TARGET: self.slots("smc", where=lambda s, it=slot: s is it), "x0": functions}  # type: ignore[misc]

    def thread(self, call: CallType) -> Iterable[Choices]:
        choices, highest = {TARGET: self._threads()}, self._priority
        frames = self.slots("page-4k", where=lambda slot: "uart" not in slot.name and "virtio" not in slot.name)
        for parameter in call.parameters:
            if parameter.kind in ("priority", "priorities"):
                choices[parameter.name] = self.values(
                    parameter.kind, lambda v: v & 0xFF <= highest and v >> 8 <= highest and v >> 16 == 0
                )
            elif parameter.kind == "register_count":
                choices[parameter.name] = self.values("register_count", lambda v: 0 < v <= 34)
            elif parameter.name == "fault_ep":
                choices[parameter.name] = self.slots("endpoint")
            elif parameter.name == "source":
                choices[parameter.name] = self._threads()
            elif parameter.name == "buffer":
                choices[parameter.name] = self.values("vaddr", lambda a: a in self._mapped and not a % 0x200)
            elif parameter.name == "bufferFrame":
                choices[parameter.name] = frames
            elif parameter.name == "notification":
                choices[parameter.name] = self.slots("notification", where=lambda s: s.slot.of == "doorbell")
            elif parameter.name == "vspace_root_data":
                choices[parameter.name] = (bytes(2),)
        yield choices
        if "buffer" in choices:
            # No buffer: the frame does not matter.
            yield choices | {"buffer": self.values("vaddr", lambda a: a == 0), "bufferFrame": self.slots(*_FRAMES)}

    def message(self, call: CallType) -> Iterable[Choices]:
        """A capability to whoever waits at the meeting point."""
        yield {
            **({TARGET: self.meeting()} if call.target else {}),
            "length": self.values("length", lambda v: v <= 4),
            "caps": self.values("cap_count", lambda v: v == 1),
            "cap": self._other(*self._among(*_COPIED)),
        }

    def receive(self, call: CallType) -> Iterable[Choices]:
        """Ready for a capability."""
        yield {TARGET: self.meeting()}
        yield {TARGET: self.slots("endpoint", "notification")}

    def meeting(self) -> tuple[bytes, ...]:
        """The endpoint at which victims meet; nobody else waits there."""
        return self.slots("endpoint", where=lambda slot: slot.slot.of == MEETING and slot.slot.rights is None)

    def unbind(self, call: CallType) -> Iterable[Choices]:
        bound = {helper.name for helper in self._interface.population.helpers if helper.notification is not None}
        yield {TARGET: self.slots("tcb", where=lambda slot: slot.slot.of in bound)}

    def target(self, call: CallType) -> Iterable[Choices]:
        """Calls of which nothing is known but what they work on."""
        types = {"seL4_ARM_Page": _FRAMES, "seL4_ARM_PageTable": ("page-table",)}.get(call.interface, ())
        types = types or tuple(type_ for type_ in SLOT_TYPES if call.interface.lower().endswith(type_.replace("-", "")))
        if types:
            yield {TARGET: self._other(*types)}


def _by_interface(call: CallType) -> Callable[[VictimFits, CallType], Iterable[Choices]]:
    kinds = {
        "seL4_TCB": VictimFits.thread,
        "seL4_IRQHandler": VictimFits.irq_handler,
        "seL4_ARM_PageGlobalDirectory": VictimFits.clean_space,
    }
    if call.interface == "seL4_ARM_Page" and call.name != "ARM_Page_GetAddress":
        return VictimFits.mapped_page
    return kinds.get(call.interface, VictimFits.target)


_BY_ACTION: dict[str, Callable[[VictimFits, CallType], Iterable[Choices]]] = {
    Action.SEND: VictimFits.message,
    Action.TRANSFER: VictimFits.message,
    Action.RECEIVE: VictimFits.receive,
}
_MAKERS: dict[str, Callable[[VictimFits, CallType], Iterable[Choices]]] = {
    "ARM_Page_Map": VictimFits.page_map,
    **dict.fromkeys(_TABLES, VictimFits.table_map),
    "Untyped_Retype": VictimFits.retype,
    "CNode_Copy": VictimFits.copy,
    "CNode_Mint": VictimFits.mint,
    "CNode_Move": VictimFits.moved,
    "CNode_Mutate": VictimFits.moved,
    "CNode_Rotate": VictimFits.rotate,
    "CNode_Delete": VictimFits.occupied,
    "CNode_Revoke": VictimFits.occupied,
    "CNode_CancelBadgedSends": VictimFits.cancel_sends,
    "CNode_SaveCaller": VictimFits.save_caller,
    "IRQControl_Get": VictimFits.irq_get,
    "ARM_ASIDControl_MakePool": VictimFits.make_pool,
    "ARM_ASIDPool_Assign": VictimFits.assign,
    "DomainSet_Set": VictimFits.domain,
    "ARM_SMC_Call": VictimFits.smc,
    "TCB_UnbindNotification": VictimFits.unbind,
}
