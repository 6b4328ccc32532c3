# SPDX-License-Identifier: BSD-2-Clause
"""Tells apart why the CPU waits at EL1: everything is blocked, or the kernel has given up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ImageError
from harness.execution.observation import Outcome
from harness.kernel_state.elf import Elf

if TYPE_CHECKING:
    from harness.kernel_state.backtrace import Frame

_ASSERTIONS = frozenset({"_assert_fail", "_fail"})
_KERNEL_ADDRESSES = 1 << 63


class KernelSymbols:
    """What of the kernel's symbols the outcome depends on."""

    def __init__(self, kernel: Path) -> None:
        self.elf = Elf(kernel)
        idle = self.elf.symbols.get("idle_thread")
        self._idle = range(idle.address, idle.address + idle.size) if idle else range(0)

    def waits(self, program_counter: int, link: int) -> bool:
        """Whether a WFI at EL1 is the idle thread's.

        That thread starts with a zero link register; halt() calls the same function, which then has a caller.
        """
        return program_counter in self._idle and not link

    def classify(self, report: Mapping[str, int], backtrace: Callable[[], Sequence[Frame]]) -> Outcome:
        """Outcome for a WFI at EL1; `report` holds elr_el3, x30, elr_el1 and spsr_el1."""
        if self.waits(report["elr_el3"], report["x30"]):
            return Outcome.BLOCKED
        try:
            functions = {frame.function for frame in backtrace()}
        except ImageError:
            # A stack that cannot be read, because the kernel destroyed it.
            functions = set()
        if functions & _ASSERTIONS:
            return Outcome.ASSERTION
        # The last exception that EL1 took came from EL1, but not from the idle thread: the kernel faulted.
        from_kernel = (report["spsr_el1"] >> 2) & 3 == 1 and report["elr_el1"] >= _KERNEL_ADDRESSES
        if from_kernel and report["elr_el1"] not in self._idle:
            return Outcome.KERNEL_FAULT
        return Outcome.KERNEL_HALT
