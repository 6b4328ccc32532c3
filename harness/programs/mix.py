# SPDX-License-Identifier: BSD-2-Clause
"""A fixed mix of calls for measurements: random programs most of whose calls can succeed.

Every call of the table has the same share, except Yield (2 %) and what always ends in a fault (2 % in all). A program
belongs to one victim (three in four programs: the first), and one call in 64 is another victim's: a change of victim
is a change of address space, at which QEMU flushes its TLB. Where a call wants a capability, the mix chooses one of a
type that it works on, most often from the population and else the result of an earlier call; destinations are free
slots; addresses are ones where the tables are there. One invocation in eight goes to a capability of any type, as it
happens in campaigns; with what the calls before have left behind, about three calls in four succeed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from harness.programs.descriptions import NORMAL_ACTIONS
from harness.programs.interfaces import Interface
from harness.programs.population import SLOT_TYPES
from harness.programs.program import Argument, Call, Program, choice, of_type, result, slot

YIELD_SHARE = 0.02
OTHER_VICTIM_SHARE = 1 / 64
FIRST_VICTIM_SHARE = 0.75
ANY_TYPE_SHARE = 0.125
FAULT_SHARE = 0.02
_FAULTS = ("Jump", "UndefinedInstruction", "UnknownSystemCall")
_OBJECTS = {"endpoint": 0, "notification": 0, "tcb": 0, "page-4k": 0, "page-table": 0, "cnode": 4, "untyped": 6}
"""Types that the mix makes, with their size bits."""
_SMALL = ("endpoint", "notification", "page-4k", "untyped", "cnode", "tcb")


class Mix:
    """Generates programs for the call table of an interface."""

    def __init__(self, interface: Interface, seed: int = 1, names: Sequence[str] = ()) -> None:
        """The same seed gives the same programs; `names` are the calls that they make, by default all of victims."""
        self._interface = interface
        self._names = list(names) or [call.name for call in interface.calls if call.action not in NORMAL_ACTIONS]
        self._weights = self._shares()
        self._random = random.Random(seed)
        self._victim = 0
        self._made: list[tuple[int, str]] = []

    def program(self, calls: int = 16) -> Program:
        """One program of so many calls."""
        victims = len(self._interface.population.victims)
        owner = 0 if self._random.random() < FIRST_VICTIM_SHARE else self._random.randrange(victims)
        self._made = []
        made = []
        for index, name in enumerate(self._random.choices(self._names, self._weights, k=calls)):
            other = self._random.random() < OTHER_VICTIM_SHARE
            self._victim = self._random.randrange(victims) if other else owner
            made.append(self._call(name, index))
        return Program(self._interface, tuple(made))

    def _shares(self) -> list[float]:
        rare = {name: FAULT_SHARE / len(_FAULTS) for name in _FAULTS} | {"Yield": YIELD_SHARE}
        rare = {name: share for name, share in rare.items() if name in self._names}
        usual = (1 - sum(rare.values())) / max(len(self._names) - len(rare), 1)
        return [rare.get(name, usual) for name in self._names]

    def _call(self, name: str, index: int) -> Call:
        type_ = self._interface.call(name)
        fill: Callable[[int], tuple[Argument | None, dict[str, Argument]]]
        fill = getattr(self, "_make_" + name.lower(), self._anything)
        target, given = fill(index)
        if type_.interface and self._random.random() < ANY_TYPE_SHARE:
            target = of_type(self._random.choice(SLOT_TYPES), self._random.randrange(16))
        arguments = []
        for parameter in type_.parameters:
            if parameter.name in given:
                arguments.append(given[parameter.name])
            elif parameter.kind != "slot":
                arguments.append(choice(0))
            elif parameter.name in ("root", "src_root", "dest_root", "pivot_root", "cspace_root"):
                arguments.append(self._named("cnode"))
            elif parameter.name in ("pd", "pud", "pgd", "vspace_root"):
                arguments.append(self._named("vspace"))
            else:
                arguments.append(slot(0))
        return Call(name, self._victim, target, tuple(arguments))

    # -- parts

    def _named(self, name: str) -> Argument:
        return slot(self._interface.population.slot_number(self._victim, name) or 0)

    def _type(self, *types: str) -> Argument:
        """A slot of one of the types: the result of an earlier call in one case of four, if there is one."""
        made = [call for call, type_ in self._made if type_ in types]
        if made and self._random.random() < 0.25:
            return result(self._random.choice(made))
        return of_type(self._random.choice(types), self._random.randrange(16))

    def _free(self, index: int, type_: str) -> Argument:
        self._made.append((index, type_))
        return of_type("free", self._random.randrange(48))

    def _value(self, kind: str, *values: int | str) -> Argument:
        pool = self._interface.pools[kind]
        value = self._random.choice(values)
        return choice(pool.values.index(dict(pool.names)[value] if isinstance(value, str) else value))

    def _any(self, kind: str) -> Argument:
        return choice(self._random.randrange(len(self._interface.pools[kind].values)))

    # -- one method for each call; each returns the target and the arguments that matter

    def _anything(self, index: int) -> tuple[Argument | None, dict[str, Argument]]:
        """What has no method of its own: calls without arguments, or with any."""
        return None, {}

    def _make_cnode_copy(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        type_ = self._random.choice(("endpoint", "notification", "tcb", "page-4k", "page-2m", "cnode"))
        rights = self._value("rights", "all", "read-write", "read", "write")
        given = {"dest_index": self._free(index, type_), "src_index": self._type(type_), "rights": rights}
        return self._named("cnode"), given

    def _make_cnode_mint(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        target, given = self._make_cnode_copy(index)
        self._made.pop()
        type_ = self._random.choice(("endpoint", "notification", "page-4k", "smc"))
        return target, {
            "dest_index": self._free(index, type_),
            "src_index": self._named("inbox" if type_ == "endpoint" else "doorbell")
            if type_ in ("endpoint", "notification")
            else self._type(type_),
            "rights": given["rights"],
            "badge": self._value("badge", "smc:echo") if type_ == "smc" else self._value("badge", 1, 2, 0x51),
        }

    def _make_cnode_move(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        type_ = self._random.choice(("endpoint", "notification", "page-4k", "page-table"))
        return self._named("cnode"), {"dest_index": self._free(index, type_), "src_index": self._type(type_)}

    def _make_cnode_delete(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("cnode"), {"index": self._type("notification", "page-4k", "page-2m", "endpoint", "smc")}

    def _make_cnode_revoke(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("cnode"), {"index": self._type("untyped", "notification", "page-4k", "page-2m")}

    def _make_untyped_retype(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        secure = self._interface.population.victims[self._victim].world == "secure"
        type_ = self._random.choice(tuple(_OBJECTS)) if secure else self._random.choice(("page-4k", "untyped"))
        given = {
            "type": self._value("object_type", type_),
            "size_bits": self._value("size_bits", _OBJECTS[type_]),
            "node_offset": self._free(index, type_),
            "num_objects": self._value("count", 1, 1, 1, 2, 3),
        }
        return self._named("arena"), given

    def _make_arm_page_map(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        addresses = (0x10003000, 0x10004000, 0x10005000, 0x10006000, 0x10007000, 0x10008000)
        large = (0x10600000, 0x10800000, 0x10A00000, 0x10C00000)
        few, many = ("large-n", "page-n"), ("page-n", "page-s", "page-s-copy", "page-n-copy")
        name = self._random.choice(few if self._random.random() < 0.4 else many)
        target = self._named(name)
        if target == slot(0):
            target = self._named("page-n")
        made = [call for call, type_ in self._made if type_ == "page-4k"]
        if made and self._random.random() < 0.4:
            target, name = result(self._random.choice(made)), "page"
        given = {
            "vaddr": self._value("vaddr", *(large if name.startswith("large") else addresses)),
            "rights": self._value("rights", "read-write", "read", "all"),
            "attr": self._any("attributes"),
        }
        return target, given

    def _make_arm_page_remap(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        name = self._random.choice(("page-s-mapped", "page-n-mapped", "large-s-mapped", "large-n-mapped"))
        target = self._named(name)
        given = {"rights": self._value("rights", "read-write", "read", "all"), "attr": self._any("attributes")}
        return (self._named("page-n-mapped") if target == slot(0) else target), given

    def _make_arm_page_unmap(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._type("page-4k", "page-2m"), {}

    def _make_arm_pagetable_map(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        table = self._named("spare-table-" + self._random.choice("abc"))
        return table, {"vaddr": self._value("vaddr", 0x10600000, 0x10800000, 0x10A00000, 0x10C00000)}

    def _make_arm_pagetable_unmap(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("spare-table-" + self._random.choice("abc")), {}

    def _make_arm_smc_call(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        function = self._value("smc_function", "echo", "rotate", "smccc_version", "psci_version", "psci_features")
        target = self._named("smc")
        if target == slot(0):
            target, function = self._named("smc-echo"), self._value("smc_function", "echo")
        return target, {"x0": function, "x1": self._any("word"), "x2": self._any("word"), "x7": self._any("word")}

    def _message(self) -> dict[str, Argument]:
        return {"length": self._value("length", 0, 1, 2, 4, 8), "mr0": self._any("word"), "mr3": self._any("word")}

    def _make_send(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named(self._random.choice(("outbox", "doorbell", "doorbell", "bell"))), self._message()

    def _make_nbsend(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._type("endpoint", "notification"), self._message()

    def _make_recv(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("inbox"), {}

    def _make_nbrecv(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named(self._random.choice(("inbox", "channel", "doorbell"))), {}

    def _make_yield(self, index: int) -> tuple[None, dict[str, Argument]]:
        return None, {}

    def _make_load(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        addresses = sorted(
            named.slot.mapped
            for named in self._interface.population.slots(self._victim)
            if named.slot.mapped is not None and named.type.startswith("page-") and named.type != "page-table"
        )
        return self._value("vaddr", *addresses), {}

    def _writable(self) -> int:
        """An address at which the victim may write."""
        slots = self._interface.population.slots(self._victim)
        return next(s.slot.mapped for s in slots if s.slot.mapped is not None and s.type == "page-4k")

    def _make_store(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        given = {"offset": self._value("offset", 0, 8, 0x40, 0x800), "value": self._any("word")}
        return self._value("vaddr", self._writable()), given

    def _make_jump(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._any("vaddr"), {}

    def _make_interrupt(self, index: int) -> tuple[None, dict[str, Argument]]:
        given = {"line": self._any("line"), "count": self._value("ticks", 1, 1, 2), "next_call": self._any("flag")}
        return None, given

    def _make_call(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("doorbell"), self._message()

    def _make_reply(self, index: int) -> tuple[None, dict[str, Argument]]:
        return None, self._message()

    def _make_replyrecv(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("inbox"), self._message()

    def _make_debugputchar(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._any("small"), {}

    def _make_debugcapidentify(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._type(*_SMALL), {}

    def _thread(self) -> Argument:
        """A thread that is no victim, as far as the victim has one."""
        return self._named(self._random.choice(("thread", "thread", "bare-thread", "helper")))

    def _make_tcb_readregisters(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._thread(), {"count": self._value("register_count", 1, 2, 4, 34)}

    def _make_tcb_writeregisters(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._thread(), {"count": self._value("register_count", 1, 2, 4, 34), "regs": self._any("registers")}

    def _make_tcb_copyregisters(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        given = {name: self._any("flag") for name in ("transfer_frame", "transfer_integer")}
        return self._named("thread"), given | {"source": self._named("helper")}

    def _make_tcb_configure(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        given = {"priority": self._value("priorities", 0x3232), "fault_ep": self._named("lost")}
        return self._thread(), given | self._make_tcb_setipcbuffer(index)[1]

    def _make_tcb_setpriority(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._thread(), {"priority": self._value("priority", 0, 1, 50)}

    def _make_tcb_setmcpriority(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._thread(), {"mcp": self._value("priority", 0, 1, 50)}

    def _make_tcb_setipcbuffer(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        frame = self._named(self._random.choice(("page-n", "page-n-mapped", "large-n")))
        return self._thread(), {"buffer": self._value("vaddr", 0x10000000, 0x10001000), "bufferFrame": frame}

    def _make_tcb_setspace(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._thread(), {"fault_ep": self._named("lost")}

    def _make_tcb_suspend(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._thread(), {}

    def _make_tcb_resume(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._thread(), {}

    def _make_tcb_bindnotification(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._thread(), {"notification": self._named("doorbell")}

    def _make_tcb_unbindnotification(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named(self._random.choice(("bound", "thread"))), {}

    def _make_cnode_cancelbadgedsends(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        name = "inbox-badged" if self._victim == 0 else "inbox"
        return self._named("cnode"), {"index": self._named(name)}

    def _make_cnode_mutate(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        type_ = self._random.choice(("tcb", "page-4k", "page-table"))
        return self._named("cnode"), {"dest_index": self._free(index, type_), "src_index": self._type(type_)}

    def _make_cnode_rotate(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        given = {"pivot_index": self._type("page-4k"), "src_index": self._type("page-table", "tcb")}
        return self._named("cnode"), given | {"dest_index": self._free(index, "tcb")}

    def _make_cnode_savecaller(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("cnode"), {"index": self._free(index, "reply")}

    def _make_irqcontrol_get(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        given = {"irq": self._value("irq", 92, 93), "index": self._free(index, "irq-handler")}
        return self._named("irq-control"), given

    def _make_irqhandler_ack(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._type("irq-handler"), {}

    def _make_irqhandler_setnotification(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._type("irq-handler"), {"notification": self._named("doorbell")}

    def _make_irqhandler_clear(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._type("irq-handler"), {}

    def _make_domainset_set(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("domain"), {"domain": self._value("domain", 0, 1), "thread": self._named("thread")}

    def _make_arm_asidcontrol_makepool(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        given = {"untyped": self._named("pool-memory"), "index": self._free(index, "asid-pool")}
        return self._named("asid-control"), given

    def _make_arm_asidpool_assign(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("pool"), {"vroot": self._named("spare-pgd")}

    def _make_arm_pageupperdirectory_map(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("spare-pud"), {"vaddr": self._value("vaddr", 0x8000000000)}

    def _make_arm_pageupperdirectory_unmap(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("spare-pud"), {}

    def _make_arm_pagedirectory_map(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("spare-pd"), {"vaddr": self._value("vaddr", 0x80000000, 0xC0000000)}

    def _make_arm_pagedirectory_unmap(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("spare-pd"), {}

    def _make_arm_page_getaddress(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._type("page-4k", "page-2m"), {}

    def _clean_frame(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        name = "page-s-mapped" if self._victim == 0 else "page-n-mapped"
        return self._named(name), {"end_offset": self._value("clean_end", 0x40, 0x800)}

    _make_arm_page_clean_data = _make_arm_page_invalidate_data = _clean_frame
    _make_arm_page_cleaninvalidate_data = _make_arm_page_unify_instruction = _clean_frame

    def _clean_space(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        start = self._writable()
        return self._named("vspace"), {
            "start": self._value("vaddr", start),
            "end": self._value("vaddr_end", start + 0x40),
        }

    _make_arm_pageglobaldirectory_clean_data = _make_arm_pageglobaldirectory_invalidate_data = _clean_space
    _make_arm_pageglobaldirectory_cleaninvalidate_data = _clean_space
    _make_arm_pageglobaldirectory_unify_instruction = _clean_space
