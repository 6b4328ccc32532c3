# SPDX-License-Identifier: BSD-2-Clause
"""Runs programs on a parked machine, each from the same snapshot.

The machine comes up once and parks; that moment is the snapshot. For each program the host
writes program and message, wakes the plugin, and waits until the guest parks again. The plugin
then lists the pages that changed, and copies them back when the next program begins.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from harness import protocol
from harness.build.artefacts import Artefacts
from harness.build.blocks import StaticBlocks, static_blocks
from harness.errors import MachineLost
from harness.execution import audit, hang
from harness.execution.control import MESSAGE_OFFSET, Control
from harness.execution.interrupts import interrupt_writes
from harness.execution.loose_pages import LoosePages
from harness.execution.observation import Observation, Outcome
from harness.execution.outcome import KernelSymbols
from harness.execution.restore_set import Range, population, restore_set
from harness.kernel_state.elf import Elf
from harness.machine.boot import BootEvent, Listener, boot
from harness.machine.gdb import Gdb
from harness.machine.memory import Bytes, Image, MachineMemory
from harness.machine.process import cpu_seconds, is_held
from harness.machine.qemu import Qemu, QemuSettings, Shared
from harness.programs.interfaces import Interface
from harness.protocol import CALL_BYTES, MAXIMUM_CALLS, Command, ParkStatus, Restore

if TYPE_CHECKING:
    from harness.kernel_state.backtrace import Frame

NONCE = 0x9D5A_3C71_E0B4_826F
"""What a victim shows in x0 to end a program. Fixed, so that executions are repeatable; no program learns it."""

FROM_SNAPSHOT = Command.RESTORE_REGISTERS | Command.INVALIDATE_TLB

_ORDINARY: dict[int, Outcome] = {
    ParkStatus.FORGED: Outcome.FORGED,
    ParkStatus.EL3_PANIC: Outcome.EL3_PANIC,
    ParkStatus.SYSTEM_OFF: Outcome.SYSTEM_OFF,
    ParkStatus.SYSTEM_RESET: Outcome.SYSTEM_RESET,
}


class Executor:
    """A machine that runs programs, as a context manager.

    `core` pins QEMU and the calling thread to one host core, which is fastest. Without `coverage` nothing is
    counted. `settings` chooses another QEMU than QemuSettings.from_environment(). `ranges` replaces the restore
    set that is computed. The thread that enters the context must outlive it.
    """

    def __init__(
        self,
        artefacts: Artefacts,
        *,
        core: int | None = None,
        coverage: bool = True,
        settings: QemuSettings | None = None,
        listener: Listener | None = None,
        ranges: Sequence[Range] | None = None,
    ) -> None:
        self.artefacts = artefacts
        self.config = artefacts.config
        self.core = core
        self.boot_events: list[BootEvent] = []
        self.ranges: list[Range] = []
        """The restore set: (physical address, bytes)."""
        self.sequence = 0
        """Number of executions so far, over all machines."""
        self.replacements: Counter[str] = Counter()
        """Machines that were replaced, by the reason."""
        self._settings = settings or QemuSettings.from_environment()
        self._listener = listener
        self._given_ranges = list(ranges) if ranges is not None else None
        self._kernel = KernelSymbols(artefacts.kernel_elf)
        self._windows = audit.instrumentation(artefacts)
        self._snapshot: Image | None = None
        self._machine: Qemu | None = None
        self._must_replace = ""
        """Why the machine cannot run another program; empty: it can."""
        self._compare_again = False
        self._restore = (Restore.NONE, False)
        self._affinity: set[int] | None = None
        self._console_start = 0
        self._used = MAXIMUM_CALLS
        self._loose: LoosePages | None = None

        counted = numbers = None
        if coverage:
            counted = np.asarray(self.blocks.address)
            numbers = np.flatnonzero(~self.blocks.between_programs()).astype(np.uint64)
        watched = interrupt_writes(self._kernel.elf)
        firmware = Elf(artefacts.firmware_elf)
        if pending := firmware.symbols.get("pending_store"):
            watched = np.append(watched, np.uint64(pending.address))
        if artefacts.normal_world_elf is not None:
            normal = Elf(artefacts.normal_world_elf).symbols.values()
            places = [symbol.address for symbol in normal if symbol.name.startswith("controller_")]
            watched = np.append(watched, np.array(sorted(places), np.uint64))
        self._shared = Shared.create(artefacts, counted, numbers, watched)
        self.control = Control(self._shared.control)
        self.memory: MachineMemory = self._shared.memory
        """Live memory of the machine."""
        covered = self._shared.coverage
        self._counters: Bytes | None = None if covered is None else covered.bytes[: self._shared.block_count]
        exchange = self.memory.view(self.config.exchange.base, self.config.exchange.size)
        self._exchange = exchange.data
        self._program = self._exchange[protocol.EXCHANGE_PROGRAM :]
        self._results = self._exchange[protocol.EXCHANGE_RESULTS :]
        self.all_results: npt.NDArray[np.void] = np.frombuffer(self._results, protocol.RESULT, MAXIMUM_CALLS)
        """protocol.RESULT[MAXIMUM_CALLS]: where the victims write results."""

    @cached_property
    def blocks(self) -> StaticBlocks:
        """The static blocks of the build. Without coverage nobody may ask, and the disassembly is spared."""
        return static_blocks(self.artefacts)

    @cached_property
    def coverage(self) -> Bytes:
        """u8[blocks]: what the last program executed, saturating; the same array for the executor's whole life."""
        return np.zeros(len(self.blocks), np.uint8) if self._counters is None else self._counters

    def _clear_coverage(self) -> None:
        if self._counters is not None:
            self._counters[:] = 0

    # -- life

    def __enter__(self) -> Executor:
        if self.core is not None:
            self._affinity = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {self.core})
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._machine is not None:
            self._machine.kill()
            self._machine = None
        if self._affinity is not None:
            os.sched_setaffinity(0, self._affinity)
            self._affinity = None

    def _start(self) -> None:
        self.memory.clear()
        self.control.reset()
        self._clear_coverage()
        self._machine = Qemu(self.artefacts, self._shared, self._settings, self.core)
        self.boot_events = boot(self._machine, self._listener)
        self._clear_coverage()  # what booting executed belongs to no program
        self._snapshot = self.memory.image()
        if self._given_ranges is None:
            self.ranges = restore_set(self.artefacts, self.memory)
            found = population(self.artefacts, self.memory)
            self._loose = LoosePages(
                Interface.load(self.artefacts),
                self.ranges,
                found.large_frames,
                found.arena,
                self._snapshot,
                self.memory,
            )
        else:
            self.ranges = self._given_ranges
        self.control.set_ranges(self.ranges)
        self.control.interrupts_changed()  # boot wrote to the controller: that is in the snapshot
        self._restore = (Restore.LISTED, True)
        self.control.set_restore(Restore.LISTED, track=True)
        self._used = MAXIMUM_CALLS
        self._must_replace = ""
        self._compare_again = False

    def replace(self, reason: str = "a new one was asked for") -> None:
        """End this machine, whatever state it is in, and boot a new one; the reason is counted."""
        if self._machine is not None:
            self._machine.kill()
            self._machine = None
        self.replacements[reason] += 1
        self.sequence += 1
        self._start()

    @property
    def machine(self) -> Qemu:
        """The present QEMU; raises MachineLost if there is none."""
        if self._machine is None:
            raise MachineLost("no machine runs: use the executor in a 'with' statement")
        return self._machine

    @property
    def snapshot(self) -> Image:
        """All RAM as every program finds it."""
        if self._snapshot is None:
            raise MachineLost("no machine has parked yet")
        return self._snapshot

    # -- programs

    def run(
        self,
        program: bytes,
        *,
        repetitions: int = 0,
        stop_after: int = 0,
        collect: bool = True,
        restore: bool = True,
        command: Command | None = None,
        omit_register: int = 0,
    ) -> Observation:
        """Run a program from the snapshot and return what it showed.

        Whole records are calls, at most MAXIMUM_CALLS; it runs 1 + `repetitions` times, and ends after `stop_after`
        calls if that is not 0. Without `collect` no changed pages are listed; without `restore` it starts from where
        the last one ended (both for measurements). `omit_register` leaves a register out of the restore (for tests of
        the tests). Raises MachineLost if QEMU is gone; replace() then brings a new one.
        """
        if self._must_replace:
            self.replace(self._must_replace)
        control = self.control
        if command is None:
            command = FROM_SNAPSHOT if restore else Command(0)
            if restore and control.interrupts_changed():
                command |= Command.RESTORE_INTERRUPTS
        loose = self._loose
        if restore and loose is not None:
            loose.restore()
        calls = min(len(program) // CALL_BYTES, MAXIMUM_CALLS)
        size = calls * CALL_BYTES
        self._program[:size] = program[:size]
        self._results[: self._used * _RESULT_BYTES] = _ZEROS[: self._used * _RESULT_BYTES]
        self._used = calls
        _EXCHANGE.pack_into(self._exchange, 0, NONCE, command, calls, repetitions, stop_after)
        self.sequence = sequence = self.sequence + 1
        _MESSAGE.pack_into(control.bytes, MESSAGE_OFFSET, sequence, command, NONCE, omit_register)
        self._choose_restore(restore, collect)
        console = self.machine.secure_console
        self._console_start = console.size()
        if self._console_start > _CONSOLE_BYTES:
            console.trim()
            self._console_start = 0
        start = time.perf_counter()
        self._must_replace = "a run was broken off"  # until it has parked: a signal may end the wait
        control.wake()
        if not control.wait() and not self._wait_on(repetitions):
            self._must_replace = "a hang"
            return self._hang(sequence, calls, start)
        seconds = time.perf_counter() - start
        self._must_replace = "code that had run was changed" if control.code_changed else ""
        if loose is not None and loose.find(program[:size], control.stored_pages):
            self._must_replace = "a program may have run code of its own"
        status = control.report_longs[_STATUS]
        outcome = Outcome.DONE if status == _DONE else self._outcome(status)
        return Observation(self, sequence, outcome, calls, seconds)

    def observe_boot(self, calls: int) -> Observation:
        """What a cold boot showed whose flash image holds a program of so many calls; to be asked before any run()."""
        status = self.control.report_longs[_STATUS]
        outcome = Outcome.DONE if status == _DONE else self._outcome(status)
        return Observation(self, self.sequence, outcome, calls, self.boot_events[-1].seconds)

    def _choose_restore(self, restore: bool, collect: bool) -> None:
        """What the plugin does on waking and on parking; in the usual case nothing new."""
        if not restore:
            how = Restore.NONE
        elif self._compare_again or self.memory.written:
            how = Restore.COMPARED
            self._compare_again = self.memory.written = False
        else:
            how = Restore.LISTED
        if not collect:
            self._compare_again = True
        if (how, collect) != self._restore:
            self._restore = (how, collect)
            self.control.set_restore(how, track=collect)

    def _wait_on(self, repetitions: int) -> bool:
        """Wait for a program that takes longer: whether it parked before it counts as a hang.

        A program with repetitions may take as long as it goes on performing calls. A QEMU that the host has stopped, or
        gives no time, does not hang: it is waited for, and lost in the end.
        """
        limit = self.config.hang_milliseconds / 1000
        start, used = time.perf_counter(), cpu_seconds(self.machine.pid)
        deadline, performed = start + limit, self._performed()
        while not self.control.wait():
            now = time.perf_counter()
            if not self.machine.running:
                raise self.machine.lost("QEMU ended while a program ran")
            if now < deadline:
                continue
            if cpu_seconds(self.machine.pid) - used < limit / 2 and is_held(self.machine.pid):
                if now - start > limit + _HELD_SECONDS:
                    raise self.machine.lost(f"the host has held QEMU for {_HELD_SECONDS:g} s while a program ran")
                continue
            calls = self._performed()
            if not repetitions or calls == performed:
                return False
            deadline, performed = now + limit, calls
        return True

    def _performed(self) -> int:
        return int.from_bytes(self._exchange[_PERFORMED : _PERFORMED + 8], "little")

    def _outcome(self, status: int) -> Outcome:
        if ordinary := _ORDINARY.get(status):
            return ordinary
        report = self.control.report[0]
        names = ("elr_el3", "elr_el1", "spsr_el1")
        values = {name: int(report[name]) for name in names} | {"x30": int(report["x"][30])}
        if self._kernel.waits(values["elr_el3"], values["x30"]):
            return Outcome.BLOCKED
        observation = Observation(self, self.sequence, Outcome.KERNEL_HALT, 0, 0)
        return self._kernel.classify(values, lambda: observation.backtrace)

    def _hang(self, sequence: int, calls: int, start: float) -> Observation:
        """The machine does not park. It stays stopped, to be looked at, until the next program replaces it."""
        self.control.leave(True)
        self._clear_coverage()  # counts come with a park, and these are those of the program before
        found = hang.examine(self.machine)
        observation = Observation(self, sequence, found.outcome, calls, time.perf_counter() - start)
        observation.set(registers=found.registers, gdb_backtrace=found.gdb_backtrace)
        return observation

    # -- inspection

    def restore(self) -> None:
        """Bring memory back to the snapshot, as the next run() would, but run nothing; older observations end."""
        self.sequence += 1
        if self._loose is not None:
            self._loose.restore()
        self._choose_restore(True, True)
        self.control.wake(stay=True)
        deadline = time.perf_counter() + _HELD_SECONDS
        while not self.control.wait():
            if not self.machine.running:
                raise self.machine.lost("QEMU ended while memory was restored")
            if time.perf_counter() > deadline:
                raise self.machine.lost(f"QEMU did not restore memory within {_HELD_SECONDS:g} s")

    def audit(self) -> list[audit.Difference]:
        """Restore, then compare all RAM of both worlds with the snapshot."""
        if self._must_replace:
            self.replace(self._must_replace)
        self.restore()
        return audit.compare(self._windows.values(), self.snapshot, self.memory)

    @contextlib.contextmanager
    def debugger(self) -> Iterator[Gdb]:
        """A gdb attached to the parked machine, which is stopped meanwhile.

        Raises MachineLost or GdbError.
        """
        self.control.leave(True)
        gdb = self.machine.gdb()
        try:
            gdb.attach(self.machine.gdb_target)
            yield gdb
            gdb.detach()
        finally:
            gdb.close()
            self.control.leave(False)

    def backtrace(self, registers: dict[str, int]) -> Sequence[Frame]:
        """Call stack of the kernel at some registers of the machine as it is now; empty outside of the kernel."""
        from harness.kernel_state.backtrace import backtrace

        normal = self.config.normal_world
        if (registers["cpsr"] >> 2) & 3 != 1 or (normal and normal.memory.base <= registers["pc"] < normal.memory.end):
            return []
        return backtrace(self._kernel.elf, registers, self.memory)

    def console_text(self) -> str:
        """What the kernel and the firmware have printed since the last program began."""
        return self.machine.secure_console.text(self._console_start)


def _offset(dtype: np.dtype[np.void], name: str) -> int:
    assert dtype.fields is not None
    return int(dtype.fields[name][1])


_PERFORMED = _offset(protocol.EXCHANGE, "performed")
_STATUS = _offset(protocol.REPORT, "status") // 8
_DONE = int(ParkStatus.DONE)
_MESSAGE = struct.Struct("<4Q")
_EXCHANGE = struct.Struct(f"<5Q{protocol.EXCHANGE.itemsize - 40}x")
_RESULT_BYTES = protocol.RESULT.itemsize
_ZEROS = bytes(_RESULT_BYTES * MAXIMUM_CALLS)
_HELD_SECONDS = 10.0
"""How long a QEMU that the host has stopped is waited for."""
_CONSOLE_BYTES = 4 << 20
"""Console text that is kept before it is forgotten."""
