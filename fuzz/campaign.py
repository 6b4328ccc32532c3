# SPDX-License-Identifier: BSD-2-Clause
"""A campaign: starts workers, keeps them going, collects what they find.

The campaign's own process runs no machine. A worker that is lost is replaced, and what it had
written (findings, corpus) is kept.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuzz import worker
from fuzz.messages import Found, Progress, Ready, Repeated, Stop, Trouble, WorkerSettings
from fuzz.mutators import Choice
from fuzz.statistics import Totals, merge
from harness.build.artefacts import Artefacts
from harness.build.blocks import StaticBlocks, static_blocks
from harness.coverage import report
from harness.coverage.record import BuildCoverage
from harness.errors import EnvironmentFailure, InputError, OutputError

RESTARTS = 3
"""Times that a worker is started again before the campaign gives up on it."""
STOP_SECONDS = 60.0
"""How long a worker may take to finish what it is doing (it may be reducing a finding)."""


@dataclass(frozen=True)
class CampaignSettings:
    """What to fuzz and for how long; `seconds` or `runs` of 0 mean no limit of that kind."""

    artefacts: Artefacts
    directory: Path
    target: str = "invocations"
    seconds: float = 60.0
    runs: int = 0
    workers: int = 1
    seed: int = 1
    check_every: int = 500
    coverage: bool = True
    mutators: Choice = Choice.BOTH
    maximum_calls: int = 16
    extra_patches: tuple[Path, ...] = ()
    mix: tuple[bytes, ...] = ()
    keep_corpus: bool = True


@dataclass
class FindingSummary:
    """A finding of this campaign, over all workers."""

    signature: str
    kind: str
    invariant: str | None
    message: str
    path: Path
    calls: int
    count: int
    first_seen_seconds: float
    first_seen_executions: int


@dataclass
class Campaign:
    """State of a campaign, and its result once it is over."""

    settings: CampaignSettings
    blocks: StaticBlocks | None = None
    labels: tuple[str, ...] = ()
    findings: dict[str, FindingSummary] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    parts: dict[int, Totals] = field(default_factory=dict)
    earlier: list[Totals] = field(default_factory=list)
    """Totals of workers that were lost and replaced."""
    waiting: Counter[str] = field(default_factory=Counter)
    boot_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    worker_seconds: dict[int, float] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def totals(self) -> Totals:
        """Counts of all workers."""
        return merge([*self.earlier, *self.parts.values()])

    @property
    def rate(self) -> float:
        """Executions a second, of all workers together, booting not counted."""
        longest = max(self.worker_seconds.values(), default=0.0)
        return self.totals.executions / longest if longest else 0.0

    def coverage(self) -> dict[str, dict[str, int]]:
        """For each component: reachable blocks, and how many of them were hit."""
        table: dict[str, dict[str, int]] = {}
        hit = self.totals.hit
        if self.blocks is None:
            return table
        reachable = self.blocks.reachable()
        for name in self.blocks.components:
            mask = self.blocks.of(name) & reachable
            count = int((hit[: len(mask)][mask] != 0).sum()) if len(hit) else 0
            table[name] = {"blocks_hit": count, "blocks_total": int(mask.sum())}
        return table

    @cached_property
    def built(self) -> BuildCoverage | None:
        """What coverage of this build means, None without coverage. The first time takes a second."""
        return BuildCoverage.of(self.settings.artefacts) if self.blocks is not None else None

    def hit(self) -> NDArray[np.uint8]:
        """Not zero for each block that was hit, u8[blocks]; all zero before the first report of a worker."""
        count = len(self.blocks) if self.blocks is not None else 0
        return self.totals.hit if len(self.totals.hit) == count else np.zeros(count, np.uint8)

    def functions(self) -> list[report.FunctionCoverage]:
        """Coverage by function; empty without coverage."""
        return self.built.by_function(self.hit()) if self.built is not None else []

    def components(self) -> dict[str, report.ComponentCoverage]:
        """The sums over a component's functions; empty without coverage."""
        if self.built is not None:
            return report.by_component(self.functions())
        return {
            name: report.ComponentCoverage(part["blocks_hit"], part["blocks_total"], 0)
            for name, part in self.coverage().items()
        }

    def wrong_coverage(self) -> list[str]:
        """Blocks that were hit although they are said to be unreachable."""
        return self.built.wrong(self.hit()) if self.built is not None else []

    def save_coverage(self) -> None:
        """Leave the blocks that were hit in the campaign's directory; raises OutputError."""
        if self.built is not None:
            self.built.save(self.settings.directory, self.hit())

    def write_lcov(self, path: Path) -> None:
        """Write coverage for genhtml; raises OutputError, and InputError for a campaign without coverage."""
        if self.built is None:
            raise InputError("--lcov: a campaign without coverage has nothing to write; leave out --no-coverage")
        self.built.write_lcov(path, self.hit(), title=self.settings.target)

    def _coverage_json(self) -> dict[str, Any]:
        functions = self.functions()
        coverage: dict[str, Any] = {name: dict(part) for name, part in self.coverage().items()}
        for name, part in report.by_component(functions).items():
            coverage[name]["blocks_unreachable"] = part.unreachable
        return {
            "coverage": coverage,
            "functions": report.to_json(functions),
            "unreachable_but_hit": self.wrong_coverage(),
        }

    def to_json(self) -> dict[str, Any]:
        """What `fuzz --json` writes."""
        totals = self.totals
        return {
            "target": self.settings.target,
            "seed": self.settings.seed,
            "workers": self.settings.workers,
            "seconds": round(self.seconds, 3),
            "executions": totals.executions,
            "calls": totals.calls,
            "executions_per_second": round(self.rate, 1),
            **self._coverage_json(),
            "labels": totals.labels(self.labels),
            "outcomes": dict(totals.outcomes),
            "invariants": {
                name: {"checks": checks, "objects": objects} for name, (checks, objects) in totals.invariants.items()
            },
            "audits": totals.audits,
            "findings": [
                {
                    "signature": finding.signature,
                    "kind": finding.kind,
                    "invariant": finding.invariant,
                    "message": finding.message,
                    "count": finding.count,
                    "path": str(finding.path),
                    "calls": finding.calls,
                    "first_seen_seconds": round(finding.first_seen_seconds, 3),
                    "first_seen_executions": finding.first_seen_executions,
                }
                for finding in self.findings.values()
            ],
            "troubles": self.troubles,
        }


class _Running:
    """One worker's process."""

    def __init__(self, settings: WorkerSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self.settings = settings
        self.pipe, remote = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=worker.main, args=(settings, remote), name=f"worker-{settings.number}"
        )
        self.process.start()
        remote.close()
        self.finished = False
        self.fatal: Trouble | None = None

    def stop(self) -> None:
        """Ask the worker to finish."""
        try:
            self.pipe.send(Stop())
        except OSError:
            return

    def end(self, seconds: float) -> None:
        """Wait for the process, and end it if it does not end by itself."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


Watch = Callable[[Campaign], None]
"""Called about twice a second and on each event, to show progress."""


def prepare_directory(directory: Path) -> None:
    """Make the output directory; raises OutputError if nothing can be written there."""
    try:
        for name in ("corpus", "logs"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        probe = directory / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{directory}: cannot be written: {error.strerror or error}; choose another with --out"
        ) from error


def usable_cores() -> list[int]:
    """Host cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def run_campaign(
    settings: CampaignSettings,
    watch: Watch | None = None,
    until: Callable[[Campaign, FindingSummary], bool] | None = None,
) -> Campaign:
    """Run a campaign to its end: time, number of executions, Ctrl-C, or `until` says so of a finding.

    Raises InputError or EnvironmentFailure if no worker can run.
    """
    cores = usable_cores()
    if not 1 <= settings.workers <= 4 * len(cores):
        raise InputError(f"--workers {settings.workers}: between 1 and {4 * len(cores)} make sense on this machine")
    prepare_directory(settings.directory)
    campaign = Campaign(settings)
    if settings.coverage:
        campaign.blocks = static_blocks(settings.artefacts)
    started = time.monotonic()
    deadline = started + settings.seconds if settings.seconds else 0.0
    running = {
        number: _Running(_worker_settings(settings, number, cores, deadline)) for number in range(settings.workers)
    }
    restarts: Counter[int] = Counter()
    try:
        _collect(campaign, running, restarts, deadline, watch, until)
    except KeyboardInterrupt:
        campaign.interrupted = True
        for one in running.values():
            one.stop()
        _collect(campaign, running, restarts, time.monotonic(), watch, None, stopping=True)
    finally:
        for one in running.values():
            one.end(0.0 if one.finished else 1.0)
    campaign.seconds = time.monotonic() - started
    if watch is not None:
        watch(campaign)
    return campaign


def _worker_settings(settings: CampaignSettings, number: int, cores: list[int], deadline: float) -> WorkerSettings:
    share, rest = divmod(settings.runs, settings.workers)
    return WorkerSettings(
        number=number,
        artefacts=settings.artefacts,
        target=settings.target,
        core=cores[number % len(cores)],
        seed=settings.seed + number,
        corpus=settings.directory / "corpus" if settings.keep_corpus else None,
        findings=settings.directory,
        log=settings.directory / "logs" / f"worker-{number}.log",
        deadline=deadline,
        runs=share + (number < rest) if settings.runs else 0,
        check_every=settings.check_every,
        coverage=settings.coverage,
        mutators=settings.mutators,
        maximum_calls=settings.maximum_calls,
        extra_patches=settings.extra_patches,
        mix=settings.mix,
    )


def _collect(
    campaign: Campaign,
    running: dict[int, _Running],
    restarts: Counter[int],
    deadline: float,
    watch: Watch | None,
    until: Callable[[Campaign, FindingSummary], bool] | None,
    *,
    stopping: bool = False,
) -> None:
    """Read what workers say until all have finished."""
    latest = time.monotonic() + STOP_SECONDS if stopping else (deadline + STOP_SECONDS if deadline else 0.0)
    while alive := [one for one in running.values() if not one.finished]:
        for pipe in wait([one.pipe for one in alive], timeout=0.5):
            assert isinstance(pipe, Connection)
            one = next(one for one in alive if one.pipe is pipe)
            if _receive(campaign, one, until) and not stopping:
                stopping = True
                latest = time.monotonic() + STOP_SECONDS
                for other in running.values():
                    other.stop()
        for one in alive:
            if one.finished and not stopping and _should_restart(campaign, one, restarts, deadline):
                running[one.settings.number] = _restart(campaign, one, restarts)
        if watch is not None:
            watch(campaign)
        if latest and time.monotonic() > latest:
            campaign.troubles.append(f"{len(alive)} workers did not finish in time and were ended")
            return


def _receive(campaign: Campaign, one: _Running, until: Callable[[Campaign, FindingSummary], bool] | None) -> bool:
    """Take one message; returns whether the campaign shall end because of it."""
    number = one.settings.number
    try:
        message = one.pipe.recv()
    except (EOFError, OSError):
        one.finished = True
        return False
    if isinstance(message, Ready):
        campaign.labels = message.labels
        campaign.boot_seconds.append(message.boot_seconds)
    elif isinstance(message, Progress):
        campaign.parts[number] = message.totals
        campaign.worker_seconds[number] = message.seconds
        if message.last:
            one.finished = True
    elif isinstance(message, Repeated):
        for signature, count in message.counts.items():
            campaign.findings[signature].count += count
    elif isinstance(message, Trouble):
        campaign.troubles.append(f"worker {number}: {message.message}")
        if message.fatal:
            one.fatal = message
    elif isinstance(message, Found):
        summary = campaign.findings.get(message.signature)
        if summary is None:
            summary = campaign.findings[message.signature] = FindingSummary(
                message.signature, message.kind, message.invariant, message.message, message.path, message.calls, 0,
                message.seconds, campaign.totals.executions + message.executions - _counted(campaign, number),
            )  # fmt: skip
        summary.count += 1
        return until is not None and until(campaign, summary)
    return False


def _counted(campaign: Campaign, number: int) -> int:
    """Executions of a worker that its last progress told of."""
    part = campaign.parts.get(number)
    return part.executions if part is not None else 0


def _should_restart(campaign: Campaign, one: _Running, restarts: Counter[int], deadline: float) -> bool:
    """Whether a worker that has ended did so before its time; raises if it never will work."""
    one.process.join(5)
    if one.fatal is None and one.process.exitcode == worker.LEFT_NORMALLY:
        return False
    number = one.settings.number
    if deadline and time.monotonic() > deadline:
        return False
    if restarts[number] >= RESTARTS or not campaign.labels:
        reason = one.fatal.message if one.fatal else f"it ended with exit code {one.process.exitcode}"
        error = InputError if one.fatal and one.fatal.exit_code == InputError.exit_code else EnvironmentFailure
        raise error(f"worker {number} cannot go on: {reason}\n  its log is {one.settings.log}")
    return True


def _restart(campaign: Campaign, one: _Running, restarts: Counter[int]) -> _Running:
    number = one.settings.number
    restarts[number] += 1
    done = campaign.parts.pop(number, None)
    runs = one.settings.runs
    if done is not None:
        campaign.earlier.append(done)
        runs = max(1, runs - done.executions) if runs else 0
    campaign.troubles.append(f"worker {number} was lost (exit code {one.process.exitcode}) and started again")
    one.end(0.0)
    # Another seed: the same one might lead it to the same end.
    return _Running(replace(one.settings, seed=one.settings.seed + 1000 * restarts[number], runs=runs))
