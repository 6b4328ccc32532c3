# SPDX-License-Identifier: BSD-2-Clause
"""A worker: one process with one machine on one core, in which Atheris chooses the programs.

`atheris.Fuzz()` never returns, so a worker is a process of its own and leaves by `os._exit`. It
writes each finding as soon as it has one; what it only counts travels to the campaign twice a second.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from fuzz import libfuzzer
from fuzz.messages import Found, Message, Progress, Ready, Repeated, Trouble, WorkerSettings
from fuzz.mutators import Choice, Mutator, TypedMutator, mix_of, restricted
from fuzz.shapes import shapes_of
from fuzz.statistics import CallStatistics, Totals
from fuzz.targets import load_target
from harness.errors import BothworldsError, MachineError
from harness.execution.executor import Executor
from harness.execution.observation import Outcome
from harness.findings.filing import Filer, Origin, Reduced
from harness.findings.judge import HARNESS_DEFECT, Judge, of_outcome
from harness.findings.minimise import Limits
from harness.findings.signature import Signature, Symptom
from harness.invariants.checker import CheckReport
from harness.programs.interfaces import Interface
from harness.protocol import CALL_BYTES

PROGRESS_SECONDS = 0.5
TICK = 64
"""Executions between two looks at the clock and the pipe."""
ALWAYS_REDUCED = 6
"""So many programs with the same symptom are reduced, later ones only now and then: another bug may hide there."""
LOSSES = 3
"""Machines that may be lost in a row before the worker gives up."""
LEFT_NORMALLY = 0


@dataclass
class Known:
    """A symptom that was seen before, and how its last finding is called."""

    seen: int = 0
    signature: Signature | None = None


class Worker:
    """The loop around Atheris: run, count, judge, file."""

    def __init__(self, settings: WorkerSettings, pipe: Connection) -> None:
        self.settings = settings
        self.pipe = pipe
        self.started = time.monotonic()
        self.executions = 0
        self.losses = 0
        self.known: dict[tuple[str, str], Known] = {}
        self.repeated: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.registration: libfuzzer.Registration | None = None
        self.next_progress = 0.0
        self.totals = Totals()
        self.judged: dict[str, list[int]] = {}
        self.usual: dict[str, int] = {}
        self.usual_checks = 0

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
        self.filer = Filer(self.judge, settings.artefacts, self.interface, settings.findings)
        self.hit: NDArray[np.uint8] = np.zeros(len(self.executor.blocks), np.uint8)
        self.started = time.monotonic()
        self.send(Ready(self.labels, boot_seconds))
        verdict = self.judge.judge_start()
        for symptom in verdict.symptoms:
            self.publish(self.filer.at_start(symptom, verdict))

    def fuzz(self) -> NoReturn:
        """Hand control to libFuzzer; the worker leaves from within `execute`."""
        import atheris

        settings = self.settings
        maximum = settings.maximum_calls * CALL_BYTES
        line = libfuzzer.arguments(
            seed=settings.seed, maximum_bytes=maximum, corpus=settings.corpus, artefact_prefix=f"{settings.log}."
        )

        def native(data: bytes, maximum_bytes: int) -> bytes:
            # Looked up at each call: Atheris puts another function there when it starts.
            changed: bytes = atheris.Mutate(data, maximum_bytes)
            return changed

        target = load_target(settings.target)
        shapes = shapes_of(self.interface, target)
        typed = TypedMutator(
            shapes,
            seed=settings.seed,
            maximum_calls=settings.maximum_calls,
            native=native if settings.mutators is Choice.BOTH else None,
        )
        mutator: Mutator | None = None if settings.mutators is Choice.NATIVE else typed
        if target.exclusive:
            mutator = restricted(mutator or native, shapes)
        if settings.mix:
            mutator = mix_of(settings.mix, mutator)
        keywords = {} if mutator is None else {"custom_mutator": mutator}
        # What is there now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        atheris.Setup(["bothworlds", *line], self.execute, **keywords)
        atheris.Fuzz()
        self.leave(Trouble("libFuzzer ended by itself; its log says why", fatal=True))

    def execute(self, data: bytes) -> None:
        """One execution. Atheris calls it; no exception may leave it, it would end the fuzzer."""
        try:
            if self.registration is None and self.settings.coverage:
                self.registration = libfuzzer.register(self.executor.coverage, self.executor.blocks.address)
            self.executions += 1
            if self.executions % TICK == 0:
                self.tick()
            self.run(data)
        except MachineError as error:
            self.machine_lost(error)
        except BothworldsError as error:
            self.leave(Trouble(str(error), fatal=True, exit_code=error.exit_code))
        except Exception:
            self.leave(Trouble(f"a defect of the fuzzer:\n{traceback.format_exc()}", fatal=True))

    def run(self, data: bytes) -> None:
        """Run and judge one program."""
        executor, executions = self.executor, self.executions
        observation = executor.run(data)
        self.losses = 0
        self.statistics.add(data, observation.results)
        np.bitwise_or(self.hit, executor.coverage, out=self.hit)
        status = observation.status
        if status is not Outcome.DONE:
            self.outcomes[status.value] += 1
            symptom = of_outcome(observation, self.judge.kernel)
            if symptom is not None:
                self.handle(data, [symptom])
                return
            if status is Outcome.LOST:
                raise MachineError("the machine was lost")
        if executions % self.settings.check_every:
            report = self.checker.check_changed(observation)
            self.totals.check_seconds += report.seconds
        else:
            report = self.judge.check(observation)
            self.totals.check_seconds_whole += report.seconds
            self.totals.whole_checks += 1
        self.count(report)
        if report.requests:
            self.settle(report, data)
        if report.violations:
            self.handle(data, self.judge.new_violations(report))
        if executions % self.settings.audit_every == 0:
            self.audit(data)

    def settle(self, report: CheckReport, data: bytes) -> None:
        """Answer what a report asks for; what that executes does not belong to this input."""
        coverage = self.executor.coverage.copy()
        self.judge.settle(report, data)
        self.executor.coverage[:] = coverage

    def count(self, report: CheckReport) -> None:
        """Add what a check judged. Nearly always that is the snapshot's own table: those are only counted."""
        if report.judged is self.usual:
            self.usual_checks += 1
            return
        self.count_usual()
        self.usual, self.usual_checks = report.judged, 1

    def count_usual(self) -> None:
        """Add the checks that are not added yet."""
        for name, objects in self.usual.items():
            entry = self.judged.setdefault(name, [0, 0])
            entry[0] += self.usual_checks
            entry[1] += objects * self.usual_checks
        self.usual_checks = 0

    def audit(self, data: bytes) -> bool:
        """Whether the restored machine equals the snapshot; if not, that is a finding and the machine is replaced."""
        self.totals.audits += 1
        differences = self.executor.audit()
        if not differences:
            return True
        evidence = {"differences": [str(difference) for difference in differences[:32]], "count": len(differences)}
        symptom = Symptom(HARNESS_DEFECT, "", "restore", f"{len(differences)} differences after a restore", evidence)
        reduced = Reduced(
            data[: len(data) // CALL_BYTES * CALL_BYTES],
            Signature(HARNESS_DEFECT, "restore", "-"),
            None,
            False,
            None,
            symptom,
        )
        self.publish(reduced)
        self.replace()
        return False

    def handle(self, data: bytes, symptoms: list[Symptom]) -> None:
        """File what is new among these symptoms and count what is known."""
        coverage = self.executor.coverage.copy()
        for symptom in symptoms:
            known = self.known.setdefault(symptom.key, Known())
            known.seen += 1
            rare = known.seen & (known.seen - 1) == 0  # 8th, 16th, 32nd, ... time
            if known.signature is not None and known.seen > ALWAYS_REDUCED and not rare:
                self.repeated[str(known.signature)] += 1
                continue
            self.audit(data)
            reduced = self.filer.reduce(data, symptom, Limits(seconds=self.settings.reduce_seconds))
            known.signature = reduced.signature
            self.publish(reduced)
        # What reducing executed does not belong to this input.
        self.executor.coverage[:] = coverage

    def publish(self, reduced: Reduced) -> None:
        """Write the finding if it is new, and tell the campaign."""
        seconds = time.monotonic() - self.started
        origin = Origin(self.executions, round(seconds, 3), list(self.settings.extra_patches))
        path, _ = self.filer.file(reduced, origin)
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
                seconds,
            )
        )

    def replace(self) -> None:
        """A new machine; coverage stays where libFuzzer looks for it."""
        self.totals.machines += 1
        before = self.executor.coverage.ctypes.data
        self.executor.replace()
        if self.executor.coverage.ctypes.data != before:
            self.leave(Trouble("the coverage counters moved with the new machine", fatal=True))

    def machine_lost(self, error: MachineError) -> None:
        """Go on with a new machine, unless they keep dying."""
        self.losses += 1
        self.send(Trouble(f"machine lost, replaced: {error}"))
        while True:
            if self.losses > LOSSES:
                self.leave(Trouble(f"{self.losses} machines lost in a row: {error}", fatal=True))
            try:
                self.replace()
                return
            except MachineError as problem:
                self.losses += 1
                error = problem

    def tick(self) -> None:
        """Look at clock and pipe: report, or leave."""
        now = time.monotonic()
        settings = self.settings
        over = bool(settings.deadline) and now >= settings.deadline
        if over or (settings.runs and self.executions >= settings.runs):
            self.leave()
        if now >= self.next_progress:
            self.next_progress = now + PROGRESS_SECONDS
            self.report()
            if self.pipe.poll():  # a request to stop, or the end of the campaign's process
                self.leave()

    def report(self, *, last: bool = False) -> None:
        """Send the counts."""
        totals = self.totals
        totals.executions = self.executions
        totals.started, totals.done = self.statistics.arrays()
        totals.hit = self.hit
        totals.outcomes = self.outcomes
        self.count_usual()
        totals.invariants = {name: (checks, objects) for name, (checks, objects) in self.judged.items()}
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
        self.report(last=True)
        self.close()
        os._exit(LEFT_NORMALLY if trouble is None else trouble.exit_code)


def main(settings: WorkerSettings, pipe: Connection) -> None:
    """The worker's process."""
    # Ctrl-C reaches the whole process group; the campaign decides when its workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = os.open(settings.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if settings.core is not None:
        os.sched_setaffinity(0, {settings.core})
    worker: Worker | None = None
    try:
        worker = Worker(settings, pipe)
        worker.boot()
    except BothworldsError as error:
        pipe.send(Trouble(str(error), fatal=True, exit_code=error.exit_code))
    except Exception:
        pipe.send(Trouble(f"a defect of the fuzzer:\n{traceback.format_exc()}", fatal=True))
    else:
        worker.fuzz()
    if worker is not None:
        worker.close()
    os._exit(3)
