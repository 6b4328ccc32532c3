# SPDX-License-Identifier: BSD-2-Clause
"""What a worker and its campaign tell each other, over a pipe between processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fuzz.mutators import Choice
from fuzz.statistics import Totals
from harness.build.artefacts import Artefacts


@dataclass(frozen=True)
class WorkerSettings:
    """All that a worker needs.

    `deadline` is a time of `time.monotonic`, the same in all processes; 0: none. `runs` 0: no limit.
    `mix`: programs to run in turn instead of what the mutators make, for measurements.
    """

    number: int
    artefacts: Artefacts
    target: str
    core: int | None
    seed: int
    corpus: Path | None
    findings: Path
    log: Path
    deadline: float = 0.0
    runs: int = 0
    check_every: int = 500
    audit_every: int = 1000
    coverage: bool = True
    mutators: Choice = Choice.BOTH
    maximum_calls: int = 16
    extra_patches: tuple[Path, ...] = ()
    mix: tuple[bytes, ...] = ()
    reduce_seconds: float = 20.0


@dataclass(frozen=True)
class Ready:
    """The worker's machine is parked and the first program is about to run."""

    labels: tuple[str, ...]
    boot_seconds: float


@dataclass(frozen=True)
class Progress:
    """Counts so far; `last` in a worker's final message."""

    totals: Totals
    seconds: float
    last: bool = False


@dataclass(frozen=True)
class Found:
    """A symptom was seen; `path` is where its finding is filed."""

    signature: str
    kind: str
    invariant: str | None
    path: Path
    message: str
    calls: int
    executions: int
    seconds: float


@dataclass(frozen=True)
class Repeated:
    """Known findings were seen again: signature -> how often."""

    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Trouble:
    """Something went wrong around the software under test; `fatal` ends the worker."""

    message: str
    fatal: bool = False
    exit_code: int = 3


@dataclass(frozen=True)
class Stop:
    """From the campaign: finish and say so."""


Message = Ready | Progress | Found | Repeated | Trouble
