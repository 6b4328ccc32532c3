# SPDX-License-Identifier: BSD-2-Clause
"""Names of objects and slots: what the population calls them, where memory says where they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from harness.errors import BothworldsError
from harness.kernel_state.memory import read_optional
from harness.kernel_state.state import KernelState
from harness.programs.population import Population, ReportedRange, read_report
from harness.protocol import PAGE, TRUSTED_OS, PopulationKind

_CHILD = "child of:"
"""How the kernel names threads that nobody named."""
_OWN = {
    PopulationKind.CNODE: ("CNode", "nurse's CNode"),
    PopulationKind.TCB: ("", "nurse"),
    PopulationKind.PAGE_TABLE: ("vspace", "upper directory", "directory", "table"),
    PopulationKind.ENDPOINT: ("faults",),
    PopulationKind.NOTIFICATION: ("turn",),
    PopulationKind.CODE: ("code",),
    PopulationKind.STATE: ("state",),
}
"""What a victim has of each kind, in the order in which the supervisor reports it."""


_OF_TRUSTED_OS = {
    PopulationKind.CNODE: ("CNode",),
    PopulationKind.TCB: ("dispatcher", "thread 0", "thread 1", "thread 2"),
    PopulationKind.PAGE_TABLE: ("vspace", "upper directory", "directories", "tables"),
    PopulationKind.NOTIFICATION: ("events", "releases of threads"),
    PopulationKind.ENDPOINT: ("faults",),
    PopulationKind.CODE: ("code",),
    PopulationKind.SUPERVISOR: ("data",),
}
"""What the trusted OS has, in the same way."""


@cache
def _population() -> Population:
    return Population.load()


@dataclass(frozen=True)
class Names:
    """Names by physical address; empty where memory holds no report of the supervisor."""

    objects: dict[int, str] = field(default_factory=dict)
    """Names of objects by the address of their first byte; a thread's is that of its slots."""
    victims: dict[int, int] = field(default_factory=dict)
    """Number of the victim whose CNode lies at an address."""
    population: Population | None = None

    @classmethod
    def of(cls, state: KernelState) -> Names:
        """The names in a memory."""
        objects: dict[int, str] = {}
        threads = state.threads
        for row in range(len(threads)):
            name = threads.name(row)
            if name.isprintable() and name and not name.startswith(_CHILD):
                objects[int(threads.address[row])] = name
        idle = state.layout.physical(state.global_word("ksIdleThread"))
        objects.setdefault(idle & -(1 << state.layout.tcb_bits), "idle thread")
        page = read_optional(state.memory, state.config.exchange.base, PAGE)
        try:
            population = _population()
            reported = read_report(page, population) if page is not None else []
        except (BothworldsError, ValueError):
            # No supervisor wrote this page, or it is damaged: then nothing has a name.
            return cls(objects)
        victims = _name_all(reported, population, objects)
        return cls(objects, victims, population)

    def object(self, address: int) -> str:
        """Name of the object at a physical address; empty without one."""
        return self.objects.get(address, "")

    def slot(self, container: int, number: int) -> str:
        """Name of a slot of the CNode at a physical address; empty without one."""
        victim = self.victims.get(container)
        if victim is None or self.population is None:
            return ""
        return self.population.slot_name(victim, number) or ""

    def thread(self, state: KernelState, row: int) -> str:
        """Name of a thread by its row, else the address of its tcb_t."""
        return self.object(int(state.threads.address[row])) or f"tcb {int(state.threads.tcb[row]):#x}"


def _name_all(reported: list[ReportedRange], population: Population, objects: dict[int, str]) -> dict[int, int]:
    """Add all names of a report to `objects`; returns the victims by the address of their CNode."""
    counts: dict[tuple[PopulationKind, int], int] = {}
    victims: dict[int, int] = {}
    others: list[int] = []
    populated = False
    """Whether this is behind what the supervisor made for itself."""
    for entry in reported:
        if entry.object is not None:
            objects[entry.address] = entry.object
            populated = True
            continue
        if entry.victim == TRUSTED_OS:
            parts = _OF_TRUSTED_OS.get(entry.kind, ())
            index = counts.get((entry.kind, TRUSTED_OS), 0)
            counts[entry.kind, TRUSTED_OS] = index + 1
            if index < len(parts):
                objects[entry.address] = f"trusted OS's {parts[index]}"
            continue
        own = _OWN.get(entry.kind)
        if own is None or not populated or entry.victim >= len(population.victims):
            continue
        key = (entry.kind, entry.victim)
        index = counts.get(key, 0)
        counts[key] = index + 1
        victim = population.victims[entry.victim].name
        if index < len(own):
            objects[entry.address] = f"{victim}'s {own[index]}" if own[index] else victim
            if (entry.kind, index) == (PopulationKind.CNODE, 0):
                victims[entry.address] = entry.victim
        elif entry.kind is PopulationKind.TCB:
            others.append(entry.address)
    helpers = [helper.name for helper in population.helpers]
    if len(others) >= len(helpers):
        # Behind the victims' own threads come those that are blocked, in the population's order, and then the wardens.
        objects |= dict(zip(others, helpers + ["warden"] * (len(others) - len(helpers)), strict=True))
    return victims
