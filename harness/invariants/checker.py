# SPDX-License-Identifier: BSD-2-Clause
"""Judge a state by all invariants, or a program's changes by the world family."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from harness import protocol
from harness.configs import MachineConfig
from harness.errors import BothworldsError
from harness.invariants import cdt, untyped, vspace, world  # noqa: F401 (they register their invariants)
from harness.invariants.definitions import Context, Facts, Invariant, Violation, invariants
from harness.invariants.regions import RegionMap
from harness.kernel_state.elf import Elf
from harness.kernel_state.layout import Layout
from harness.kernel_state.memory import MemoryImage, Ram, read_optional
from harness.kernel_state.state import KernelState

ENTRY_POINT_GROUP = "bothworlds.invariants"
"""Packages that add invariants name a module here; importing it registers them."""


@dataclass
class CheckReport:
    """What a check found.

    `judged`: objects that each invariant looked at, by id; `seconds`: what the check took.
    """

    violations: list[Violation] = field(default_factory=list)
    judged: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether no invariant is violated."""
        return not self.violations


def load_plugins() -> None:
    """Register the invariants of installed packages (entry point group bothworlds.invariants)."""
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        entry.load()


def report_in(config: MachineConfig, memory: MemoryImage) -> Any:
    """EL3's account of the last park (protocol.REPORT) as it lies in memory; None before the first park."""
    data = read_optional(memory, config.firmware_ram.base, protocol.REPORT.itemsize)
    if data is None:
        return None
    report = np.frombuffer(data, protocol.REPORT)[0]
    return report if 0 < int(report["parks"]) < 1 << 63 else None


class Checker:
    """Judges memory of one machine or of its images.

    `snapshot_memory` is the state that every program starts from: what must never change is taken
    from it. `firmware_elf` lets el3_untouched compare the firmware's constants where memory holds them.

    Raises ImageError if the snapshot holds no kernel state of this layout.
    """

    def __init__(
        self,
        layout: Layout,
        config: MachineConfig,
        snapshot_memory: MemoryImage,
        *,
        firmware_elf: Path | None = None,
    ) -> None:
        load_plugins()
        self.layout = layout
        self.config = config
        self.regions = RegionMap(config)
        self.snapshot = KernelState(layout, config, snapshot_memory, report=report_in(config, snapshot_memory))
        self._hints = list(self.snapshot.containers)
        self.facts = self._facts(firmware_elf)
        self._rams: dict[int, tuple[MemoryImage, Ram]] = {}

    def _facts(self, firmware_elf: Path | None) -> Facts:
        state = self.snapshot
        bare = Context(state, self.regions, Facts())
        scr = None if state.report is None else int(state.report["scr_el3"])
        window = (world.kernel_table_words(bare), world.judge_window(bare))
        constants = _constants(Elf(firmware_elf)) if firmware_elf is not None else ()
        return Facts(scr, state.kernel_root, window, constants)

    def _ram(self, memory: MemoryImage) -> Ram | None:
        """The words of a memory that offers views (they stay valid), kept between checks."""
        if not hasattr(memory, "view"):
            return None
        known = self._rams.get(id(memory))
        if known is None or known[0] is not memory:
            if len(self._rams) > 8:
                self._rams.clear()
            known = self._rams[id(memory)] = (memory, Ram(memory, self.config.secure_ram))
        return known[1]

    def state(self, memory: MemoryImage, observation: Any = None) -> KernelState:
        """The kernel state in a memory."""
        report = getattr(observation, "report", None)
        if report is None:
            report = report_in(self.config, memory)
        return KernelState(self.layout, self.config, memory, report=report, hints=self._hints, ram=self._ram(memory))

    def check(self, memory: MemoryImage, observation: Any = None, families: Iterable[str] | None = None) -> CheckReport:
        """Judge everything in a memory by all invariants, or by those of some families.

        Memory may hold anything. Raises ImageError only where the memory itself cannot be read.
        """
        start = time.perf_counter()
        context = Context(self.state(memory, observation), self.regions, self.facts, observation)
        result = CheckReport()
        for entry in invariants(families):
            self._judge(entry, context, result)
        result.seconds = time.perf_counter() - start
        return result

    @staticmethod
    def _judge(entry: Invariant, context: Context, result: CheckReport) -> None:
        try:
            judgement = entry.check(context)
        except BothworldsError:
            raise
        except (IndexError, ValueError, OverflowError, KeyError, MemoryError) as error:
            # Memory that no check of ours foresaw is corrupt beyond what the kernel can do.
            result.judged[entry.id] = 0
            evidence = {"error": repr(error)}
            result.violations.append(Violation(entry.id, f"the state cannot be judged: {error!r}", evidence, "state"))
            return
        result.judged[entry.id] = judgement.judged
        for message, evidence, kind in judgement.broken:
            result.violations.append(Violation(entry.id, message, evidence, kind))


def _constants(elf: Elf) -> tuple[tuple[int, bytes], ...]:
    return tuple(
        (elf.physical(section.address), section.data)
        for section in elf.sections
        if section.data and not section.writable
    )
