# SPDX-License-Identifier: BSD-2-Clause
"""A fixed mix of calls for measurements: random programs most of whose calls can succeed.

Every call of the table has the same share, except Yield (2 %). A program belongs to one
victim (three in four programs: the first), and one call in 64 is another victim's: a change of
victim is a change of address space, at which QEMU flushes its TLB. Where a call wants a
capability, the mix chooses one of a type that it works on, most often from the population and
else the result of an earlier call; destinations are free slots; addresses are ones where the
tables are there. One invocation in four goes to a capability of any type, as it happens in
campaigns; with what the calls before have left behind, about two calls in three succeed.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from harness.programs.interfaces import Interface
from harness.programs.population import SLOT_TYPES
from harness.programs.program import Argument, Call, Program, choice, of_type, result, slot

YIELD_SHARE = 0.02
OTHER_VICTIM_SHARE = 1 / 64
FIRST_VICTIM_SHARE = 0.75
ANY_TYPE_SHARE = 0.25
_OBJECTS = {"endpoint": 0, "notification": 0, "tcb": 0, "page-4k": 0, "page-table": 0, "cnode": 4, "untyped": 6}
"""Types that the mix makes, with their size bits."""
_SMALL = ("endpoint", "notification", "page-4k", "untyped", "cnode", "tcb")


class Mix:
    """Generates programs for the call table of an interface."""

    def __init__(self, interface: Interface, seed: int = 1) -> None:
        """The same seed gives the same programs."""
        self._interface = interface
        self._random = random.Random(seed)
        self._victim = 0
        self._made: list[tuple[int, str]] = []

    def program(self, calls: int = 16) -> Program:
        """One program of so many calls."""
        names = [call.name for call in self._interface.calls]
        weights = [YIELD_SHARE if name == "Yield" else (1 - YIELD_SHARE) / (len(names) - 1) for name in names]
        victims = len(self._interface.population.victims)
        owner = 0 if self._random.random() < FIRST_VICTIM_SHARE else self._random.randrange(victims)
        self._made = []
        made = []
        for index, name in enumerate(self._random.choices(names, weights, k=calls)):
            other = self._random.random() < OTHER_VICTIM_SHARE
            self._victim = self._random.randrange(victims) if other else owner
            made.append(self._call(name, index))
        return Program(self._interface, tuple(made))

    def _call(self, name: str, index: int) -> Call:
        type_ = self._interface.call(name)
        fill: Callable[[int], tuple[Argument | None, dict[str, Argument]]]
        fill = getattr(self, "_" + name.lower(), self._anything)
        target, given = fill(index)
        if type_.interface and self._random.random() < ANY_TYPE_SHARE:
            target = of_type(self._random.choice(SLOT_TYPES), self._random.randrange(16))
        arguments = []
        for parameter in type_.parameters:
            if parameter.name in given:
                arguments.append(given[parameter.name])
            elif parameter.kind != "slot":
                arguments.append(choice(0))
            elif parameter.name in ("root", "src_root", "dest_root"):
                arguments.append(self._named("cnode"))
            elif parameter.name in ("pd", "pud", "pgd"):
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
        return self._type(*_SMALL), {}

    def _cnode_copy(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        type_ = self._random.choice(("endpoint", "notification", "tcb", "page-4k", "page-2m", "cnode"))
        rights = self._value("rights", "all", "read-write", "read", "write")
        given = {"dest_index": self._free(index, type_), "src_index": self._type(type_), "rights": rights}
        return self._named("cnode"), given

    def _cnode_mint(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        target, given = self._cnode_copy(index)
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

    def _cnode_move(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        type_ = self._random.choice(("endpoint", "notification", "page-4k", "page-table"))
        return self._named("cnode"), {"dest_index": self._free(index, type_), "src_index": self._type(type_)}

    def _cnode_delete(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("cnode"), {"index": self._type("notification", "page-4k", "page-2m", "endpoint", "smc")}

    def _cnode_revoke(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("cnode"), {"index": self._type("untyped", "notification", "page-4k", "page-2m")}

    def _untyped_retype(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        secure = self._interface.population.victims[self._victim].world == "secure"
        type_ = self._random.choice(tuple(_OBJECTS)) if secure else self._random.choice(("page-4k", "untyped"))
        given = {
            "type": self._value("object_type", type_),
            "size_bits": self._value("size_bits", _OBJECTS[type_]),
            "node_offset": self._free(index, type_),
            "num_objects": self._value("count", 1, 1, 1, 2, 3),
        }
        return self._named("arena"), given

    def _arm_page_map(self, index: int) -> tuple[Argument, dict[str, Argument]]:
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

    def _arm_page_remap(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        name = self._random.choice(("page-s-mapped", "page-n-mapped", "large-s-mapped", "large-n-mapped"))
        target = self._named(name)
        given = {"rights": self._value("rights", "read-write", "read", "all"), "attr": self._any("attributes")}
        return (self._named("page-n-mapped") if target == slot(0) else target), given

    def _arm_page_unmap(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._type("page-4k", "page-2m"), {}

    def _arm_pagetable_map(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        table = self._named("spare-table-" + self._random.choice("abc"))
        return table, {"vaddr": self._value("vaddr", 0x10600000, 0x10800000, 0x10A00000, 0x10C00000)}

    def _arm_pagetable_unmap(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("spare-table-" + self._random.choice("abc")), {}

    def _arm_smc_call(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        function = self._value("smc_function", "echo", "echo", "smccc_version", "psci_version", "psci_features")
        target = self._named("smc")
        if target == slot(0):
            target, function = self._named("smc-echo"), self._value("smc_function", "echo")
        return target, {"x0": function, "x1": self._any("word"), "x2": self._any("word"), "x7": self._any("word")}

    def _message(self) -> dict[str, Argument]:
        return {"length": self._value("length", 0, 1, 2, 4, 8), "mr0": self._any("word"), "mr3": self._any("word")}

    def _send(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named(self._random.choice(("outbox", "doorbell", "doorbell", "bell"))), self._message()

    def _nbsend(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._type("endpoint", "notification"), self._message()

    def _recv(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named("inbox"), {}

    def _nbrecv(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        return self._named(self._random.choice(("inbox", "channel", "doorbell"))), {}

    def _yield(self, index: int) -> tuple[None, dict[str, Argument]]:
        return None, {}

    def _load(self, index: int) -> tuple[Argument, dict[str, Argument]]:
        addresses = sorted(
            named.slot.mapped
            for named in self._interface.population.slots(self._victim)
            if named.slot.mapped is not None and named.type.startswith("page-") and named.type != "page-table"
        )
        return self._value("vaddr", *addresses), {}
