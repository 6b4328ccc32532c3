# SPDX-License-Identifier: BSD-2-Clause
"""Judge a state by all invariants, or a program's changes by the world family."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness import plugins, protocol
from harness.configs import MachineConfig
from harness.errors import BothworldsError, ImageError, InputError
from harness.invariants import (  # noqa: F401 (they register their invariants)
    attributes,
    boot,
    cdt,
    effects,
    ipc,
    irq,
    liveness,
    messages,
    normal_answers,
    objects,
    smc_results,
    steps,
    threads,
    trusted_os,
    two_worlds,
    untyped,
    vspace,
    world,
    wrong_answers,
)
from harness.invariants.boot_words import words_at_boot
from harness.invariants.changes import SMC_COUNT, WorldChanges
from harness.invariants.definitions import (
    BootFacts,
    Context,
    Facts,
    Invariant,
    Judgement,
    Request,
    Violation,
    WindowFacts,
    invariants,
)
from harness.invariants.incremental.kernel import COVERED, KernelChanges
from harness.invariants.novelty import Novelty
from harness.invariants.regions import RegionMap
from harness.invariants.registers import registers_at
from harness.invariants.smc import SmcAuthority, log_entries
from harness.invariants.trusted_os import TrustedOsThreads
from harness.invariants.two_worlds import TwoWorlds
from harness.invariants.window import table_words
from harness.invariants.wrong_answers import Answers
from harness.kernel_state.elf import Elf
from harness.kernel_state.layout import Layout
from harness.kernel_state.memory import MemoryImage, Ram, read_optional
from harness.kernel_state.state import KernelState
from harness.programs.interfaces import Interface
from harness.specification.messages import MessageOracle
from harness.specification.normal_world.oracle import NormalOracle
from harness.specification.oracle import AnswerOracle
from harness.specification.steps.oracle import StepOracle

Array = np.ndarray[Any, Any]

ENTRY_POINT_GROUP = "bothworlds.invariants"
"""Packages that add invariants name a module here; importing it registers them."""
ANSWERS_EVERY = 32
"""Of so many programs that are judged by their changes, one has its answers compared, for which a quarter of its calls
needs the state right before them."""
STEPS_EVERY = 8
"""Of so many of these, one has its last call compared with what it does to threads."""
KNOWN_EVERY = 8
"""Of so many, one has those answers compared that the snapshot tells."""

_EACH_PROGRAM = (world.FAMILY, two_worlds.FAMILY)
"""Families that are judged after each program."""


@dataclass
class CheckReport:
    """What a check found.

    `judged`: objects that each invariant looked at, by id; `seconds`: what the check took;
    `requests`: questions that only a state in the middle of the program answers (see Checker.settle).
    """

    violations: list[Violation] = field(default_factory=list)
    judged: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    requests: list[Request] = field(default_factory=list)
    whole: bool = False
    """Everything was looked at, and not only what changed."""

    @property
    def held(self) -> bool:
        """Whether no invariant is violated."""
        return not self.violations

    def add(self, id: str, judgement: Judgement) -> None:
        """Add what an invariant found."""
        self.violations += [Violation(id, *broken) for broken in judgement.broken]
        self.requests += judgement.requests


def load_plugins() -> None:
    """Register the invariants of installed packages (entry point group bothworlds.invariants)."""
    for entry in plugins.entries(ENTRY_POINT_GROUP):
        plugins.load(entry)


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
    from it. `interface` lets smc_authority compare SMCs with a program's calls; without it they are
    not judged. `firmware_elf` lets el3_untouched compare the firmware's constants where memory holds
    them, and the two-worlds family, where the config has a normal world, the registers; with both, calls, too.

    Raises ImageError if the snapshot holds no kernel state of this layout.
    """

    def __init__(
        self,
        layout: Layout,
        config: MachineConfig,
        snapshot_memory: MemoryImage,
        *,
        interface: Interface | None = None,
        firmware_elf: Path | None = None,
    ) -> None:
        load_plugins()
        self.layout = layout
        self.config = config
        self.regions = RegionMap(config)
        self.snapshot = KernelState(layout, config, snapshot_memory, report=report_in(config, snapshot_memory))
        if not len(self.snapshot.caps):
            raise ImageError(
                "the memory holds no capabilities: it is not of this kernel build, or the kernel had not booted"
            )
        self._hints = list(self.snapshot.containers)
        self.smc = SmcAuthority(self.snapshot, interface) if interface is not None else None
        self.answers: AnswerOracle | None = None
        self.messages: MessageOracle | None = None
        self.steps: StepOracle | None = None
        if interface is not None and self.smc is not None:
            threads = [victim.thread for victim in self.smc.victims]
            self.answers = AnswerOracle(self.snapshot, interface, threads, self.smc.decoder)
            self.messages = MessageOracle(self.snapshot, interface, threads, self.smc.decoder)
            self.steps = StepOracle(self.snapshot, self.answers, threads, objects.time_slice(config), self.smc.decoder)
        self.normal: NormalOracle | None = None
        if interface is not None and config.normal_world is not None:
            self.normal = NormalOracle(config, config.normal_world, interface, snapshot_memory)
        self._until_answers = ANSWERS_EVERY
        self._until_steps = STEPS_EVERY
        self.worlds: TwoWorlds | None = None
        self.trusted_os: TrustedOsThreads | None = None
        if config.normal_world is not None and firmware_elf is not None:
            self.worlds = TwoWorlds(config, config.normal_world, Elf(firmware_elf), interface, snapshot_memory)
            if interface is not None:
                self.trusted_os = TrustedOsThreads(self.snapshot, interface)
        self.facts = self._facts(firmware_elf)
        self._changes = WorldChanges(self.snapshot, self.regions, self.facts)
        self._novelty = Novelty(self.snapshot)
        self._rams: dict[int, tuple[MemoryImage, Ram]] = {}
        self._start = self.check(snapshot_memory)
        first = {entry.id for entry in invariants(_EACH_PROGRAM)}
        of_programs = {entry.id for entry in invariants([wrong_answers.FAMILY])}
        self._judged = {id: count for id, count in self._start.judged.items() if id in first}
        self._start_held = not any(violation.invariant in first for violation in self._start.violations)
        self._kernel: KernelChanges | None = None
        self.others = [entry for entry in invariants() if entry.id not in first | COVERED | of_programs]
        """Invariants of other packages: they look at the whole state."""
        theirs = {entry.id for entry in self.others}
        self._all_judged = {id: count for id, count in self._start.judged.items() if id not in theirs}
        self.fallbacks = 0
        """Incremental checks that needed the whole world family."""
        self.unclear: Counter[str] = Counter()
        """Incremental checks of everything that needed all invariants, by what was not recognised."""

    def _facts(self, firmware_elf: Path | None) -> Facts:
        state = self.snapshot
        bare = Context(state, self.regions, Facts())
        scr = frozenset[int]() if state.report is None else frozenset({int(state.report["scr_el3"])})
        if self.worlds is not None:
            scr = self.worlds.scr
        words = tuple(part.copy() for part in table_words(state))
        window = WindowFacts(words, world.judge_window(bare), attributes.judge_window_attributes(bare))
        numbers = words_at_boot(state)
        told = BootFacts(numbers, state.ram.words[numbers], boot.boot_information(bare)) if len(numbers) else None
        firmware = None if firmware_elf is None else Elf(firmware_elf)
        constants = _constants(firmware) if firmware is not None else ()
        registers = {} if firmware is None else registers_at(state, firmware)
        return Facts(scr, state.kernel_root, window, told, constants, registers)

    def _ram(self, memory: MemoryImage) -> Ram | None:
        """The words of a memory that offers views (they stay valid), kept between checks."""
        known = self._rams.get(id(memory))
        if known is not None and known[0] is memory:
            return known[1]
        if not hasattr(memory, "view"):
            return None
        if len(self._rams) > 8:
            self._rams.clear()
        ram = Ram(memory, self.config.secure_ram)
        self._rams[id(memory)] = (memory, ram)
        return ram

    def state(self, memory: MemoryImage, observation: Any = None) -> KernelState:
        """The kernel state in a memory."""
        report = getattr(observation, "report", None)
        if report is None:
            report = report_in(self.config, memory)
        return KernelState(self.layout, self.config, memory, report=report, hints=self._hints, ram=self._ram(memory))

    def _context(self, memory: MemoryImage, observation: Any) -> Context:
        state = self.state(memory, observation)
        return Context(
            state,
            self.regions,
            self.facts,
            observation,
            self.smc,
            self.answers,
            self.worlds,
            self.messages,
            self.trusted_os,
            self.normal,
            self.steps,
        )

    def check(self, memory: MemoryImage, observation: Any = None, families: Iterable[str] | None = None) -> CheckReport:
        """Judge everything in a memory by all invariants, or by those of some families.

        Memory may hold anything. Raises ImageError only where the memory itself cannot be read.
        """
        start = time.perf_counter()
        context = self._context(memory, observation)
        result = CheckReport(whole=families is None)
        for entry in invariants(families):
            if entry.family == two_worlds.FAMILY and self.worlds is None:
                continue
            self._judge(entry, context, result)
        result.seconds = time.perf_counter() - start
        return result

    def unusual(self, observation: Any) -> bool:
        """Whether the state after a program deserves a judgement by all invariants; asked once after each program.

        It does if threads, endpoints and notifications are in states that this checker has not seen together, within
        limits (harness/invariants/novelty.py). The answers depend on the programs alone.
        """
        ram = self._ram(observation.memory)
        return ram is not None and self._novelty.new(ram)

    def check_changed(
        self,
        observation: Any,
        memory: MemoryImage | None = None,
        *,
        everything: bool = False,
        others: bool = True,
        normal: bool = True,
        answers: Answers = Answers.NOW_AND_THEN,
    ) -> CheckReport:
        """The world and two-worlds families after one program, or `everything`, from the pages that it changed.

        The answer is that of `check`. `judged` is what the snapshot holds, whose verdict stands where nothing
        changed. `memory` is the machine's, by default the observation's. See `settle` for the report's requests.
        `others`: everything includes the invariants of other packages, for which the whole state is read. `normal`:
        what the normal world was answered is compared. `answers`: which of the program's other answers are.
        """
        start = time.perf_counter()
        if memory is None:
            memory = observation.memory
        report, changed = observation.report_words, observation.changed
        words = getattr(observation, "changed_words", None)
        ram = self._ram(memory)
        logged = report[SMC_COUNT]
        families = None if everything else _EACH_PROGRAM
        complete = self._start_held and ram is not None and len(changed) < protocol.CHANGED_PAGES
        if not complete or ram is None or not self._changes.clean(ram, changed, report, words):
            self.fallbacks += 1
            return self.check(memory, observation, families)
        faulted = self.trusted_os is not None and not self.trusted_os.clean(ram)
        if faulted or (self.worlds is not None and not self.worlds.clean(memory, observation, ram)):
            self.fallbacks += 1
            return self.check(memory, observation, families)
        result = CheckReport(judged=self._judged)
        if everything:
            if not self._kernel_holds(ram, changed, words, report):
                return self.check(memory, observation)
            result.judged = self._all_judged
            if self.others and others:
                result.judged = result.judged.copy()
                context = self._context(memory, observation)
                for entry in self.others:
                    self._judge(entry, context, result)
        if logged and self.smc is not None:
            program = self.smc.program_of(memory, observation.calls)
            if program is not None:
                judgement = Judgement()
                self.smc.judge_entries(log_entries(report, logged), observation.results, program, judgement)
                result.judged = {**result.judged, "smc_authority": self._judged["smc_authority"] + judgement.judged}
                result.add("smc_authority", judgement)
        if self.normal is not None and normal:
            result.add(normal_answers.ID, normal_answers.judge(self.normal, memory, observation))
        self._compare_answers(memory, observation, answers, result)
        result.seconds = time.perf_counter() - start
        return result

    @property
    def follows(self) -> bool:
        """Whether everything can be judged from what changed: the snapshot held, and nothing of it is left out."""
        if self._kernel is None:
            self._kernel = KernelChanges(self.snapshot, held=self._start.held)
        return self._kernel.exact

    def _kernel_holds(self, ram: Ram, changed: Array, words: Array | None, report: Sequence[int]) -> bool:
        """Whether all invariants but those of the world family and of others certainly hold."""
        if not self.follows or self._kernel is None:
            return False
        reason = self._kernel.unclear(ram, changed, words, report)
        if reason is not None:
            self.unclear[reason.reason] += 1
        return reason is None

    def _compare_answers(self, memory: MemoryImage, observation: Any, answers: Answers, result: CheckReport) -> None:
        """Compare the answers of a program's calls with the specification."""
        self._until_answers -= 1
        every = not self._until_answers or answers is Answers.ALL
        known = answers is Answers.KNOWN or not self._until_answers % KNOWN_EVERY
        if not self._until_answers:
            self._until_answers = ANSWERS_EVERY
            self._until_steps = self._until_steps - 1 or STEPS_EVERY
        if self.answers is None or self.smc is None or not (every or known):
            return
        program = self.smc.program_of(memory, observation.calls)
        if program is not None:
            result.add(wrong_answers.ID, wrong_answers.compare(self.answers, program, observation, known=not every))
            result.add(smc_results.ID, smc_results.compare(self.smc, program, observation))
            if program and (ram := self._ram(memory)) is not None:
                result.add(effects.ID, effects.compare(self.answers, program, observation, ram, ask=int(every)))
            if self.messages is not None:
                result.add(messages.ID, messages.compare(self.messages, program, observation))
            if (
                self.steps is not None
                and program
                and every
                and (answers is Answers.ALL or self._until_steps == STEPS_EVERY)
            ):
                judgement = steps.compare(self.steps, program, observation, self.state(memory, observation))
                result.judged = {**result.judged, steps.ID: judgement.judged}
                result.add(steps.ID, judgement)

    def settle(self, report: CheckReport, run: Callable[[int], Any]) -> list[Violation]:
        """Answer a report's requests, and add what they bring to light to its violations.

        `run(calls)` runs the same program from the snapshot, parks after that many calls (at least one) and returns
        the observation. The machine is left as the last of these runs left it. Returns the violations that are new.
        """
        found = CheckReport()
        of_effects = [request for request in report.requests if request.invariant == effects.ID]
        for request in sorted(report.requests, key=lambda request: request.invariant == steps.ID):
            if request.invariant == steps.ID and (report.violations or found.violations):
                continue  # a step is from one right state to another
            if request.invariant == effects.ID:
                continue
            state = self.snapshot
            if request.call:
                observation = run(request.call)
                state = self.state(observation.memory, observation)
            if request.invariant == wrong_answers.ID and self.answers is not None:
                found.add(request.invariant, wrong_answers.resolve(self.answers, request, state.ram))
            elif request.invariant == messages.ID and self.messages is not None:
                found.add(request.invariant, messages.resolve(self.messages, request, state.ram))
            elif request.invariant == steps.ID and self.steps is not None:
                found.add(request.invariant, steps.resolve(self.steps, request, state))
            elif self.smc is not None:
                found.add(request.invariant, self.smc.resolve(request, state))
        for request in of_effects:
            # What shows in the state or in answers says more about what is wrong, and needs no further execution.
            if self.answers is None or report.violations or found.violations:
                break
            found.add(request.invariant, effects.resolve(self.answers, request, run, self.snapshot, self._state_of))
        report.requests = []
        report.violations += found.violations
        return found.violations

    def _state_of(self, observation: Any) -> KernelState:
        return self.state(observation.memory, observation)

    @staticmethod
    def _judge(entry: Invariant, context: Context, result: CheckReport) -> None:
        try:
            judgement = entry.check(context)
        except BothworldsError:
            raise
        except (IndexError, ValueError, OverflowError, KeyError, MemoryError) as error:
            # Memory that no check of ours foresaw is corrupt beyond what the kernel can do.
            judgement = Judgement()
            judgement.fail(f"the state cannot be judged: {error!r}", "state", error=repr(error))
        except Exception as error:
            if entry.check.__module__.startswith(f"{__package__}."):
                raise
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise InputError(
                f"invariant '{entry.id}' of {entry.check.__module__} failed: {type(error).__name__}: {error} "
                f"({place.filename}, line {place.lineno}); mend it or uninstall its package"
            ) from error
        result.judged[entry.id] = judgement.judged
        result.add(entry.id, judgement)


def _constants(elf: Elf) -> tuple[tuple[int, bytes], ...]:
    return tuple(
        (elf.physical(section.address), section.data)
        for section in elf.sections
        if section.data and not section.writable
    )
