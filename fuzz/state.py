# SPDX-License-Identifier: BSD-2-Clause
"""A campaign as data: its settings, what it has counted and found so far, and how all that reads as JSON."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuzz.crew import Member
from fuzz.mutators import Choice
from fuzz.statistics import Totals, merge
from fuzz.troubles import Troubles
from harness.build.artefacts import Artefacts
from harness.build.blocks import StaticBlocks
from harness.coverage import report
from harness.coverage.record import BuildCoverage
from harness.errors import InputError

RECENT_SECONDS = 10.0
"""How far back `Campaign.recent` looks."""


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
    strict: bool = False
    coverage: bool = True
    mutators: Choice = Choice.BOTH
    maximum_calls: int = 16
    mix: tuple[bytes, ...] = ()
    keep_corpus: bool = True

    @property
    def kernel(self) -> str:
        """Which kernel: `debug`, with its assertions, or `release`."""
        return "release" if self.artefacts.release else "debug"


class State(StrEnum):
    """How far a campaign has come."""

    RUNNING = "running"
    """Or it was killed: nobody holds its directory's lock then."""
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    """The environment did not let it go on; what it counted and found before is valid."""


@dataclass
class FindingSummary:
    """A finding of this campaign, over all workers."""

    signature: str
    kind: str
    invariant: str | None
    message: str
    path: Path
    """Where it is filed; nothing is there if it could be written nowhere, or was removed."""
    calls: int
    count: int
    first_seen_seconds: float
    first_seen_executions: int
    program: bytes = b""
    program_yaml: str = ""


@dataclass(frozen=True)
class Moment:
    """What had been reached when."""

    time: float
    executions: int
    blocks: int
    programs: int


@dataclass
class Campaign:
    """State of a campaign, and its result once it is over."""

    settings: CampaignSettings
    blocks: StaticBlocks | None = None
    labels: tuple[str, ...] = ()
    errors: Mapping[int, str] = field(default_factory=dict)
    """Names of the calls' errors by number."""
    findings: dict[str, FindingSummary] = field(default_factory=dict)
    notes: Troubles = field(default_factory=Troubles)
    """What went wrong, for `troubles`."""
    parts: dict[int, Totals] = field(default_factory=dict)
    """Counts by worker, of its present process."""
    earlier: Totals = field(default_factory=Totals)
    """Counts of processes that were lost and replaced."""
    boot_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    worker_seconds: dict[int, float] = field(default_factory=dict)
    """For each worker the seconds that it has fuzzed, all its processes together, booting not counted."""
    members: list[Member] = field(default_factory=list)
    state: State = State.RUNNING
    reason: str = ""
    """Why it ended before its time."""
    signal: int = 0
    """The signal that ended it."""
    started: str = ""
    """Date and time, for people; nothing is computed from it."""
    interface: str = ""
    """Identity of the call table."""
    programs: int = 0
    """Size of the corpus."""
    programs_loaded: int = 0
    """Programs that were in the corpus at the beginning."""
    programs_added: int = 0
    last_new: float = 0.0
    """Seconds since the beginning when the corpus last grew."""
    moments: deque[Moment] = field(default_factory=lambda: deque(maxlen=256))

    @property
    def troubles(self) -> list[str]:
        """What went wrong around the software under test, in words, each kind once."""
        return self.notes.texts()

    @property
    def interrupted(self) -> bool:
        """Whether somebody ended it."""
        return self.state is State.INTERRUPTED

    @property
    def totals(self) -> Totals:
        """Counts of all workers."""
        return merge([self.earlier, *self.parts.values()])

    @property
    def rate(self) -> float:
        """Executions a second, of all workers together, booting not counted."""
        longest = max(self.worker_seconds.values(), default=0.0)
        return self.totals.executions / longest if longest else 0.0

    @property
    def restarts(self) -> int:
        """Workers' processes that were started again."""
        return sum(member.restarts for member in self.members)

    def outcomes(self) -> dict[str, int]:
        """How many programs ended in which way, the ordinary way first."""
        totals = self.totals
        done = max(0, totals.executions - sum(totals.outcomes.values()))
        return {"done": done, **dict(totals.outcomes.most_common())}

    def recent(self) -> Moment | None:
        """The moment with which the present one is compared: RECENT_SECONDS ago, or the first one."""
        if not self.moments:
            return None
        for moment in reversed(self.moments):
            if self.moments[-1].time - moment.time >= RECENT_SECONDS:
                return moment
        return self.moments[0]

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
        """What `fuzz --json` writes, and what lies in the campaign's directory while it runs."""
        totals = self.totals
        labels = totals.labels(self.labels, self.errors)
        return {
            "target": self.settings.target,
            "kernel": self.settings.kernel,
            "state": self.state.value,
            "reason": self.reason,
            "started": self.started,
            "seed": self.settings.seed,
            "workers": self.settings.workers,
            "interface": self.interface,
            "seconds": round(self.seconds, 3),
            "executions": totals.executions,
            "calls": totals.calls,
            "executions_per_second": round(self.rate, 1),
            **self._coverage_json(),
            "labels": labels,
            "never_attempted": [name for name, counts in labels.items() if not counts["attempted"]],
            "never_succeeded": [name for name, counts in labels.items() if not counts["succeeded"]],
            "outcomes": self.outcomes(),
            "invariants": {
                name: {"checks": checks, "objects": objects} for name, (checks, objects) in totals.invariants.items()
            },
            "answers": {"answered": totals.answered, "covered": totals.answers_covered},
            "whole_checks": totals.whole_checks,
            "audits": totals.audits,
            "corpus": {"programs": self.programs, "loaded": self.programs_loaded, "added": self.programs_added},
            "restarts": {
                "workers": self.restarts,
                "machines": totals.machines.total(),
                "machines_by_reason": dict(totals.machines),
                "executions_kept": self.earlier.executions,
            },
            "findings": [self._finding_json(finding) for finding in self.findings.values()],
            "troubles": self.troubles,
        }

    def _finding_json(self, finding: FindingSummary) -> dict[str, Any]:
        return {
            "signature": finding.signature,
            "kind": finding.kind,
            "invariant": finding.invariant,
            "kernel": self.settings.kernel,
            "message": finding.message,
            "count": finding.count,
            "path": str(finding.path),
            "calls": finding.calls,
            "first_seen_seconds": round(finding.first_seen_seconds, 3),
            "first_seen_executions": finding.first_seen_executions,
            "program": finding.program_yaml,
        }
