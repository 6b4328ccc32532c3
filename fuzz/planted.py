# SPDX-License-Identifier: BSD-2-Clause
"""Campaigns against kernels with a deliberate bug: is it caught, by which invariant, how fast?

Each campaign starts from an empty corpus and ends with the first finding of the expected
invariant. Its result is kept in a file, so that an interrupted series goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuzz.campaign import Campaign, CampaignSettings, FindingSummary, Watch, run_campaign
from fuzz.mutators import Choice
from harness.build.artefacts import Artefacts
from harness.build.planted import PlantedBug, planted_bugs
from harness.build.system import build
from harness.configs import MachineConfig
from harness.errors import InputError, OutputError
from harness.findings.bundle import read_bundle
from harness.findings.reproduce import reproduce
from harness.findings.signature import BEFORE_ANY_CALL, Signature

MAXIMUM_SECONDS = 600.0
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class PlantedSettings:
    """How the campaigns are run; see `CampaignSettings`."""

    config: MachineConfig
    directory: Path
    seconds: float = MAXIMUM_SECONDS
    workers: int = 1
    seed: int = 1
    release: bool = False
    coverage: bool = True
    mutators: Choice = Choice.BOTH
    target: str = "invocations"
    times: int = 5
    cold: int = 1


@dataclass
class PlantedResult:
    """One row of the table. `reproduced` and `reproduced_cold` say `N of M`."""

    name: str
    caught: bool
    invariant: str | None
    expected_invariant: str
    executions: int
    seconds: float
    minimised_calls: int | None
    reproduced: str
    reproduced_cold: str
    signature: str | None = None
    path: str | None = None
    others: list[str] | None = None
    """Signatures of other findings of the same campaign."""


def select(names: Sequence[str]) -> list[PlantedBug]:
    """The planted bugs of those names, all of them without names; raises InputError for one that is not there."""
    bugs = planted_bugs()
    known = {bug.name: bug for bug in bugs}
    for name in names:
        if name not in known:
            raise InputError(f"no planted bug '{name}'; there are: {', '.join(known)}")
    return [known[name] for name in names] if names else bugs


def _identity(artefacts: Artefacts, settings: PlantedSettings) -> str:
    """Changes with all that a kept result depends on."""
    parts = [artefacts.hashes[name] for name in ("kernel", "firmware", "root_task", "victim", "config")]
    parts += [str(settings.coverage), settings.mutators, settings.target, str(settings.seed), str(settings.workers)]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def run_planted(
    bug: PlantedBug, settings: PlantedSettings, watch: Watch | None = None, *, again: bool = False
) -> tuple[PlantedResult, bool]:
    """The campaign against one bug, or its kept result; returns also whether it was kept."""
    artefacts = build(settings.config, release=settings.release, extra_patches=[bug.path])
    directory = settings.directory / bug.name
    identity = _identity(artefacts, settings)
    if not again and (kept := _read_kept(directory / RESULT_FILE, identity)) is not None:
        return kept, True
    try:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be written: {error.strerror or error}") from error
    campaign = run_campaign(
        CampaignSettings(
            artefacts,
            directory,
            target=settings.target,
            seconds=settings.seconds,
            workers=settings.workers,
            seed=settings.seed,
            coverage=settings.coverage,
            mutators=settings.mutators,
            extra_patches=(bug.path,),
        ),
        watch,
        lambda _, finding: is_catch(finding, bug) and _by_a_call(finding),
    )
    if campaign.interrupted:
        raise KeyboardInterrupt
    result = judge_campaign(bug, campaign)
    if result.path is not None:
        _reproduce(result, artefacts, settings)
    (directory / RESULT_FILE).write_text(json.dumps({"identity": identity, "result": asdict(result)}, indent=2) + "\n")
    return result, False


def _read_kept(path: Path, identity: str) -> PlantedResult | None:
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        return PlantedResult(**data["result"]) if data["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_catch(finding: FindingSummary, bug: PlantedBug) -> bool:
    """Whether a finding is what the planted bug must give."""
    return finding.invariant == bug.expected


def _by_a_call(finding: FindingSummary) -> bool:
    """Whether a program is needed to see it: some bugs show in the snapshot already, which proves less."""
    return Signature.parse(finding.signature).label != BEFORE_ANY_CALL


def judge_campaign(bug: PlantedBug, campaign: Campaign) -> PlantedResult:
    """The table's row for a campaign that is over, before reproducing."""
    catches = [finding for finding in campaign.findings.values() if is_catch(finding, bug)]
    best = min(catches, key=lambda finding: (not _by_a_call(finding), finding.first_seen_seconds), default=None)
    first = best or min(campaign.findings.values(), key=lambda finding: finding.first_seen_seconds, default=None)
    return PlantedResult(
        name=bug.name,
        caught=best is not None,
        invariant=(first.invariant or first.kind) if first else None,
        expected_invariant=bug.expected,
        executions=first.first_seen_executions if first else campaign.totals.executions,
        seconds=round(first.first_seen_seconds if first else campaign.seconds, 2),
        minimised_calls=first.calls if first else None,
        reproduced="0 of 0",
        reproduced_cold="0 of 0",
        signature=first.signature if first else None,
        path=str(first.path) if first else None,
        others=[name for name in campaign.findings if first is None or name != first.signature],
    )


def _reproduce(result: PlantedResult, artefacts: Artefacts, settings: PlantedSettings) -> None:
    assert result.path is not None
    again = reproduce(read_bundle(Path(result.path)), artefacts, times=settings.times, cold=settings.cold)
    result.reproduced = str(again.snapshot)
    result.reproduced_cold = str(again.cold)


def run_all(
    bugs: Sequence[PlantedBug],
    settings: PlantedSettings,
    watch: Watch | None = None,
    done: Callable[[PlantedResult, bool], None] | None = None,
    *,
    again: bool = False,
) -> list[PlantedResult]:
    """Campaigns against several bugs, one after another."""
    results = []
    for bug in bugs:
        result, kept = run_planted(bug, settings, watch, again=again)
        results.append(result)
        if done is not None:
            done(result, kept)
    return results
