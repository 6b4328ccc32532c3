# SPDX-License-Identifier: BSD-2-Clause
"""What a worker and its campaign tell each other, over a pipe between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from fuzz.mutators import Choice
from fuzz.statistics import Totals
from harness.build.artefacts import Artefacts


class Phase(StrEnum):
    """What a worker is doing."""

    BOOTING = "booting"
    LOADING = "loading the corpus"
    FUZZING = "fuzzing"
    REDUCING = "reducing a finding"
    REPLACING = "replacing a machine"
    WAITING = "waiting to be started again"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True)
class WorkerSettings:
    """All that a worker needs.

    `deadline` is a time of `time.monotonic`, the same in all processes; 0: none. `runs` 0: no limit.
    `findings` and `elsewhere`: where findings are filed, and where if that cannot be written. `corpus`: programs to
    begin with; `pending`: where symptoms lie that are not filed yet. `mix`: programs to run in turn instead of what the
    mutators make, for measurements.
    """

    number: int
    artefacts: Artefacts
    target: str
    core: int | None
    seed: int
    corpus: Path | None
    findings: Path
    log: Path
    elsewhere: Path | None = None
    pending: Path | None = None
    workers: int = 1
    deadline: float = 0.0
    runs: int = 0
    check_every: int = 500
    strict: bool = False
    audit_every: int = 1000
    coverage: bool = True
    mutators: Choice = Choice.BOTH
    maximum_calls: int = 16
    mix: tuple[bytes, ...] = ()
    reduce_seconds: float = 20.0


# From a worker:


@dataclass(frozen=True)
class Ready:
    """The worker's machine is parked and the first program is about to run.

    `labels`: names of all calls; `errors`: names of their errors by number; `programs`: how many are to be loaded.
    """

    labels: tuple[str, ...]
    boot_seconds: float
    errors: Mapping[int, str] = field(default_factory=dict)
    programs: int = 0


@dataclass(frozen=True)
class Doing:
    """The worker does something else now; `detail` says what of it."""

    phase: Phase
    detail: str = ""


@dataclass(frozen=True)
class Progress:
    """Counts so far; `last` in a worker's final message."""

    totals: Totals
    seconds: float
    last: bool = False


@dataclass(frozen=True)
class Added:
    """A program that reaches something new: it belongs into the corpus."""

    program: bytes


@dataclass(frozen=True)
class Found:
    """A symptom was seen; `path` is where its finding is filed, None if it could be written nowhere yet.

    `program` is the reduced one. `again`: a finding that was told before is filed now.
    """

    signature: str
    kind: str
    invariant: str | None
    path: Path | None
    message: str
    calls: int
    executions: int
    seconds: float
    program: bytes = b""
    again: bool = False


@dataclass(frozen=True)
class Repeated:
    """Known findings were seen again: signature -> how often."""

    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Trouble:
    """Something went wrong around the software under test; `fatal` ends the worker.

    `message` names it in the same words each time, `detail` is what differs.
    """

    message: str
    fatal: bool = False
    exit_code: int = 3
    detail: str = ""


# From the campaign:


@dataclass(frozen=True)
class Stop:
    """Finish and say so."""


@dataclass(frozen=True)
class Programs:
    """Programs that other workers have found: to be run, and kept if they reach something new here."""

    programs: tuple[bytes, ...]


@dataclass(frozen=True)
class Refile:
    """The directory of this finding is gone: reduce and file it again."""

    signature: str
    program: bytes


Message = Ready | Doing | Progress | Added | Found | Repeated | Trouble
Request = Stop | Programs | Refile
