# SPDX-License-Identifier: BSD-2-Clause
"""What a night knows of itself: the content of `nightly.json`, written again after each step."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 1


class NightState(StrEnum):
    """How far a night came."""

    RUNNING = "running"
    """It runs; or it was lost, if nobody holds the lock."""
    COMPLETE = "complete"
    """Everything was done: later nights compare with it."""
    INCOMPLETE = "incomplete"
    """It came to its end, but something could not be done, or a planted bug was missed."""
    INTERRUPTED = "interrupted"


class Retried(StrEnum):
    """What became of a finding that was tried again."""

    STILL_THERE = "still there"
    CHANGED = "changed"
    """Its program shows something, under another signature."""
    FIXED = "fixed"
    NOT_JUDGED = "not judged"


class Caught(StrEnum):
    """What became of a planted bug."""

    CAUGHT = "caught"
    MISSED = "missed"
    ERROR = "error"
    """It could not be tried: the patch does not apply, its program does not fit the kernel's calls."""
    POSTPONED = "postponed"
    """There was no time for it; the next night begins with it."""


class Ran(StrEnum):
    """What became of a campaign."""

    RUNNING = "running"
    DONE = "done"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    NOT_RUN = "not run"


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", validate_assignment=True)


class BuildRecord(_Part):
    """One of the systems under test. Other parts of the record name it by its key in `builds`."""

    config: str
    release: bool
    share: float = 1.0
    hashes: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    extra_patches: list[str] = Field(default_factory=list)

    @property
    def kernel(self) -> str:
        """`debug` or `release`."""
        return "release" if self.release else "debug"


class RetryRecord(_Part):
    """A finding that was tried again: a kept one, or one of an earlier night."""

    name: str
    path: str
    origin: Literal["kept", "known"]
    build: str
    signature: str
    state: Retried
    shown: list[str] = Field(default_factory=list)
    """Signatures that its program shows on this build."""
    control: bool | None = None
    """Whether it shows with the patches that it carries; None where it carries none, or this was not tried."""
    control_message: str = ""
    """Why this could not be tried."""
    message: str = ""
    finding_message: str = ""
    seconds: float = 0.0
    nights_fixed: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it within a night."""
        return (self.build, self.origin, self.path)


class PlantedRecord(_Part):
    """A planted bug: its stored program, or a campaign from an empty corpus."""

    name: str
    expected: str
    how: Literal["program", "campaign"] = "program"
    state: Caught
    shown: list[str] = Field(default_factory=list)
    message: str = ""
    seconds: float = 0.0
    executions: int | None = None


class CampaignRecord(_Part):
    """A target on a build. It runs more than once when its night is resumed.

    For each time: `directories` has its directory, relative to the night's, `results` the JSON of `fuzz`.
    """

    build: str
    target: str
    directories: list[str] = Field(default_factory=list)
    state: Ran = Ran.NOT_RUN
    seconds_planned: float = 0.0
    seconds: float = 0.0
    message: str = ""
    results: list[dict[str, Any]] = Field(default_factory=list)

    @property
    def executions(self) -> int:
        """Over all times that it ran."""
        return sum(int(result.get("executions", 0)) for result in self.results)

    @property
    def rate(self) -> float:
        """Executions a second, weighted by executions."""
        total = self.executions
        weighted = sum(r.get("executions", 0) * float(r.get("executions_per_second", 0)) for r in self.results)
        return weighted / total if total else 0.0


class FindingRecord(_Part):
    """What a campaign found. `path` is relative to the night's directory."""

    signature: str
    build: str
    target: str
    kind: str
    invariant: str | None = None
    message: str
    path: str
    calls: int = 0
    count: int = 0
    new: bool = True
    """Not among the findings that were known when the night began."""
    handled: bool = False
    """Made smaller and run again, as far as there was time."""
    calls_before: int | None = None
    reproduced: str = ""
    reproduced_cold: str = ""


class Difference(_Part):
    """A finding in the comparison, whatever kernels it shows on."""

    signature: str
    config: str
    kernels: list[str]
    message: str = ""
    note: str = ""
    path: str = ""
    """Its directory, relative to the night's."""
    calls: int | None = None
    reproduced: str = ""


class FunctionChange(_Part):
    """A function in two nights: (blocks that ran, blocks that can run). Builds differ, so names are compared."""

    build: str
    component: str
    function: str
    before: tuple[int, int]
    after: tuple[int, int]


class CoverageTotal(_Part):
    """Blocks that ran and that can run, of one component of a build; `before` is None on its first night."""

    build: str
    component: str
    before: tuple[int, int] | None
    after: tuple[int, int]


class SpeedChange(_Part):
    """Executions a second of a campaign."""

    build: str
    target: str
    before: float | None
    after: float
    slower: bool = False


class Comparison(_Part):
    """Tonight beside the last complete night."""

    with_night: str | None = None
    new: list[Difference] = Field(default_factory=list)
    fixed: list[Difference] = Field(default_factory=list)
    still_there: list[Difference] = Field(default_factory=list)
    not_judged: list[Difference] = Field(default_factory=list)
    coverage: list[CoverageTotal] = Field(default_factory=list)
    gained: list[FunctionChange] = Field(default_factory=list)
    lost: list[FunctionChange] = Field(default_factory=list)
    speed: list[SpeedChange] = Field(default_factory=list)
    labels_lost: dict[str, list[str]] = Field(default_factory=dict)
    labels_gained: dict[str, list[str]] = Field(default_factory=dict)


Functions = dict[str, dict[str, dict[str, int]]]
"""component -> function -> hit, total, unreachable (blocks)."""


class Night(_Part):
    """A night: the whole of `nightly.json`."""

    format: Literal[1] = 1
    night: str
    state: NightState = NightState.RUNNING
    exit_code: int | None = None
    started: str
    ended: str | None = None
    seconds: float = 0.0
    seed: int
    plan: dict[str, Any] = Field(default_factory=dict)
    builds: dict[str, BuildRecord] = Field(default_factory=dict)
    retried: list[RetryRecord] = Field(default_factory=list)
    planted: list[PlantedRecord] = Field(default_factory=list)
    campaigns: list[CampaignRecord] = Field(default_factory=list)
    findings: list[FindingRecord] = Field(default_factory=list)
    functions: dict[str, Functions] = Field(default_factory=dict)
    """By build: coverage of all its campaigns together."""
    comparison: Comparison = Field(default_factory=Comparison)
    troubles: list[str] = Field(default_factory=list)

    @property
    def blind(self) -> list[PlantedRecord]:
        """Planted bugs whose stored program was run and not caught."""
        return [one for one in self.planted if one.how == "program" and one.state is Caught.MISSED]

    @property
    def blind_findings(self) -> list[RetryRecord]:
        """Findings that do not show any more although the patches that brought them were there."""
        return [one for one in self.retried if one.control is False]

    @property
    def is_blind(self) -> bool:
        """Whether the harness missed what it must catch: then nothing else that the night says counts."""
        return bool(self.blind or self.blind_findings)
