# SPDX-License-Identifier: BSD-2-Clause
"""What lies at a physical address: object, slot, region and world, in the names that programs use."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness import protocol
from harness.errors import BothworldsError
from harness.kernel_state.layout import Layout
from harness.programs.population import Population, ReportedRange, read_report
from harness.protocol import TRUSTED_OS, PopulationKind

if TYPE_CHECKING:
    from harness.configs import MachineConfig
    from harness.kernel_state.memory import MemoryImage

_NAMES = {
    PopulationKind.KERNEL_OBJECT: "kernel object",
    PopulationKind.TCB: "thread",
    PopulationKind.ENDPOINT: "endpoint",
    PopulationKind.NOTIFICATION: "notification",
    PopulationKind.PAGE_TABLE: "translation table",
    PopulationKind.CODE: "code",
    PopulationKind.STATE: "stack and IPC buffer",
    PopulationKind.FRAME: "frame",
    PopulationKind.ARENA: "untyped memory in which programs make objects",
    PopulationKind.EXCHANGE: "exchange area",
    PopulationKind.DEVICE: "device",
    PopulationKind.SUPERVISOR: "the root task's own pages",
}
NOT_PHYSICAL = re.compile(
    r"virtual|vaddr|mappedaddress|entry|word|registers|beyond|badge|guard|[ef][sa]r_el|target", re.IGNORECASE
)
"""Names of evidence whose numbers are no physical addresses."""
LOWEST = 0x100_0000
"""Smaller numbers are sizes and indices rather than addresses: what lies below is the firmware's flash."""
_NUMBER = re.compile(r"\b0x[0-9a-f]+\b")


class Places:
    """Names for the addresses of one machine."""

    def __init__(
        self, config: MachineConfig, layout: Layout, population: Population, ranges: list[ReportedRange]
    ) -> None:
        self.config = config
        self.layout = layout
        self.population = population
        self.ranges = sorted(ranges, key=lambda entry: entry.address)
        self._starts = [entry.address for entry in self.ranges]

    @classmethod
    def of(cls, config: MachineConfig, layout: Layout, population: Population, snapshot: MemoryImage) -> Places:
        """Names by what the root task has reported into a snapshot; without a report, only regions have names."""
        try:
            ranges = read_report(snapshot.read(config.exchange.base, protocol.PAGE), population)
        except (BothworldsError, ValueError, IndexError):
            ranges = []
        return cls(config, layout, population, ranges)

    def describe(self, address: int) -> str | None:
        """What a physical address is; None if the machine has nothing there."""
        region = self.config.region_at(address)
        if region is None:
            return None
        name = self._object(address)
        return f"{name + '; ' if name else ''}{region.name} ({region.world}, {region.kind})"

    def _object(self, address: int) -> str | None:
        at = bisect_right(self._starts, address) - 1
        if at >= 0 and address < self.ranges[at].address + self.ranges[at].size:
            return self._in_range(self.ranges[at], address)
        symbol = self._kernel_symbol(self.layout.virtual(address))
        return f"{symbol} of the kernel" if symbol else None

    def _in_range(self, entry: ReportedRange, address: int) -> str:
        if entry.object is not None:
            return f"'{entry.object}'"
        if entry.victim == TRUSTED_OS:
            own = "data" if entry.kind is PopulationKind.SUPERVISOR else _NAMES.get(entry.kind, "memory")
            return f"{own} of the trusted OS"
        victim = self.population.victims[entry.victim].name if entry.victim < len(self.population.victims) else "?"
        if entry.kind is PopulationKind.CNODE:
            number = (address - entry.address) // self.layout.slot_bytes
            named = self.population.slot_name(entry.victim, number)
            return f"slot {number}{f' ({named})' if named else ''} of victim '{victim}'"
        return f"{_NAMES.get(entry.kind, 'memory')} of victim '{victim}'"

    def _kernel_symbol(self, virtual: int) -> str | None:
        symbols = self.layout.elf.symbols.values()
        return next((s.name for s in symbols if s.size and s.address <= virtual < s.address + s.size), None)

    def annotate(self, evidence: Mapping[str, Any]) -> str:
        """A line for each address in some evidence: what it is, its region and world."""
        lines = ""
        for address in self.addresses(evidence):
            described = self.describe(address) or self.describe(self.layout.physical(address))
            if described is not None:
                lines += f"{address:#x}  {described}\n"
        return lines

    @classmethod
    def addresses(cls, evidence: Mapping[str, Any]) -> list[int]:
        """The numbers in some evidence that can be physical addresses or kernel pointers."""
        found: list[int] = []
        for name, value in evidence.items():
            if NOT_PHYSICAL.search(name):
                continue
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Mapping):
                    found += cls.addresses(item)
                elif isinstance(item, int):
                    found.append(item)
                else:
                    found += [int(text, 16) for text in _NUMBER.findall(str(item))]
        return [number for number in dict.fromkeys(found) if number >= LOWEST]
