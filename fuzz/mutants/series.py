# SPDX-License-Identifier: BSD-2-Clause
"""Many mutants, a process for each that is judged at the same time; results of an earlier run are taken as they are."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import cast

from fuzz.campaign import usable_cores
from fuzz.mutants.generate import Mutant
from fuzz.mutants.result import Fate, MutantResult, Search, keep, read_kept
from fuzz.mutants.run import Basis, MutantSettings, candidates, run_mutant
from harness.errors import BothworldsError, EnvironmentFailure, LaunchFailure, MissingPackage, OutputError

Done = Callable[[MutantResult, bool], None]
"""Called for each result, in the order in which they come; the second argument says that an earlier run had it."""
_FATAL = (OutputError, MissingPackage, LaunchFailure)
"""What would befall every further mutant too."""


def run_series(
    settings: MutantSettings, done: Done | None = None, *, again: bool = False
) -> tuple[list[MutantResult], list[Mutant]]:
    """Judge mutants until `count` of them count, or none is left.

    Returns the results in the order of choice, and all candidates in that order. Which mutants are judged depends on
    the seed only, not on which process is faster. Raises InputError, EnvironmentFailure, and KeyboardInterrupt: the
    results that there were by then have been kept.
    """
    basis = Basis.of(settings)
    order = candidates(basis.artefacts, settings)
    search = Search(basis.identity, settings.seconds, basis.programs)
    results: dict[int, MutantResult] = {}
    numbers = iter(range(len(order)))
    cores = usable_cores()
    free = [cores[slot % len(cores)] for slot in range(settings.parallel)]
    running: dict[Connection, _Job] = {}

    def wanted() -> bool:
        return sum(result.counts for result in results.values()) + len(running) < settings.count

    def take(number: int, result: MutantResult, *, kept: bool) -> None:
        results[number] = result
        if done is not None:
            done(result, kept)

    try:
        while True:
            while free and wanted() and (number := next(numbers, None)) is not None:
                mutant = order[number]
                if not again and (old := read_kept(settings.directory / mutant.name, search)) is not None:
                    take(number, old, kept=True)
                    continue
                job = _Job(number, mutant, basis, settings, free.pop())
                running[job.pipe] = job
            if not running:
                return [results[number] for number in sorted(results)], order
            for pipe in wait(list(running)):
                job = running.pop(cast(Connection, pipe))
                free.append(job.core)
                result = job.result()
                keep(settings.directory / result.name, search, result)
                take(job.number, result, kept=False)
    finally:
        for job in running.values():
            job.end()


class _Job:
    """One mutant in a process of its own, on one core."""

    def __init__(self, number: int, mutant: Mutant, basis: Basis, settings: MutantSettings, core: int) -> None:
        self.number = number
        self.core = core
        self._mutant = mutant
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # hundreds of processes: each would take a second to import all
        self.pipe, remote = context.Pipe(duplex=False)
        # Not a daemon: campaigns start processes of their own.
        self._process = context.Process(target=_judge, args=(mutant, basis, settings, core, remote))
        self._process.start()
        remote.close()

    def result(self) -> MutantResult:
        """What became of it; waits for that. Raises what would befall every other mutant too."""
        try:
            answer: MutantResult | BaseException = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            answer = _failed(self._mutant, f"its process ended with exit code {self._process.exitcode}")
        self.end()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def end(self) -> None:
        """End the process, whatever it does."""
        self.pipe.close()
        self._process.terminate()
        self._process.join()


def _judge(mutant: Mutant, basis: Basis, settings: MutantSettings, core: int, pipe: Connection) -> None:
    """The process of one mutant; what goes wrong with it alone is its result."""
    os.sched_setaffinity(0, {core})
    answer: MutantResult | BaseException
    try:
        answer = run_mutant(mutant, basis, settings)
    except (*_FATAL, KeyboardInterrupt) as error:
        answer = KeyboardInterrupt() if isinstance(error, KeyboardInterrupt) else EnvironmentFailure(str(error))
    except BothworldsError as error:
        answer = _failed(mutant, str(error).splitlines()[0])
    except Exception:
        answer = _failed(mutant, traceback.format_exc().strip().splitlines()[-1])
    with contextlib.suppress(OSError):  # nobody waits for it any more
        pipe.send(answer)


def _failed(mutant: Mutant, detail: str) -> MutantResult:
    result = MutantResult.of(mutant)
    result.fate, result.detail = Fate.FAILED, detail
    return result
