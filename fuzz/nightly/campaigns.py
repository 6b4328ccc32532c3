# SPDX-License-Identifier: BSD-2-Clause
"""The campaigns of a night: one for each target on each build, with the corpus of the nights before."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from fuzz.campaign import Campaign, CampaignSettings, run_campaign
from fuzz.directory import REPORT
from fuzz.nightly.record import BuildRecord, CampaignRecord, FindingRecord, Night, Ran
from fuzz.nightly.store import CAMPAIGNS, Store
from fuzz.nightly.words import first_line
from fuzz.progress import Progress
from harness.build.artefacts import Artefacts
from harness.errors import BothworldsError, EnvironmentFailure, OutputError

SECONDS_AROUND = (1.5, 5.0)
"""What a campaign takes beside its own time (ending its workers, writing coverage), at first and at most."""
MINIMUM_SECONDS = 2.0
"""A campaign that would get less than this is left out."""


def planned(builds: dict[str, BuildRecord], targets: dict[str, float]) -> list[CampaignRecord]:
    """The campaigns of a night in their order: targets of the first build, then of the next one."""
    return [
        CampaignRecord(build=build, target=target) for build in builds for target, share in targets.items() if share
    ]


def shares(
    campaigns: list[CampaignRecord], builds: dict[str, BuildRecord], targets: dict[str, float]
) -> dict[int, float]:
    """Share of the time of each campaign that is still to be run, by its place in the list."""
    return {
        index: builds[one.build].share * targets[one.target]
        for index, one in enumerate(campaigns)
        if one.state in (Ran.NOT_RUN, Ran.INTERRUPTED) and one.build in builds and one.target in targets
    }


class Runner:
    """Runs campaigns and writes what they did into the night's record."""

    def __init__(
        self, night: Night, directory: Path, store: Store, artefacts: dict[str, Artefacts], save: Callable[[], None]
    ) -> None:
        self._night = night
        self._directory = directory
        self._store = store
        self._artefacts = artefacts
        self._save = save
        self._seen: Campaign | None = None

    def run(
        self, record: CampaignRecord, seconds: float, *, runs: int, workers: int, seed: int, check_every: int
    ) -> None:
        """Run one campaign. A campaign that fails is recorded, and others go on; an interruption is raised."""
        # Each time in a directory of its own: what an interrupted campaign left stays as it is.
        again = f"-{len(record.directories) + 1}" if record.directories else ""
        record.directories = [*record.directories, f"{CAMPAIGNS}/{record.build}-{record.target}{again}"]
        directory = self._directory / record.directories[-1]
        settings = CampaignSettings(
            self._artefacts[record.build],
            directory,
            target=record.target,
            seconds=seconds,
            runs=runs,
            workers=workers,
            seed=seed,
            check_every=check_every,
        )
        record.state, record.seconds_planned = Ran.RUNNING, round(record.seconds_planned + seconds, 1)
        self._save()
        self._seen = None
        started = time.monotonic()
        try:
            self._share_corpus(record, directory)
            with Progress(f"{record.target} on {record.build}") as progress:

                def watch(campaign: Campaign) -> None:
                    self._seen = campaign
                    progress.watch(campaign)

                campaign = run_campaign(settings, watch)
            record.state = Ran.INTERRUPTED if campaign.interrupted else Ran.DONE
            self._seen = campaign
        except (KeyboardInterrupt, SystemExit):
            record.state = Ran.INTERRUPTED
            raise
        except BothworldsError as problem:
            record.state, record.message = Ran.FAILED, str(problem)
        finally:
            record.seconds = round(record.seconds + time.monotonic() - started, 1)
            self._collect(record)
        if record.state is Ran.INTERRUPTED:
            raise KeyboardInterrupt
        if record.state is Ran.DONE and not record.executions:
            record.state, record.message = Ran.FAILED, f"nothing was executed in {seconds:.0f} s: too short, or stuck"

    def _share_corpus(self, record: CampaignRecord, directory: Path) -> None:
        """The campaign's corpus is that of the nights before; it grows in place, so that nothing is lost by a crash."""
        corpus = self._store.corpus(record.build, record.target)
        link = directory / "corpus"
        try:
            corpus.mkdir(parents=True, exist_ok=True)
            directory.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(os.path.relpath(corpus, directory), target_is_directory=True)
        except OSError as error:
            raise EnvironmentFailure(f"{corpus}: cannot be made: {error.strerror}") from error

    def _collect(self, record: CampaignRecord) -> None:
        """Keep counts, coverage and findings of what ran, however it ended."""
        campaign = self._seen
        if campaign is not None:
            record.results.append(campaign.to_json())
            self._night.troubles += [f"{record.target} on {record.build}: {text}" for text in campaign.troubles]
            try:
                campaign.save_coverage()
            except OutputError as problem:
                self._night.troubles.append(first_line(problem))
        self._seen = None
        self._save()


def adopt_lost(record: CampaignRecord, directory: Path) -> None:
    """Take over what a campaign that was lost with its night has written of itself, so that it can be resumed."""
    if record.state is Ran.RUNNING:
        try:
            result = json.loads((directory / record.directories[-1] / REPORT).read_text())
            if isinstance(result, dict):
                record.results.append(result)
        except (OSError, ValueError, IndexError):
            pass  # it had not written anything yet
        record.state = Ran.INTERRUPTED


def findings_of(record: CampaignRecord, known: set[tuple[str, str]], directory: Path) -> list[FindingRecord]:
    """What a campaign found, over all times that it ran. `known`: builds and signatures known before this night."""
    found: dict[str, FindingRecord] = {}
    for result in record.results:
        for entry in result.get("findings", []):
            signature = str(entry["signature"])
            path = Path(entry["path"])
            one = found.setdefault(
                signature,
                FindingRecord(
                    signature=signature,
                    build=record.build,
                    target=record.target,
                    kind=str(entry.get("kind", "")),
                    invariant=entry.get("invariant"),
                    message=str(entry.get("message", "")),
                    path=os.path.relpath(path.absolute(), directory),
                    calls=int(entry.get("calls", 0)),
                    new=(record.build, signature) not in known,
                ),
            )
            one.count += int(entry.get("count", 0))
    return list(found.values())
