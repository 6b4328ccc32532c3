# SPDX-License-Identifier: BSD-2-Clause
"""Campaigns against kernels with a deliberate bug: is it caught, by which invariant, how fast?

Each campaign starts from an empty corpus and ends with the first catch. Its result is kept in a file that
is written last, so that an interrupted series goes on where it stopped and does half-done campaigns again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fuzz.campaign import Campaign, CampaignSettings, FindingSummary, Watch, run_campaign
from fuzz.mutators import Choice
from harness.build.artefacts import Artefacts
from harness.build.planted import PlantedBug, PreservingPatch
from harness.build.system import build
from harness.configs import MachineConfig
from harness.errors import OutputError
from harness.files import write_whole
from harness.findings.bundle import names_shown, read_bundle
from harness.findings.reproduce import reproduce
from harness.findings.signature import BEFORE_ANY_CALL, Signature

MAXIMUM_SECONDS = 600.0
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class PlantedSettings:
    """How the campaigns are run; see `CampaignSettings`. The target follows the bug."""

    config: MachineConfig
    directory: Path
    seconds: float = MAXIMUM_SECONDS
    workers: int = 1
    seed: int = 1
    release: bool = False
    strict: bool = False
    coverage: bool = True
    mutators: Choice = Choice.BOTH
    times: int = 5
    cold: int = 1


@dataclass
class PlantedResult:
    """One campaign. `reproduced` and `reproduced_cold` say `N of M`; `expected_invariant` may be an outcome.

    What was found first stands in `invariant`, `executions` and `seconds`; without a finding they are those of the
    whole campaign.
    """

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
    others: list[str] = field(default_factory=list)
    """Signatures of other findings of the same campaign."""
    mode: str = ""
    seed: int = 0


@dataclass
class PreservingResult:
    """A campaign against a patch that changes nothing: `findings` are signatures, and there must be none."""

    name: str
    executions: int
    seconds: float
    findings: list[str]
    seed: int = 0


def mode_name(settings: PlantedSettings) -> str:
    """How a campaign is guided, in one word."""
    guided = {Choice.BOTH: "coverage", Choice.NATIVE: "native", Choice.TYPED: "typed"}[settings.mutators]
    guided = guided if settings.coverage else {"coverage": "no-coverage"}.get(guided, f"{guided}-no-coverage")
    return f"{guided}-strict" if settings.strict else guided


def run_planted(
    bug: PlantedBug, settings: PlantedSettings, watch: Watch | None = None, *, again: bool = False
) -> tuple[PlantedResult, bool]:
    """The campaign against one bug, or its kept result; returns also whether it was kept.

    Raises KeyboardInterrupt if the campaign was interrupted: what it did is done again the next time.
    """
    artefacts = build(bug.on(settings.config), release=settings.release, extra_patches=[bug.path])
    directory = settings.directory / bug.name
    identity = _identity(artefacts, settings, bug.target)
    if not again and (kept := _read_kept(directory / RESULT_FILE, identity, settings.seconds)) is not None:
        return PlantedResult(**kept), True

    def ends(_: Campaign, finding: FindingSummary) -> bool:
        return is_catch(finding, bug, release=settings.release) and (bug.at_boot or _by_a_call(finding))

    campaign = _run(artefacts, settings, directory, bug.target, watch, ends)
    result = judge_campaign(bug, campaign, release=settings.release)
    result.mode, result.seed = mode_name(settings), settings.seed
    if result.path is not None:
        _reproduce(result, artefacts, settings)
    _keep(directory, identity, settings.seconds, asdict(result))
    return result, False


def run_preserving(
    patch: PreservingPatch, settings: PlantedSettings, watch: Watch | None = None, *, again: bool = False
) -> tuple[PreservingResult, bool]:
    """The campaign against a patch that changes nothing, all of its time; otherwise as `run_planted`."""
    artefacts = build(settings.config, release=settings.release, extra_patches=[patch.path])
    directory = settings.directory / patch.name
    identity = _identity(artefacts, settings, CampaignSettings.target)
    if not again and (kept := _read_kept(directory / RESULT_FILE, identity, settings.seconds)) is not None:
        return PreservingResult(**kept), True
    campaign = _run(artefacts, settings, directory, CampaignSettings.target, watch, None)
    result = PreservingResult(
        patch.name, campaign.totals.executions, round(campaign.seconds, 2), list(campaign.findings), settings.seed
    )
    _keep(directory, identity, settings.seconds, asdict(result))
    return result, False


def _run(
    artefacts: Artefacts,
    settings: PlantedSettings,
    directory: Path,
    target: str,
    watch: Watch | None,
    until: Callable[[Campaign, FindingSummary], bool] | None,
) -> Campaign:
    """A campaign in an empty directory."""
    try:
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be written: {error.strerror or error}") from error
    campaign = run_campaign(
        CampaignSettings(
            artefacts,
            directory,
            target=target,
            seconds=settings.seconds,
            workers=settings.workers,
            seed=settings.seed,
            strict=settings.strict,
            coverage=settings.coverage,
            mutators=settings.mutators,
        ),
        watch,
        until,
    )
    if campaign.interrupted:
        raise KeyboardInterrupt
    return campaign


# Results that are kept


def _identity(artefacts: Artefacts, settings: PlantedSettings, target: str) -> str:
    """Changes with all that a kept result depends on, but for the time that there was."""
    parts = [artefacts.hashes[name] for name in ("kernel", "firmware", "root_task", "victim", "config")]
    parts += [
        str(settings.strict),
        str(settings.coverage),
        settings.mutators,
        target,
        str(settings.seed),
        str(settings.workers),
    ]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def _keep(directory: Path, identity: str, limit: float, result: dict[str, Any]) -> None:
    kept = {"identity": identity, "seconds": limit, "result": result}
    write_whole(directory / RESULT_FILE, json.dumps(kept, indent=2) + "\n")


def _read_kept(path: Path, identity: str, limit: float) -> dict[str, Any] | None:
    """The fields of a kept result that still says something: of the same build, and caught or given as much time."""
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        result: dict[str, Any] = data["result"]
        if data["identity"] == identity and (result.get("caught") or data["seconds"] >= limit):
            return result
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


# What a campaign means


def is_catch(finding: FindingSummary, bug: PlantedBug, *, release: bool = False) -> bool:
    """Whether a finding is what the planted bug must give, or its program shows that besides."""
    names = {finding.invariant or finding.kind}
    if finding.path.exists():
        names |= names_shown(finding.path)
    return not names.isdisjoint(bug.catches(release=release))


def _by_a_call(finding: FindingSummary) -> bool:
    """Whether a program is needed to see it: some bugs show in the snapshot already, which proves less."""
    return Signature.parse(finding.signature).label != BEFORE_ANY_CALL


def judge_campaign(bug: PlantedBug, campaign: Campaign, *, release: bool = False) -> PlantedResult:
    """The result of a campaign that is over, before reproducing."""
    catches = [finding for finding in campaign.findings.values() if is_catch(finding, bug, release=release)]
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
        path=str(first.path) if first and first.path.exists() else None,
        others=[name for name in campaign.findings if first is None or name != first.signature],
    )


def _reproduce(result: PlantedResult, artefacts: Artefacts, settings: PlantedSettings) -> None:
    assert result.path is not None
    again = reproduce(read_bundle(Path(result.path)), artefacts, times=settings.times, cold=settings.cold)
    result.reproduced = str(again.snapshot)
    result.reproduced_cold = str(again.cold)
