# SPDX-License-Identifier: BSD-2-Clause
"""What the snapshot holds: objects, blocked threads, and each victim's capability slots.

`guest_images/root_task/population.yaml` is the one source. The supervisor's C tables, the
names that programs use for slots, and the pools of addresses are all derived from it; what
the supervisor really made, and where, it reports into the exchange area (`Report`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness import protocol
from harness.configs import MachineConfig
from harness.errors import ConfigError, MachineError
from harness.yaml_source import read_yaml

POPULATION_FILE = Path(__file__).resolve().parents[2] / "guest_images/root_task/population.yaml"

OBJECT_TYPES = (
    "untyped",
    "tcb",
    "endpoint",
    "notification",
    "cnode",
    "page-1g",
    "page-upper-directory",
    "page-global-directory",
    "page-4k",
    "page-2m",
    "page-table",
    "page-directory",
)
"""Types that Retype makes, in the order of the kernel's numbers (checked when the root task is compiled)."""
OTHER_TYPES = ("asid-pool", "irq-handler", "irq-control", "asid-control", "domain", "smc", "reply")
SLOT_TYPES = (*OBJECT_TYPES, *OTHER_TYPES, "free")
"""What "the k-th slot of a type" can ask for."""

FRAME_BITS = {"page-4k": 12, "page-2m": 21, "page-1g": 30}
OWN = {
    "cnode": "cnode",
    "vspace": "page-global-directory",
    "pud": "page-upper-directory",
    "pd": "page-directory",
    "tcb": "tcb",
    "faults": "endpoint",
}
"""What a victim has of itself, and the type of each."""
INITIAL = ("irq-control", "asid-control", "domain", "smc")
RIGHTS = {"write": 1, "read": 2, "grant": 4}
"""Bits of seL4_CapRights (checked when the root task is compiled)."""
ALL_RIGHTS = 7


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Victim(_Strict):
    """One interpreter thread.

    `world` is where its code, data, stack and IPC buffer lie; `fault_handler` names the slot of its
    own with the endpoint that gets its faults. It may give itself and others its own priority at most.
    """

    name: str
    world: Literal["secure", "non-secure"]
    priority: Annotated[int, Field(ge=2, le=253)] = 100
    fault_handler: str | None = None


class Addresses(_Strict):
    """Virtual addresses of what every victim has, and of the supervisor's image."""

    code: int
    state: int
    exchange: int
    supervisor: int


class Object(_Strict):
    """An object that the supervisor makes."""

    name: str
    type: str
    size_bits: int | Literal["arena"] | None = None
    world: Literal["secure", "non-secure"] = "secure"
    device: str | None = None
    irq: int | None = None
    notification: str | None = None
    """What an interrupt handler signals."""
    unconfigured: bool = False
    """A thread without spaces, fault handler and priority."""


class Helper(_Strict):
    """A thread that is blocked in the snapshot."""

    name: str
    victim: str
    blocked: Literal[
        "send", "call", "receive", "reply", "send-fault", "receive-fault", "vm-fault", "unknown-syscall",
        "user-exception",
    ]  # fmt: skip
    at: str | None = None
    """The endpoint or notification. A thread that is blocked on a fault is blocked at its fault handler."""
    through: str | None = None
    """The victim's slot that it uses, if not the first one that names `at` with all rights."""
    fault_handler: str | None = None
    """A slot of the victim's."""
    address: int = 0
    """What a faulting thread accesses: a capability pointer or a virtual address."""
    space: str | None = None
    """A slot of the victim's with the capability table that is the root of the thread's space, if not the victim's."""
    notification: str | None = None
    """What it is bound to."""


class Slot(_Strict):
    """One slot of a victim's capability space."""

    name: str
    of: str
    badge: int | str | None = None
    rights: tuple[Literal["write", "read", "grant"], ...] | None = None
    mapped: int | None = None
    signalled: bool = False

    @property
    def rights_word(self) -> int:
        """The rights as the kernel's rights word."""
        return ALL_RIGHTS if self.rights is None else sum(RIGHTS[right] for right in self.rights)


class _File(_Strict):
    cnode_bits: Annotated[int, Field(ge=5, le=8)]
    victims: tuple[Victim, ...]
    addresses: Addresses
    address_pool: tuple[int, ...]
    objects: tuple[Object, ...]
    helpers: tuple[Helper, ...]
    slots: dict[str, tuple[Slot, ...]]

    @model_validator(mode="after")
    def _names(self) -> _File:
        victims = [victim.name for victim in self.victims]
        if sorted(victims) != sorted(self.slots):
            raise ValueError(f"slots: needs one list for each of the victims {', '.join(victims)}")
        known = {o.name for o in self.objects} | {h.name for h in self.helpers} | set(OWN) | set(INITIAL)
        for item in self.objects:
            if item.type not in SLOT_TYPES:
                raise ValueError(f"objects: '{item.name}' has type '{item.type}'; there are {', '.join(SLOT_TYPES)}")
        for helper in self.helpers:
            needs = helper.blocked in ("send", "call", "receive")
            if helper.victim not in victims or (needs and helper.at not in known):
                raise ValueError(f"helpers: '{helper.name}' names a victim or an object that is not there")
        for name, bound in [(o.name, o.notification) for o in self.objects] + [
            (h.name, h.notification) for h in self.helpers
        ]:
            if bound is not None and bound not in known:
                raise ValueError(f"'{name}' has notification '{bound}', which is not there")
        for victim, slots in self.slots.items():
            # Slot 0 stays empty, and the last ones hold what victims pass turns with.
            if len(slots) >= (1 << self.cnode_bits) - 2 * len(victims):
                raise ValueError(f"slots: '{victim}' has too many for a table of {1 << self.cnode_bits}")
            for slot in slots:
                if slot.of not in known:
                    raise ValueError(f"slots: '{slot.name}' of '{victim}' is of '{slot.of}', which is not there")
            names = [slot.name for slot in slots]
            if len(set(names)) != len(names):
                raise ValueError(f"slots: '{victim}' has two slots of one name")
            handler = self.victims[victims.index(victim)].fault_handler
            if handler is not None and handler not in names:
                raise ValueError(f"victims: '{victim}' has no slot '{handler}' for its fault_handler")
        return self


@dataclass(frozen=True)
class NamedSlot:
    """A slot as programs see it: number, name, type and what it holds."""

    number: int
    name: str
    type: str
    slot: Slot


class Population:
    """The parsed file with everything that is derived from it."""

    def __init__(self, data: Mapping[str, Any], source: str = "population", *, normal_world: bool = False) -> None:
        """Check the file's content; raises ConfigError that names the file and field.

        With a `normal_world` victims pass turns to it, too.
        """
        try:
            self._file = _File.model_validate(data)
        except ValidationError as error:
            raise ConfigError(f"{source}: {error}") from error
        self.data = self._file.model_dump(mode="json")
        self.normal_world = normal_world

    @classmethod
    def load(cls, path: Path = POPULATION_FILE, *, normal_world: bool = False) -> Population:
        """Read a population file; raises ConfigError."""
        return cls(read_yaml(path, ConfigError).data, str(path), normal_world=normal_world)

    @property
    def victims(self) -> tuple[Victim, ...]:
        """The victims, in the order of their numbers."""
        return self._file.victims

    @property
    def objects(self) -> tuple[Object, ...]:
        """Objects, in the order of the report's object numbers."""
        return self._file.objects

    @property
    def helpers(self) -> tuple[Helper, ...]:
        """Threads that are blocked in the snapshot."""
        return self._file.helpers

    @property
    def addresses(self) -> Addresses:
        """Virtual addresses of code, state and exchange pages."""
        return self._file.addresses

    @property
    def cnode_bits(self) -> int:
        """Slots of a victim's capability space: 2^cnode_bits."""
        return self._file.cnode_bits

    @property
    def slots_per_victim(self) -> int:
        """Number of slots, free ones included."""
        return 1 << self.cnode_bits

    @property
    def first_turn_slot(self) -> int:
        """Slot of the notification by which victim 0 gets its turn; those of the others follow, and the normal
        world's. Programs do not choose them by type.
        """
        return self.slots_per_victim - len(self.victims) - self.normal_world

    def object(self, name: str) -> Object | None:
        """The object of that name, if there is one."""
        return next((o for o in self.objects if o.name == name), None)

    def type_of(self, of: str) -> str:
        """Slot type of what a slot is `of`."""
        if item := self.object(of):
            return item.type
        for helper in self.helpers:
            if helper.name == of:
                return "reply" if helper.blocked == "reply" else "tcb"
        return OWN.get(of, of)

    def slots(self, victim: int) -> tuple[NamedSlot, ...]:
        """The occupied slots of a victim, in the order of their numbers."""
        return self._slots[victim]

    @cached_property
    def _slots(self) -> tuple[tuple[NamedSlot, ...], ...]:
        return tuple(
            tuple(
                NamedSlot(number, slot.name, self.type_of(slot.of), slot)
                for number, slot in enumerate(self._file.slots[victim.name], 1)
            )
            for victim in self.victims
        )

    def slot_number(self, victim: int, name: str) -> int | None:
        """Number of a victim's slot of that name."""
        return next((slot.number for slot in self._slots[victim] if slot.name == name), None)

    def slot_name(self, victim: int, number: int) -> str | None:
        """Name of a victim's occupied slot."""
        slots = self._slots[victim]
        return slots[number - 1].name if 0 < number <= len(slots) else None

    def of_type(self, victim: int, type_: int) -> tuple[int, ...]:
        """Slot numbers of a victim that hold SLOT_TYPES[type_], ascending."""
        return self._of_type[victim][type_]

    @cached_property
    def _of_type(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        tables = []
        for victim in range(len(self.victims)):
            occupied = self._slots[victim]
            free = range(len(occupied) + 1, self.first_turn_slot)
            tables.append(
                tuple(
                    tuple(free) if type_ == "free" else tuple(s.number for s in occupied if s.type == type_)
                    for type_ in SLOT_TYPES
                )
            )
        return tuple(tables)

    def mapped_addresses(self) -> list[int]:
        """Virtual addresses at which a victim has something mapped, and the pool's other addresses."""
        mapped = {slot.slot.mapped for slots in self._slots for slot in slots if slot.slot.mapped is not None}
        own = {self.addresses.code, self.addresses.state, self.addresses.exchange}
        return sorted(mapped) + [a for a in self._file.address_pool if a not in mapped] + sorted(own - mapped)


@dataclass(frozen=True)
class ReportedRange:
    """A range of physical memory that the supervisor used, as it reports it."""

    address: int
    size: int
    kind: protocol.PopulationKind
    victim: int
    object: str | None


STEPS = (
    "start",
    "read the boot information",
    "make its own capability space",
    "map the exchange area",
    "make the objects",
    "make the victims",
    "fill the victims' slots",
    "start the blocked threads",
    "start the victims",
    "wait for ever",
)
"""Steps of the supervisor's set-up, as POPULATION.step counts them."""


def read_report(page: bytes, population: Population) -> list[ReportedRange]:
    """Parse the report in the first exchange page (4096 bytes) after the first park.

    Raises MachineError, naming the step, if the root task did not finish.
    """
    report = np.frombuffer(page, protocol.POPULATION, 1, protocol.POPULATION_OFFSET)[0]
    step = min(int(report["step"]), len(STEPS) - 1)
    if report["error"] or step != len(STEPS) - 1:
        raise MachineError(
            f"the root task stopped while it should {STEPS[step]}: error {int(report['error']):#x}, "
            f"detail {int(report['detail']):#x}; its source is guest_images/root_task/supervisor.c"
        )
    ranges = []
    for entry in report["entry"][: int(report["entries"])]:
        index = int(entry["object"])
        name = population.objects[index].name if index < len(population.objects) else None
        ranges.append(
            ReportedRange(
                int(entry["address"]),
                int(entry["size"]),
                protocol.PopulationKind(int(entry["kind"])),
                int(entry["victim"]),
                name,
            )
        )
    return ranges


def object_bits(item: Object, config: MachineConfig) -> int:
    """Size bits of an object whose size is not fixed by its type: untyped memory, capability tables."""
    if item.size_bits == "arena":
        return config.arena_bits
    if item.size_bits is not None:
        return item.size_bits
    if item.type == "tcb":
        return int(item.unconfigured)
    if item.type == "untyped" and item.device is not None:
        return config.region(item.device).size.bit_length() - 1
    return 0
