# SPDX-License-Identifier: BSD-2-Clause
"""A worker: one process with one machine on one core, in which Atheris chooses the programs.

`atheris.Fuzz()` never returns, so a worker is a process of its own and leaves by `os._exit`. It
writes each finding as soon as it has one; what it only counts travels to the campaign twice a second.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from fuzz import libfuzzer
from fuzz.clerk import Clerk, Known, Patience, defect_of_restore
from fuzz.corpus import read_corpus
from fuzz.inputs import Inputs, mutator_of
from fuzz.messages import (
    Added,
    Doing,
    Found,
    Message,
    Phase,
    Programs,
    Progress,
    Ready,
    Refile,
    Repeated,
    Stop,
    Trouble,
    WorkerSettings,
)
from fuzz.pending import Pending
from fuzz.statistics import CallStatistics, JudgedObjects, Totals
from harness.errors import BothworldsError, InputError, MachineError
from harness.execution.executor import Executor
from harness.execution.observation import Observation, Outcome
from harness.findings.filing import Filer, Origin, Reduced
from harness.findings.judge import HANGS, Judge, of_outcome
from harness.findings.minimise import Limits
from harness.findings.signature import NOWHERE, Symptom, signature_of
from harness.invariants.checker import CheckReport
from harness.invariants.wrong_answers import Answers
from harness.programs.interfaces import Interface
from harness.protocol import CALL_BYTES

PROGRESS_SECONDS = 0.5
SAMPLED = 4
"""One in so many programs that bring nothing new is judged by all invariants (with --strict, each of them)."""
TICK = 64
"""Executions between two looks at the clock and the pipe."""
ALWAYS_REDUCED = 6
"""So many programs with the same symptom are reduced, later ones only now and then: another bug may hide there."""
LOSSES = 6
"""Machines that may be lost in a row before the worker gives up."""
FIRST_PAUSE = 0.1
"""Seconds before the second machine in a row is tried; doubled for each one more."""
ATTEMPTS = 3
"""Times that reducing a finding is begun again because its machine was lost."""
LEFT_NORMALLY = 0


class Worker:
    """The loop around Atheris: run, count, judge, file."""

    def __init__(self, settings: WorkerSettings, pipe: Connection, log: int | None = None) -> None:
        self.settings = settings
        self.pipe = pipe
        self.inputs = Inputs(log)
        self.broken = False
        """Whether a program has shown something since the last audit."""
        self.last = b""
        """The program that ran last."""
        self.inspected: set[bytes] = set()
        """Programs that are to be judged by everything when they run."""
        self.phase = Phase.BOOTING
        self.stopping = False
        self.look_now = True
        """Whether clock and pipe are to be looked at before the next program: the last one took long."""
        self.started = time.monotonic()
        self.executions = 0
        self.losses = 0
        self.known: dict[tuple[str, str], Known] = {}
        self.repeated: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.registration: libfuzzer.Registration | None = None
        self.next_progress = 0.0
        self.totals = Totals()
        self.judged = JudgedObjects()

        artefacts = settings.artefacts
        self.interface = Interface.load(artefacts)
        self.labels = tuple(call.name for call in self.interface.calls)
        self.statistics = CallStatistics(self.labels)
        self.executor = Executor(artefacts, core=settings.core, coverage=settings.coverage)

    # From here on in the order in which things happen.

    def boot(self) -> None:
        """Start the machine and everything that looks at it."""
        settings = self.settings
        begun = time.monotonic()
        self.executor.__enter__()
        boot_seconds = time.monotonic() - begun
        self.judge = Judge.of(self.executor)
        self.checker = self.judge.checker
        filer = Filer(self.judge, settings.artefacts, self.interface, settings.findings)
        self.filer, self.clerk = filer, Clerk(filer, settings.findings, settings.elsewhere)
        self.pending = Pending(settings.pending, settings.number, self.interface)
        self.hit: NDArray[np.uint8] = np.zeros(len(self.executor.blocks), np.uint8)
        self.first = np.zeros(len(self.executor.blocks), np.bool_)
        if settings.corpus is not None:
            with contextlib.suppress(InputError):  # the directory is gone, which the campaign mends
                self.inputs.offer(read_corpus(settings.corpus))
        self.started = time.monotonic()
        self.send(Ready(self.labels, boot_seconds, dict(self.checker.layout.error_names), len(self.inputs)))
        verdict = self.judge.judge_start()
        for symptom in verdict.symptoms:
            self.publish(self.filer.at_start(symptom, verdict))
        for path, program, symptom in self.pending.left(settings.workers):
            self.file(program, symptom, self.known.setdefault(symptom.key, Known(seen=1)), path)
        self.doing(Phase.LOADING if len(self.inputs) else Phase.FUZZING)

    def fuzz(self) -> NoReturn:
        """Hand control to libFuzzer; the worker leaves from within `execute`."""
        import atheris

        settings = self.settings
        maximum = settings.maximum_calls * CALL_BYTES
        line = libfuzzer.arguments(seed=settings.seed, maximum_bytes=maximum, artefact_prefix=f"{settings.log}.")

        def native(data: bytes, maximum_bytes: int, _seed: int = 0) -> bytes:
            # Looked up at each call: Atheris puts another function there when it starts.
            changed: bytes = atheris.Mutate(data, maximum_bytes)
            return changed

        mutator = mutator_of(settings, self.interface, native)
        # What is there now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        atheris.Setup(["bothworlds", *line], self.execute, custom_mutator=self.inputs.mutator(mutator))
        atheris.Fuzz()
        self.leave(Trouble("libFuzzer ended by itself; its log says why", fatal=True))

    def execute(self, data: bytes) -> None:
        """One execution. Atheris calls it; no exception may leave it, it would end the fuzzer."""
        try:
            if self.registration is None and self.settings.coverage:
                self.registration = libfuzzer.register(self.executor.coverage, self.executor.blocks.address)
            if self.inputs.last_was_new():
                self.add(self.last)
            self.last = data
            self.executions += 1
            if self.executions % TICK == 0 or self.look_now:
                self.tick()
            self.run(data)
        except MachineError as error:
            self.machine_lost(error)
        except BothworldsError as error:
            self.leave(Trouble(str(error), fatal=True, exit_code=error.exit_code))
        except Exception:
            self.leave(Trouble("a defect of the fuzzer", fatal=True, detail=traceback.format_exc()))

    def run(self, data: bytes) -> None:
        """Run and judge one program."""
        executor, executions = self.executor, self.executions
        observation = executor.run(data)
        self.losses = 0
        self.statistics.add(data, observation.results)
        status = observation.status
        if status is not Outcome.DONE:
            self.outcomes[status.value] += 1
            if status is Outcome.LOST:
                raise MachineError("the machine was lost")
        # 255 where a block has ever been hit, which no count exceeds.
        inspect = bool(np.greater(executor.coverage, self.hit, out=self.first).any())
        if inspect:
            self.hit[self.first] = 255
            self.add(data)
        if status is not Outcome.DONE:
            symptom = of_outcome(observation, self.judge.kernel)
            if symptom is not None:
                self.handle(data, [symptom])
                return
        if self.inspected and data in self.inspected:
            self.inspected.discard(data)
            inspect = True
        report = self.look(observation, inspect=inspect)
        if report.whole:
            self.totals.check_seconds_whole += report.seconds
            self.totals.whole_checks += 1
        else:
            self.totals.check_seconds += report.seconds
        self.judged.add(report.judged)
        if report.requests:
            self.settle(report, data)
        if report.violations:
            self.handle(data, self.judge.new_violations(report))
        if executions % self.settings.audit_every == 0:
            self.audit(data)

    def look(self, observation: Observation, *, inspect: bool) -> CheckReport:
        """Judge what a program left: all of it now and then, otherwise what it changed.

        `inspect`: something tells that this program is worth it to compare all of its answers.
        """
        if not self.executions % self.settings.check_every:
            return self.judge.check(observation)
        if inspect:
            return self.checker.check_changed(observation, everything=True, answers=Answers.ALL)
        if self.settings.strict:
            return self.checker.check_changed(observation, everything=True, answers=Answers.KNOWN)
        # Others look at the whole state, which is worth it only where threads are in states not seen before.
        unusual = self.checker.unusual(observation)
        sampled = unusual or not self.executions % SAMPLED
        return self.checker.check_changed(
            observation, everything=sampled and self.checker.follows, others=unusual, normal=sampled
        )

    def settle(self, report: CheckReport, data: bytes) -> None:
        """Answer what a report asks for; what that executes does not belong to this input."""
        coverage = self.executor.coverage.copy()
        self.judge.settle(report, data)
        self.executor.coverage[:] = coverage

    def audit(self, data: bytes) -> bool:
        """Whether the restored machine equals the snapshot; if not, that is a finding and the machine is replaced.

        A kernel that was seen to be broken may have written anywhere: then the machine is only replaced.
        """
        self.totals.audits += 1
        broken, self.broken = self.broken, False
        differences = self.executor.audit()
        if not differences:
            return True
        if broken:
            self.replace("a kernel that was seen to be broken")
            return False
        self.publish(defect_of_restore(data, differences))
        self.replace("a defect of the restore")
        return False

    def handle(self, data: bytes, symptoms: list[Symptom]) -> None:
        """File what is new among these symptoms and count what is known."""
        coverage = self.executor.coverage.copy()
        self.broken = True
        filed: list[Reduced] = []
        for symptom in symptoms:
            known = self.known.setdefault(symptom.key, Known())
            known.seen += 1
            twin = next((one for one in filed if one.verdict is not None and one.verdict.shows(symptom)), None)
            if twin is not None:
                known.signature = twin.signature
            rare = known.seen & (known.seen - 1) == 0  # 8th, 16th, 32nd, ... time
            if twin is not None or (known.signature is not None and known.seen > ALWAYS_REDUCED and not rare):
                self.repeated[str(known.signature)] += 1
                continue
            filed.append(self.file(data, symptom, known))
        if any(symptom.key in self.filer.lasting for symptom in symptoms):
            # Or the next programs would be blamed for it.
            self.replace("a symptom that outlasts the restore")
        # What reducing executed does not belong to this input.
        self.executor.coverage[:] = coverage
        self.look_now = True

    def file(self, data: bytes, symptom: Symptom, known: Known, path: Path | None = None) -> Reduced:
        """Make a program that shows a symptom small, and file it; `path` is where it is kept until that is done."""
        self.doing(Phase.REDUCING, symptom.name)
        path = path or self.pending.add(data, symptom)
        reduced = self.reduce(data, symptom)
        if reduced.repeatable or symptom.kind not in HANGS:
            known.signature = reduced.signature
            self.publish(reduced)
        else:
            # All that the guest does is repeatable: only the host can have been slow.
            self.send(
                Trouble("a program did not end in time once, but each time that it was repeated: the host was slow")
            )
        self.pending.done(path)
        self.doing(Phase.FUZZING)
        return reduced

    def reduce(self, data: bytes, symptom: Symptom) -> Reduced:
        """The finding as small as it gets; begins again if the machine is lost meanwhile."""
        for _ in range(ATTEMPTS):
            try:
                self.audit(data)
                limits = Limits(seconds=self.settings.reduce_seconds)
                return self.filer.reduce(data, symptom, budget=Patience(limits, self.is_stopping))
            except MachineError as error:
                self.machine_lost(error)
        return Reduced(data, signature_of(symptom, NOWHERE), None, False, None, symptom)

    def publish(self, reduced: Reduced) -> None:
        """Write the finding if it is new, and tell the campaign."""
        seconds = time.monotonic() - self.started
        origin = Origin(self.executions, round(seconds, 3))
        path = None
        for _ in range(ATTEMPTS):
            try:
                path = self.clerk.file(reduced, origin)
                break
            except MachineError as error:
                self.machine_lost(error)
        self.tell(reduced, path)

    def tell(self, reduced: Reduced, path: Path | None, *, again: bool = False) -> None:
        """Tell the campaign of a finding."""
        symptom = reduced.symptom
        self.send(
            Found(
                str(reduced.signature),
                symptom.kind,
                symptom.invariant or None,
                path,
                symptom.message,
                len(reduced.program) // CALL_BYTES,
                self.executions,
                time.monotonic() - self.started,
                reduced.program,
                again,
            )
        )

    def add(self, program: bytes) -> None:
        """Tell the campaign of a program that belongs into the corpus."""
        program = bytes(program[: self.settings.maximum_calls * CALL_BYTES])
        if program and self.inputs.is_new(program):  # libFuzzer always begins with the empty one
            self.send(Added(program))

    def replace(self, reason: str) -> None:
        """A new machine; coverage stays where libFuzzer looks for it."""
        before = self.executor.coverage.ctypes.data
        self.executor.replace(reason)
        if self.executor.coverage.ctypes.data != before:
            self.leave(Trouble("the coverage counters moved with the new machine", fatal=True))

    def machine_lost(self, error: MachineError) -> None:
        """Go on with a new machine, unless they keep dying."""
        before = self.phase
        while True:
            self.losses += 1
            reason, _, rest = str(error).partition("\n")
            print(f"machine lost: {reason}\n{rest}", file=sys.stderr, flush=True)
            self.send(Trouble("machine lost, and replaced", detail=reason))
            if self.losses > LOSSES:
                self.leave(Trouble(f"{self.losses} machines lost in a row", fatal=True, detail=str(error)))
            self.doing(Phase.REPLACING)
            if self.losses > 1:
                time.sleep(FIRST_PAUSE * 2 ** (self.losses - 2))
            try:
                self.replace("the machine was lost")
                break
            except MachineError as problem:
                error = problem
        self.look_now = True
        self.doing(before)

    def tick(self) -> None:
        """Look at clock and pipe: report, or leave."""
        self.look_now = False
        now = time.monotonic()
        settings = self.settings
        over = bool(settings.deadline) and now >= settings.deadline
        if over or self.stopping or (settings.runs and self.executions >= settings.runs):
            self.leave()
        if now >= self.next_progress:
            self.next_progress = now + PROGRESS_SECONDS
            if self.phase is Phase.LOADING and not self.inputs:
                self.doing(Phase.FUZZING)
            self.file_again()
            self.report()
            if self.is_stopping():
                self.leave()

    def is_stopping(self) -> bool:
        """Do what the campaign asks for; whether it has asked for the end."""
        while not self.stopping and self.pipe.poll():
            try:
                request = self.pipe.recv()
            except (EOFError, OSError):
                request = Stop()  # the campaign's process is gone
            if isinstance(request, Programs):
                self.inputs.offer(request.programs)
            elif isinstance(request, Refile):
                for key in [key for key, known in self.known.items() if str(known.signature) == request.signature]:
                    del self.known[key]
                self.inspected.add(request.program)
                self.inputs.offer([request.program])
            else:
                self.stopping = True
        return self.stopping

    def file_again(self, *, now: bool = False) -> None:
        """Try to write findings that could not be written."""
        with contextlib.suppress(MachineError):  # the next program replaces it
            for reduced, path in self.clerk.again(now=now):
                self.tell(reduced, path, again=True)

    def doing(self, phase: Phase, detail: str = "") -> None:
        """Tell what the worker does now."""
        self.phase = phase
        self.send(Doing(phase, detail))

    def report(self, *, last: bool = False) -> None:
        """Send the counts."""
        totals = self.totals
        totals.executions, totals.machines = self.executions, self.executor.replacements.copy()
        totals.started, totals.done = self.statistics.arrays()
        totals.hit = self.hit
        totals.outcomes = self.outcomes
        totals.invariants = self.judged.table()
        if self.checker.answers is not None:
            totals.answered, totals.answers_covered = self.checker.answers.answered, self.checker.answers.covered
        if self.repeated:
            self.send(Repeated(dict(self.repeated)))
            self.repeated.clear()
        self.send(Progress(totals, time.monotonic() - self.started, last))

    def send(self, message: Message) -> None:
        """Tell the campaign; without one there is nobody to work for."""
        try:
            self.pipe.send(message)
        except OSError:
            self.close()
            os._exit(3)

    def close(self) -> None:
        """End the machine."""
        with contextlib.suppress(Exception):
            self.executor.__exit__(None, None, None)

    def leave(self, trouble: Trouble | None = None) -> NoReturn:
        """Report for the last time and end the process."""
        if trouble is not None:
            self.send(trouble)
        elif self.inputs.last_was_new():
            self.add(self.last)
        self.file_again(now=True)
        self.report(last=True)
        self.close()
        os._exit(LEFT_NORMALLY if trouble is None else trouble.exit_code)
