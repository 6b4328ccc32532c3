# SPDX-License-Identifier: BSD-2-Clause
"""What comes before the campaigns: findings are tried again, and planted bugs must be caught."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from fuzz.nightly import planted
from fuzz.nightly.budget import Time
from fuzz.nightly.plan import Plan
from fuzz.nightly.record import BuildRecord, Caught, Night, PlantedRecord, Retried, RetryRecord
from fuzz.nightly.retry import Bench, bench, retry
from fuzz.nightly.store import Store
from fuzz.nightly.words import first_line
from harness.build import system
from harness.build.artefacts import Artefacts
from harness.build.planted import PlantedBug
from harness.commands.output import say
from harness.configs import load_config
from harness.errors import BothworldsError, EnvironmentFailure, InputError, OutputError
from harness.findings.bundle import FINDING_FILE, PROGRAM_YAML, Bundle, read_bundle

LEAST_PROGRAMS = 3
"""Planted programs that are run even when the time for checks is over."""
Origin = Literal["kept", "known"]


class Checks:
    """Runs the checks of a night and writes their results into its record. Those that are there are not made again."""

    def __init__(
        self,
        plan: Plan,
        night: Night,
        directory: Path,
        store: Store,
        artefacts: dict[str, Artefacts],
        kept: list[Bundle],
        last: Night | None,
        clock: Time,
        save: Callable[[], None],
    ) -> None:
        self._plan, self._night, self._directory, self._store = plan, night, directory, store
        self._artefacts, self._kept, self._last = artefacts, kept, last
        self._time, self._save = clock, save

    def run(self) -> None:
        """All checks, as far as there is time."""
        findings = [
            *((build_of_finding(one), "kept", one, os.path.relpath(one.path, self._directory)) for one in self._kept),
            *self._known(),
        ]
        for build, artefacts in self._artefacts.items():
            mine = [(origin, bundle, path) for name, origin, bundle, path in findings if name == build]
            self._retry_on(build, artefacts, mine)
        for build, origin, bundle, path in findings:
            if build not in self._artefacts:
                self._add(_not_judged(build, origin, bundle, path))
        self._planted()

    def _known(self) -> list[tuple[str, Origin, Bundle, str]]:
        """Findings of earlier nights; a damaged one is said and left out."""
        found: list[tuple[str, Origin, Bundle, str]] = []
        for build, path in self._store.known():
            try:
                found.append((build, "known", read_bundle(path), os.path.relpath(path, self._directory)))
            except InputError as problem:
                self._night.troubles.append(f"a known finding is damaged and was not tried: {first_line(problem)}")
        return found

    def _retry_on(self, build: str, artefacts: Artefacts, findings: list[tuple[Origin, Bundle, str]]) -> None:
        """Try findings again on one machine; even without any the machine is booted, to see that it does."""
        done = {record.key for record in self._night.retried}
        left = [(origin, bundle, path) for origin, bundle, path in findings if (build, origin, path) not in done]
        try:
            with bench(artefacts, self._directory) as machine:
                self._night.builds[build].versions = machine.versions
                for origin, bundle, path in left:
                    if not self._time.within(self._plan.checks_share):
                        self._add(_not_judged(build, origin, bundle, path))
                        continue
                    record = retry(bundle, build, machine, origin, path)
                    self._since(record)
                    if origin == "kept" and self._plan.findings.with_their_patches and bundle.patches:
                        self._control(record, bundle)
                    self._add(record)
                    say(f"{origin} finding {record.name} on {build}: {record.state}{_control_words(record)}")
        except EnvironmentFailure as problem:
            if isinstance(problem, OutputError):
                raise
            self._night.troubles.append(f"{build}: {problem}")
            for origin, bundle, path in left:
                if (build, origin, path) not in {record.key for record in self._night.retried}:
                    record = _not_judged(build, origin, bundle, path)
                    record.message = f"the machine failed: {first_line(problem)}"
                    self._add(record)

    def _control(self, record: RetryRecord, bundle: Bundle) -> None:
        """A kept finding must show with the patches that it carries, on tonight's version of its config."""
        config = self._artefacts[record.build].config
        try:
            artefacts = system.build(
                config, release=bundle.finding.release, extra_patches=bundle.patches, own=bundle.own
            )
            with bench(artefacts, self._directory) as machine:
                record.control = self._shows(machine, bundle)
        except OutputError:
            raise
        except BothworldsError as problem:
            record.control_message = f"could not be tried with the patches that it carries: {first_line(problem)}"

    @staticmethod
    def _shows(machine: Bench, bundle: Bundle) -> bool:
        shown = machine.shown(machine.load(bundle.path / PROGRAM_YAML), bundle.finding.signature)
        return bundle.finding.signature in shown

    def _since(self, record: RetryRecord) -> None:
        """For how many nights a finding has been fixed."""
        if record.state is Retried.FIXED:
            same = (r for r in (self._last.retried if self._last else []) if r.build == record.build)
            before = next((r.nights_fixed for r in same if r.signature == record.signature), 0)
            record.nights_fixed = before + 1

    def _add(self, record: RetryRecord) -> None:
        if record.key not in {one.key for one in self._night.retried}:
            self._night.retried.append(record)
            self._save()

    def _planted(self) -> None:
        """Stored programs of planted bugs, then their campaigns if the plan has any."""
        wanted = self._plan.planted
        bugs = planted.chosen(self._plan)
        earlier = self._store.before(self._directory)
        self._keep_of(planted.in_turn(bugs, earlier, "program"), "program", self._program)
        if wanted.campaigns:
            some = planted.in_turn(bugs, earlier, "campaign")[: wanted.campaigns]
            self._keep_of(some, "campaign", self._campaign)

    def _keep_of(
        self,
        bugs: list[PlantedBug],
        how: Literal["program", "campaign"],
        run: Callable[[PlantedBug], PlantedRecord],
    ) -> None:
        done = {one.name for one in self._night.planted if one.how == how and one.state is not Caught.POSTPONED}
        self._night.planted = [one for one in self._night.planted if one.how != how or one.name in done]
        for bug in bugs:
            if bug.name in done:
                continue
            # A few are run in any case: without one nobody knows whether the harness sees.
            in_time = self._time.within(self._plan.checks_share) or (how == "program" and self._tried < LEAST_PROGRAMS)
            record = run(bug) if in_time else planted.postponed(bug, how)
            self._night.planted.append(record)
            self._save()
            loud = record.state is Caught.MISSED and how == "program"
            text = f"planted bug {bug.name}, {how}: {record.state}{': ' + record.message if record.message else ''}"
            say(f"THE HARNESS IS BLIND: {text}" if loud else text, "bold red" if loud else "")

    @property
    def _tried(self) -> int:
        """Planted programs that said something."""
        return sum(one.how == "program" and one.state in (Caught.CAUGHT, Caught.MISSED) for one in self._night.planted)

    def _program(self, bug: PlantedBug) -> PlantedRecord:
        config = load_config(self._plan.configs[0])
        return planted.replay_program(bug, config, release=self._release, directory=self._directory)

    def _campaign(self, bug: PlantedBug) -> PlantedRecord:
        return planted.run_campaign_against(
            bug,
            load_config(self._plan.configs[0]),
            self._directory / "planted",
            release=self._release,
            seconds=self._plan.planted.campaign_seconds,
            seed=self._night.seed,
            workers=worker_count(self._plan),
        )

    @property
    def _release(self) -> bool:
        """Whether planted bugs are tried on the release kernel: only if the night has no debug kernel."""
        return not self._plan.kernels.debug


def worker_count(plan: Plan) -> int:
    """Workers of each campaign."""
    from fuzz.campaign import usable_cores

    return plan.workers or len(usable_cores())


def build_name(config: str, *, release: bool) -> str:
    """What a build is called in records and directories."""
    return f"{config}-{'release' if release else 'debug'}"


def kept_findings(plan: Plan) -> list[Bundle]:
    """Kept findings of the plan; raises FindingError for one that cannot be read."""
    return [
        read_bundle(path)
        for directory in plan.findings.directories
        for path in sorted(directory.iterdir())
        if (path / FINDING_FILE).is_file()
    ]


def build_of_finding(bundle: Bundle) -> str:
    """The build that a finding was made on."""
    return build_name(bundle.config.name, release=bundle.finding.release)


def _not_judged(build: str, origin: Origin, bundle: Bundle, path: str) -> RetryRecord:
    return RetryRecord(
        name=bundle.finding.signature if origin == "known" else bundle.path.name,
        path=path,
        origin=origin,
        build=build,
        signature=bundle.finding.signature,
        state=Retried.NOT_JUDGED,
        finding_message=bundle.finding.message,
    )


def _control_words(record: RetryRecord) -> str:
    if record.control is None:
        return f", {record.control_message}" if record.control_message else ""
    return ", with its patches it shows" if record.control else ", but with its patches it does NOT show: BLIND"


def build_record(artefacts: Artefacts, share: float) -> BuildRecord:
    """The record of a build."""
    return BuildRecord(
        config=artefacts.config.name,
        release=artefacts.release,
        share=share,
        hashes=dict(artefacts.hashes),
        extra_patches=[path.name for path in artefacts.extra_patches],
    )
