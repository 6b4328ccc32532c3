# SPDX-License-Identifier: BSD-2-Clause
"""Many spoiled memories, each judged in one of the ways that users meet, and what came of them."""

from __future__ import annotations

import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np

from harness import protocol
from harness.configs import MachineConfig
from harness.errors import BothworldsError
from harness.invariants.registry import Checker, CheckReport
from harness.kernel_state.backtrace import backtrace
from harness.kernel_state.layout import Layout
from harness.kernel_state.lookup import lookup_slot
from harness.kernel_state.memory import PAGE_WORDS, Ram
from harness.kernel_state.state import KernelState
from harness.machine.memory import Image
from harness.view.trees import VIEWS, render
from tests.corruption.damage import Damage
from tests.corruption.places import ALL, Places, Scratch

HANG_SECONDS = 20
"""After so long a judgement counts as one without an end."""
REPORT_BYTES = 1 << 20
"""What a report's messages and evidence, or the text of a view, may amount to."""


class NoEnd(BaseException):
    """A judgement took too long."""


@contextmanager
def bounded(seconds: int = HANG_SECONDS) -> Iterator[None]:
    """Raise NoEnd in what runs too long (main thread only)."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise NoEnd

    # In processor time, so that a busy machine makes nothing fail.
    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@dataclass
class Seen:
    """What an observation of the spoiled machine says."""

    memory: Scratch
    report: Any
    report_words: memoryview
    changed: np.ndarray[Any, np.dtype[np.uint64]]
    changed_words: np.ndarray[Any, np.dtype[np.int64]]
    calls: int = 0
    results: Any = None
    smc_log: Any = field(default_factory=lambda: np.zeros(0, protocol.SMC_LOG))


@dataclass
class Summary:
    """What came of the cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Cases by judgement and outcome: held, violations, or the class of a clear error."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Cases by the way in which memory was spoiled."""
    invariants: Counter[str] = field(default_factory=Counter)
    """Cases by invariant that was violated."""
    failures: list[str] = field(default_factory=list)
    """Cases that ended in anything else: number, way, judgement and traceback."""
    slowest: list[tuple[float, int, str, str]] = field(default_factory=list)
    """Seconds, case, way and judgement of the slowest cases."""
    largest: tuple[int, int] = (0, 0)
    """Bytes of the largest report, and its case."""
    cases: int = 0
    seconds: float = 0.0

    def text(self) -> str:
        """The summary for a person."""
        lines = [f"{self.cases} cases in {self.seconds:.0f} s of processor time, {len(self.failures)} failures"]
        lines += [f"  {count:7d}  {name}" for name, count in sorted(self.outcomes.items())]
        lines.append("memory was spoiled by")
        lines += [f"  {count:7d}  {name}" for name, count in self.kinds.most_common()]
        lines.append("invariants that were violated, in so many cases")
        lines += [f"  {count:7d}  {name}" for name, count in self.invariants.most_common()]
        lines.append("slowest")
        lines += [f"  {seconds:7.3f} s  case {case}: {kind}, {way}" for seconds, case, kind, way in self.slowest]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        lines.append(f"largest report {self.largest[0]} bytes (case {self.largest[1]}), memory at most {peak} MiB")
        return "\n".join([*lines, *self.failures])


class Cases:
    """Spoils and judges the memory of one parked machine."""

    def __init__(self, layout: Layout, config: MachineConfig, image: Image) -> None:
        self.layout, self.config = layout, config
        self.memory = Scratch(image)
        self.checker = Checker(layout, config, Scratch(image))
        state = self.checker.snapshot
        self.places = Places.of(state)
        self.damage = Damage(self.memory, self.places, layout)
        self._threads = state.threads.address.tolist()
        names = ("ksCurThread", "ksReadyQueues")
        self._roots = np.concatenate([self._words(state, name) for name in names])
        self._report = self.memory.view(config.firmware_ram.base, protocol.REPORT.itemsize)
        self._ways: list[Callable[[random.Random], tuple[str, CheckReport | str | None]]] = [
            *[self._as_campaigns] * 5,
            *[self._after_a_program] * 3,
            self._as_a_finding,
            self._as_trees,
            self._by_hand,
        ]

    @staticmethod
    def _words(state: KernelState, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Numbers of a variable's words."""
        return ((state.global_address(name) - state.ram.base) >> 3) + np.arange(len(state.global_words(name)))

    def run(self, count: int, seed: int = 1, first: int = 0) -> Summary:
        """Judge `count` spoiled memories from number `first` on."""
        summary = Summary()
        for number in range(first, first + count):
            self.one(number, seed, summary)
        return summary

    def one(self, number: int, seed: int, summary: Summary) -> None:
        """Judge one spoiled memory."""
        choice = random.Random(f"{seed}:{number}")
        way = choice.choice(self._ways)
        name = way.__name__.strip("_").replace("_", " ")
        kinds = [self.damage.spoil(choice) for _ in range(choice.choice((1, 1, 1, 2, 4)))]
        kind = ", ".join(dict.fromkeys(kinds))
        summary.kinds.update(kinds)
        start = time.process_time()
        result: CheckReport | str | None = None
        try:
            with bounded():
                outcome, result = way(choice)
        except NoEnd:
            outcome = "NO END"
        except BothworldsError as error:
            outcome, result = type(error).__name__, str(error)
        except Exception:
            outcome = "TRACEBACK"
            summary.failures.append(f"case {number}: {kind}, {name}\n{traceback.format_exc(limit=-6)}")
        seconds = time.process_time() - start
        self.memory.undo()
        if outcome == "NO END":
            summary.failures.append(f"case {number}: {kind}, {name}: no end within {HANG_SECONDS} s")
        size = self._size(result)
        if size > REPORT_BYTES:
            summary.failures.append(f"case {number}: {kind}, {name}: a report of {size} bytes")
        if isinstance(result, CheckReport):
            broken = {violation.invariant for violation in result.violations}
            summary.invariants.update(broken)
            if any(violation.object_kind == "state" for violation in result.violations):
                outcome += ", some not judged"
        summary.outcomes[f"{name}: {outcome}"] += 1
        summary.cases += 1
        summary.seconds += seconds
        summary.largest = max(summary.largest, (size, number))
        summary.slowest = sorted([*summary.slowest, (seconds, number, kind, name)], reverse=True)[:8]

    @staticmethod
    def _size(result: CheckReport | str | None) -> int:
        if isinstance(result, CheckReport):
            return sum(len(v.message) + len(repr(v.evidence)) for v in result.violations)
        return len(result or "")

    # Ways to judge

    def _as_campaigns(self, choice: random.Random) -> tuple[str, CheckReport]:
        report = self.checker.check(self.memory)
        return "held" if report.held else "violations", report

    def _as_a_finding(self, choice: random.Random) -> tuple[str, CheckReport]:
        report = Checker(self.layout, self.config, self.memory).check(self.memory)
        return "held" if report.held else "violations", report

    def _after_a_program(self, choice: random.Random) -> tuple[str, CheckReport]:
        words = self.memory.changed_words()
        pages = np.flatnonzero(np.bincount(words // PAGE_WORDS))
        changed = np.uint64(self.memory.base) + pages.astype(np.uint64) * np.uint64(PAGE_WORDS * 8)
        inside = words[words < self.config.secure_ram.size // 8]
        told = inside if choice.randrange(2) else inside[:0]
        report = np.frombuffer(self._report, protocol.REPORT)[0]
        seen = Seen(self.memory, report, memoryview(self._report.tobytes()).cast("Q"), changed, told)
        everything = bool(choice.randrange(2))
        fast = self.checker.check_changed(seen, self.memory, everything=everything)
        full = self.checker.check(self.memory, seen, families=None if everything else ["world"])
        if fast.held != full.held:
            # The firmware's memory is no part of what programs change; wild globals are what the world family is not
            # about.
            missed = {violation.invariant for violation in full.violations} - {"el3_untouched"}
            if missed and (everything or not np.isin(words, self._roots).any()):
                raise AssertionError(f"the judgement of changes misses {missed}")
        return "held" if full.held else "violations", full

    def _as_trees(self, choice: random.Random) -> tuple[str, str]:
        state = self.checker.state(self.memory)
        return "shown", render(state, choice.choice(VIEWS))

    def _by_hand(self, choice: random.Random) -> tuple[str, str]:
        """Call stacks from wild registers, and lookups of wild capability pointers."""
        elf = self.layout.elf
        functions = [symbol for symbol in elf.functions if symbol.size]
        registers = {f"x{number}": choice.choice(self.places.pointers) for number in range(31)}
        symbol = choice.choice(functions)
        registers["pc"] = symbol.address + (choice.randrange(symbol.size) & -4)
        registers["sp"] = (choice.choice((*self.places.pointers, choice.getrandbits(64)))) & ALL
        frames = backtrace(elf, registers, self.memory)
        ram = Ram(self.memory, self.config.secure_ram)
        for thread in self._threads:
            for _ in range(8):
                pointer = choice.choice((choice.randrange(128), choice.getrandbits(64)))
                lookup_slot(self.layout, ram, thread, pointer)
        return "shown", "\n".join(map(str, frames))
