# SPDX-License-Identifier: BSD-2-Clause
"""A night from its beginning to its end, whatever happens in between.

After each step `nightly.json` says what has been done. A night that is interrupted still writes its
reports, and goes on with `--resume`; one that is lost (the host went down) is closed by the next.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fuzz.nightly import campaigns, fresh, report, verdict
from fuzz.nightly.budget import Time, next_share
from fuzz.nightly.checks import Checks, build_name, build_record, kept_findings, worker_count
from fuzz.nightly.plan import Plan
from fuzz.nightly.record import Night, NightState, Ran, Retried
from fuzz.nightly.store import CAMPAIGNS, Store, bundles_below
from fuzz.nightly.words import first_line
from harness.build.artefacts import Artefacts, OwnCode
from harness.commands.output import say, warn, working
from harness.configs import load_config
from harness.errors import BothworldsError, InputError, OutputError
from harness.findings.bundle import Bundle

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SEED_STEP = 1009
"""Between the seeds of two campaigns of a night: each worker adds its number to its campaign's."""


def run_night(plan: Plan, *, resume: bool = False) -> int:
    """Run a night; returns the exit code. Raises InputError for a plan that cannot be carried out."""
    store = Store(plan.nights)
    with store.locked():
        unfinished = store.unfinished()
        if resume and unfinished is None:
            raise InputError(f"{plan.nights}: no night there was interrupted; leave out --resume to begin one")
        # Whether the plan can be carried out at all is asked before anything is written.
        kept = kept_findings(plan)
        artefacts = _build(plan)
        if unfinished is not None and resume:
            directory, night = unfinished
            _take_up(night, directory, artefacts)
        else:
            if unfinished is not None:
                _close(plan, store, *unfinished)
            directory = store.new_night()
            night = _new(plan, directory, artefacts)
        return _Run(plan, store, night, directory, artefacts, kept).go()


def _build(plan: Plan) -> dict[str, Artefacts]:
    """The systems of the plan by name; raises PatchError for a patch that does not apply."""
    from harness.build.own_code import source_patch
    from harness.build.system import build

    own = OwnCode(
        source_patch=None if plan.kernel_source is None else source_patch(plan.kernel_source), firmware=plan.firmware
    )
    built = {}
    for name in plan.configs:
        config = load_config(name)
        for release, share in ((False, plan.kernels.debug), (True, plan.kernels.release)):
            if share:
                with working(f"building {config.name}"):
                    artefacts = build(config, release=release, extra_patches=plan.extra_patches, own=own)
                built[build_name(config.name, release=release)] = artefacts
    return built


def _new(plan: Plan, directory: Path, artefacts: dict[str, Artefacts]) -> Night:
    """The record of a night that begins."""
    number = Store.number(directory)
    shares = {True: plan.kernels.release, False: plan.kernels.debug}
    builds = {name: build_record(one, shares[one.release]) for name, one in artefacts.items()}
    return Night(
        night=directory.name,
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        seed=plan.seed or number * SEED_STEP * SEED_STEP % (1 << 31) + 1,
        plan=plan.model_dump(mode="json"),
        builds=builds,
        campaigns=campaigns.planned(builds, plan.targets),
    )


def _take_up(night: Night, directory: Path, artefacts: dict[str, Artefacts]) -> None:
    """Prepare a night for going on; raises InputError if the systems under test have changed since."""
    for name, build in night.builds.items():
        if name not in artefacts or artefacts[name].hashes != build.hashes:
            raise InputError(
                f"{directory}: was begun with another build of {name}, or the plan has changed; "
                "begin a new night (leave out --resume)"
            )
    for record in night.campaigns:
        campaigns.adopt_lost(record, directory)
    night.state, night.ended, night.exit_code = NightState.RUNNING, None, None
    # What was not judged for lack of time or of a machine is tried again.
    night.retried = [one for one in night.retried if one.state is not Retried.NOT_JUDGED]


def _close(plan: Plan, store: Store, directory: Path, night: Night) -> None:
    """Give a night that was lost the reports that it could not write; its findings become known."""
    if night.state is not NightState.RUNNING:
        return
    warn(f"{directory.name} was lost before its end; what it found is kept, and --resume will not take it up any more")
    for record in night.campaigns:
        campaigns.adopt_lost(record, directory)
    night.state = NightState.INTERRUPTED
    night.troubles.append("the night was lost before its end: its process was killed, or the host went down")
    builds = {name: record.build for record in night.campaigns for name in record.directories}
    for bundle in bundles_below(directory / CAMPAIGNS):
        build = builds.get(f"{CAMPAIGNS}/{bundle.path.parent.name}")
        if build is not None:
            _keep(store, build, bundle, night)
    try:
        report.collect_findings(night, directory)
        report.collect_coverage(night, directory)
        night.exit_code = verdict.exit_code(night, plan.fail_on)
        report.write_reports(night, plan, store, directory)
    except BothworldsError as problem:
        warn(f"{directory.name}: its reports cannot be written: {first_line(problem)}")


def _keep(store: Store, build: str, bundle: Bundle, night: Night) -> None:
    try:
        store.keep(build, bundle)
    except OSError as problem:
        night.troubles.append(f"{bundle.path}: could not be kept for the next night: {first_line(problem)}")


class _Run:
    """The steps of a night."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        night: Night,
        directory: Path,
        artefacts: dict[str, Artefacts],
        kept: list[Bundle],
    ) -> None:
        self.plan, self.store, self.night, self.directory = plan, store, night, directory
        self.artefacts, self.kept = artefacts, kept
        self.time = Time(plan.seconds, night.seconds)
        self.code: int | None = None

    def go(self) -> int:
        """All steps, then the reports. An error that nobody foresaw is raised after they are written."""
        report.write_record(self.night, self.directory)
        say(f"night {self.night.night}, {self.plan.seconds:.0f} s, seed {self.night.seed}, in {self.directory}")
        unforeseen: BaseException | None = None
        try:
            for step in (self._checks, self._campaigns, self._fresh):
                step()
        except (KeyboardInterrupt, SystemExit) as end:
            self.night.state = NightState.INTERRUPTED
            self.code = end.code if isinstance(end, SystemExit) and isinstance(end.code, int) else None
        except Exception as problem:
            self.night.troubles.append(f"the night ended early, and can go on with --resume: {first_line(problem)}")
            self.night.state = NightState.INTERRUPTED
            unforeseen = problem
        with _undisturbed():
            self._finish()
        if unforeseen is not None:
            raise unforeseen
        assert self.night.exit_code is not None
        return self.code or self.night.exit_code

    def _save(self) -> None:
        """Write the record. Where that is not possible the night goes on: it may be possible again at its end."""
        self.night.seconds = round(self.time.used, 1)
        try:
            report.write_record(self.night, self.directory)
        except OutputError as problem:
            if str(problem) not in self.night.troubles:
                self.night.troubles.append(str(problem))
                warn(str(problem))

    def _checks(self) -> None:
        last = self.store.last_complete(self.directory)
        checks = Checks(
            self.plan, self.night, self.directory, self.store, self.artefacts, self.kept, last, self.time, self._save
        )
        checks.run()

    def _campaigns(self) -> None:
        runner = campaigns.Runner(self.night, self.directory, self.store, self.artefacts, self._save)
        around, at_most = campaigns.SECONDS_AROUND
        while left := campaigns.shares(self.night.campaigns, self.night.builds, self.plan.targets):
            index = min(left)
            record = self.night.campaigns[index]
            seconds = next_share(self.time.left_for_campaigns - around * len(left), left, index)
            if seconds < campaigns.MINIMUM_SECONDS:
                record.state, record.message = Ran.NOT_RUN, "no time was left for it"
                self._save()
                say(f"{record.target} on {record.build}: {record.message}", "yellow")
                for one in left:
                    if one != index:
                        self.night.campaigns[one].message = record.message
                return
            say(f"{record.target} on {record.build}: {seconds:.0f} s")
            started = time.monotonic()
            runner.run(
                record,
                seconds,
                runs=self.plan.runs,
                workers=worker_count(self.plan),
                # Not the same random numbers again when it is taken up after an interruption.
                seed=self.night.seed + SEED_STEP * (index + len(self.night.campaigns) * len(record.directories)),
                check_every=self.plan.check_every,
            )
            record.message = "" if record.state is Ran.DONE else record.message
            around = min(at_most, max(around, time.monotonic() - started - seconds))

    def _fresh(self) -> None:
        """Make what is new smaller and run it again."""
        report.collect_findings(self.night, self.directory)
        new = [one for one in self.night.findings if one.new and not one.handled]
        for position, finding in enumerate(new):
            seconds = self.time.left / (len(new) - position)
            if self.time.used > self.plan.seconds + fresh.OVERTIME:
                self.night.troubles.append(f"{finding.signature}: no time was left to make it smaller and run it again")
                continue
            say(f"new: {finding.signature}: making it smaller, and running it again")
            problem = fresh.handle(
                finding, self.directory, self.artefacts[finding.build], self.plan.minimise, seconds
            )  # fmt: skip
            if problem:
                self.night.troubles.append(problem)
            self._save()

    def _finish(self) -> None:
        """Everything that is left once no machine is needed any more."""
        night, plan = self.night, self.plan
        report.collect_findings(night, self.directory)
        for finding in night.findings:
            if problem := fresh.make_known(finding, self.directory, self.store):
                night.troubles.append(problem)
        night.ended = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        night.seconds = round(self.time.used, 1)
        with _as_trouble(night):
            report.collect_coverage(night, self.directory)
        if night.state is NightState.RUNNING:
            night.state = verdict.state_of(night)
        # What is new is known only once it was compared; the exit code belongs into the reports.
        with _as_trouble(night):
            report.write_reports(night, plan, self.store, self.directory)
        night.exit_code = verdict.exit_code(night, plan.fail_on)
        with _as_trouble(night):
            report.write_reports(night, plan, self.store, self.directory)
            self.store.point_latest_to(self.directory)
        self._tidy()
        report.tell(night, self.directory, plan.fail_on)

    def _tidy(self) -> None:
        """Remove what is older than the plan wants."""
        if self.night.state is not NightState.COMPLETE:
            return
        retention = self.plan.retention
        self.store.tidy(retention.nights)
        for one in self.night.retried:
            if one.origin == "known" and one.nights_fixed > retention.fixed_findings:
                shutil.rmtree(self.directory / one.path, ignore_errors=True)


@contextmanager
def _as_trouble(night: Night) -> Iterator[None]:
    """A report that cannot be written (the disk is full) does not take the others with it."""
    try:
        yield
    except (BothworldsError, OSError) as problem:
        night.troubles.append(first_line(problem))
        night.state = NightState.INCOMPLETE if night.state is NightState.COMPLETE else night.state
        warn(first_line(problem))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals wait until the reports are written, which takes a few seconds."""
    waiting: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        waiting.append(number)

    before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {
        number: signal.signal(number, remember) for number in SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
