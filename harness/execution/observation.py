# SPDX-License-Identifier: BSD-2-Clause
"""What one execution showed, read from the machine when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness import protocol
from harness.errors import MachineLost

if TYPE_CHECKING:
    from harness.execution.executor import Executor
    from harness.kernel_state.backtrace import Frame
    from harness.machine.memory import MachineMemory

Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]


class Outcome(StrEnum):
    """How an execution ended."""

    DONE = "done"
    """The program reached its end."""
    FORGED = "forged"
    """A victim executed WFI without the nonce."""
    BLOCKED = "blocked"
    """Every thread waits; the kernel idles."""
    ASSERTION = "assertion"
    KERNEL_FAULT = "kernel-fault"
    """An exception in the kernel itself."""
    KERNEL_HALT = "kernel-halt"
    """The kernel stopped for another reason."""
    EL3_PANIC = "el3-panic"
    SYSTEM_OFF = "system-off"
    SYSTEM_RESET = "system-reset"
    HANG_EL3 = "hang-el3"
    """No park, and the CPU never leaves the firmware."""
    HANG_KERNEL = "hang-kernel"
    """No park, and the CPU never leaves the kernel."""
    HANG_VICTIM = "hang-victim"
    """No park, and victims execute."""
    LOST = "lost"
    """QEMU ended."""


class Observation:
    """One execution.

    Everything but `status`, `calls` and `seconds` is read when asked for, from the machine as the program left it:
    that is possible until the next one runs. keep() makes it last. A late question raises MachineLost.
    """

    __slots__ = ("_executor", "_kept", "_sequence", "calls", "seconds", "status")

    def __init__(self, executor: Executor, sequence: int, status: Outcome, calls: int, seconds: float) -> None:
        self._executor = executor
        self._sequence = sequence
        self._kept: dict[str, Any] | None = None
        self.status = status
        self.calls = calls
        """Calls of the program."""
        self.seconds = seconds
        """From waking to parking, in host time."""

    def _get(self, name: str) -> Any:
        if self._kept is not None and name in self._kept:
            return self._kept[name]
        if self._executor.sequence != self._sequence:
            raise MachineLost("the machine has run another program since this observation; keep() it in time")
        return getattr(self, f"_read_{name}")()

    @property
    def results(self) -> npt.NDArray[np.void]:
        """protocol.RESULT[calls], a view of the machine's memory."""
        return self._get("results")  # type: ignore[no-any-return]

    @property
    def report(self) -> np.void:
        """EL3's report, a protocol.REPORT; a copy."""
        return self._get("report")  # type: ignore[no-any-return]

    @property
    def report_words(self) -> memoryview:
        """The same report as u64 words, not copied while the machine still shows it."""
        if self._executor.sequence == self._sequence:
            return self._executor.control.report_longs
        return memoryview(self.report.tobytes()).cast("Q")

    @property
    def smc_log(self) -> npt.NDArray[np.void]:
        """protocol.SMC_LOG[n] of the SMCs from S-EL1; the report's `smc_count` tells how many there were."""
        return self._get("smc_log")  # type: ignore[no-any-return]

    @property
    def changed(self) -> Words:
        """u64[n]: physical addresses of the pages of the restore set that differ from the snapshot."""
        return self._get("changed")  # type: ignore[no-any-return]

    def page(self, index: int) -> Bytes:
        """u8[4096]: contents of the page `changed[index]`."""
        if self._kept is not None and "pages" in self._kept:
            return self._kept["pages"][index]  # type: ignore[no-any-return]
        return self._executor.memory.view(int(self.changed[index]), protocol.PAGE)

    @property
    def changed_words(self) -> npt.NDArray[np.uint32] | None:
        """u4[n]: numbers of the 64-bit words of secure RAM that differ from the snapshot, by page; None: too many."""
        return self._get("changed_words")  # type: ignore[no-any-return]

    @property
    def pages(self) -> Sequence[Bytes]:
        """Contents of all pages in `changed`: views of the machine's memory."""
        return self._get("pages")  # type: ignore[no-any-return]

    @property
    def memory(self) -> MachineMemory:
        """The machine's memory, live: as the program left it until the next one runs."""
        if self._executor.sequence != self._sequence:
            raise MachineLost("the machine has run another program since this observation; keep() it in time")
        return self._executor.memory

    @property
    def coverage(self) -> Bytes:
        """u8[blocks]: how often each static block ran, at most 255."""
        return self._get("coverage")  # type: ignore[no-any-return]

    @property
    def console(self) -> str:
        """What the kernel and the firmware printed during the execution."""
        return self._get("console")  # type: ignore[no-any-return]

    @property
    def registers(self) -> dict[str, int]:
        """Registers where the CPU stopped: x0-x30, sp, pc, and cpsr."""
        return self._get("registers")  # type: ignore[no-any-return]

    @property
    def backtrace(self) -> Sequence[Frame]:
        """Call stack of the kernel, innermost function first; empty if the CPU was not in it."""
        return self._get("backtrace")  # type: ignore[no-any-return]

    @property
    def gdb_backtrace(self) -> str:
        """The call stack as gdb shows it, for outcomes in which the machine was stopped; else empty."""
        return self._get("gdb_backtrace")  # type: ignore[no-any-return]

    def keep(self) -> Observation:
        """Read everything now, so that it can be asked for later; returns itself."""
        if self._kept is None or len(self._kept) < len(_FIELDS):
            kept = {name: self._get(name) for name in _FIELDS}
            for name in ("results", "changed", "changed_words", "coverage"):
                kept[name] = None if kept[name] is None else kept[name].copy()
            kept["pages"] = [page.copy() for page in kept["pages"]]
            self._kept = kept
        return self

    def set(self, **values: Any) -> None:
        """Give answers that the machine cannot give later."""
        self._kept = {**(self._kept or {}), **values}

    # -- from the machine

    def _read_results(self) -> npt.NDArray[np.void]:
        return self._executor.all_results[: self.calls]

    def _read_report(self) -> np.void:
        report: np.void = self._executor.control.report.copy()[0]
        # The plugin copies used entries only: behind them lie those of older programs.
        report["smc_log"][int(report["smc_count"]) :] = 0
        report["stored_page"][int(report["stores"]) :] = 0
        return report

    def _read_smc_log(self) -> npt.NDArray[np.void]:
        report = self._executor.control.report
        log: npt.NDArray[np.void] = report["smc_log"][0][: int(report["smc_count"][0])].copy()
        return log

    def _read_changed(self) -> Words:
        control = self._executor.control
        changed: Words = control.changed_page[: control.changed]
        return changed

    def _read_changed_words(self) -> npt.NDArray[np.uint32] | None:
        return self._executor.control.changed_words

    def _read_pages(self) -> list[Bytes]:
        memory = self._executor.memory
        return [memory.view(int(address), protocol.PAGE) for address in self._read_changed()]

    def _read_coverage(self) -> Bytes:
        return self._executor.coverage

    def _read_console(self) -> str:
        return self._executor.console_text()

    def _read_registers(self) -> dict[str, int]:
        report = self.report
        registers = {f"x{n}": int(value) for n, value in enumerate(report["x"])}
        user = not (int(report["spsr_el3"]) >> 2) & 3
        registers["sp"] = int(report["sp_el0" if user else "sp_el1"])
        return registers | {"pc": int(report["elr_el3"]), "cpsr": int(report["spsr_el3"])}

    def _read_backtrace(self) -> Sequence[Frame]:
        return self._executor.backtrace(self.registers)

    def _read_gdb_backtrace(self) -> str:
        return ""


_FIELDS = tuple(
    "results report smc_log changed changed_words pages coverage console registers backtrace gdb_backtrace".split()
)
