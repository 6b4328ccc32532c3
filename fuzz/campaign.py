# SPDX-License-Identifier: BSD-2-Clause
"""A campaign: starts workers, keeps them going, collects what they find.

The campaign's own process runs no machine. It alone writes the corpus and the report; a worker that is lost is
replaced, and what it had told or filed is kept. Durations and deadlines are by the monotonic clock: the time of day may
jump.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait

from fuzz import crew
from fuzz.crew import Member
from fuzz.directory import LOGS, OutputDirectory, prepare_directory
from fuzz.messages import (
    Added,
    Doing,
    Found,
    Phase,
    Progress,
    Ready,
    Refile,
    Repeated,
    Stop,
    Trouble,
    WorkerSettings,
)
from fuzz.pending import PENDING
from fuzz.state import Campaign, CampaignSettings, FindingSummary, Moment, State
from fuzz.statistics import merge
from fuzz.stopping import Stopping
from harness.build.blocks import static_blocks
from harness.errors import BothworldsError, EnvironmentFailure, InputError
from harness.findings.signature import Signature
from harness.programs.interfaces import Interface
from harness.programs.program import Program

__all__ = ["Campaign", "CampaignSettings", "FindingSummary", "Watch", "prepare_directory", "run_campaign"]

STOP_SECONDS = 60.0
"""How long a worker may take to finish what it is doing (it may be reducing a finding)."""
POLL_SECONDS = 0.5
MOMENT_SECONDS = 1.0

Watch = Callable[[Campaign], None]
"""Called about twice a second and on each event, to show progress."""
Until = Callable[[Campaign, FindingSummary], bool]
"""Asked for each finding whether the campaign shall end with it."""


def usable_cores() -> list[int]:
    """Host cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def run_campaign(
    settings: CampaignSettings,
    watch: Watch | None = None,
    until: Until | None = None,
    stopping: Stopping | None = None,
) -> Campaign:
    """Run a campaign to its end: time, number of executions, a signal, or `until` says so of a finding.

    Whoever has entered a `stopping` already goes on holding it; else signals are taken while this runs. Raises
    InputError or EnvironmentFailure if no worker can run; `watch` and the report in the directory have then seen all
    that there was.
    """
    cores = usable_cores()
    if not 1 <= settings.workers <= 4 * len(cores):
        raise InputError(f"--workers {settings.workers}: between 1 and {4 * len(cores)} make sense on this machine")
    if stopping is None:
        with Stopping() as own:
            return run_campaign(settings, watch, until, own)
    campaign = Campaign(settings, started=datetime.now(UTC).isoformat(timespec="seconds"))
    interface = Interface.load(settings.artefacts)
    campaign.interface = interface.identity
    keep = settings.keep_corpus
    with OutputDirectory(settings.directory, interface, campaign.notes, keep_corpus=keep) as directory:
        campaign.programs = campaign.programs_loaded = directory.loaded
        if settings.coverage:
            campaign.blocks = static_blocks(settings.artefacts)
        conductor = _Conductor(campaign, directory, interface, watch, until, stopping)
        try:
            conductor.conduct(cores)
        except BaseException as error:
            campaign.state = State.FAILED if isinstance(error, BothworldsError) else State.INTERRUPTED
            campaign.reason = campaign.reason or str(error)
            raise
        finally:
            conductor.end()
    return campaign


class _Conductor:
    """What happens while a campaign runs."""

    def __init__(
        self,
        campaign: Campaign,
        directory: OutputDirectory,
        interface: Interface,
        watch: Watch | None,
        until: Until | None,
        stopping: Stopping,
    ) -> None:
        self._campaign = campaign
        self._settings = campaign.settings
        self._directory = directory
        self._interface = interface
        self._watch = watch
        self._until = until
        self._stopping = stopping
        self._members = campaign.members
        self._seconds_before: dict[int, float] = {}
        self._started = time.monotonic()
        self._deadline = self._started + self._settings.seconds if self._settings.seconds else 0.0
        self._latest = self._deadline + STOP_SECONDS if self._deadline else 0.0
        """When workers that have not finished are ended; 0: never."""
        self._ends = False
        """Whether workers were asked to stop."""
        self._signals = 0

    def conduct(self, cores: list[int]) -> None:
        """Start the workers and see the campaign to its end; raises if none can go on."""
        for number in range(self._settings.workers):
            self._members.append(Member(self._worker_settings(number, cores)))
        while self._going_on():
            pipes = [member.pipe for member in self._members if member.pipe is not None]
            for ready in wait([*pipes, self._stopping.fileno()], timeout=POLL_SECONDS):
                if ready == self._stopping.fileno():
                    self._stopping.seen()
                elif member := next((one for one in self._members if one.pipe is ready), None):
                    self._receive(member)
            self._obey_signals()
            self._care_for_members()
            self._keep_books()
            if self._latest and time.monotonic() > self._latest:
                late = [member for member in self._members if member.running]
                if late and self._signals < 2:
                    self._campaign.notes.add(f"{len(late)} workers did not finish in time and were ended", _doing(late))
                return
        if self._campaign.state is State.RUNNING:
            self._campaign.state = State.FINISHED

    def _worker_settings(self, number: int, cores: list[int]) -> WorkerSettings:
        settings, path = self._settings, self._directory.path
        share, rest = divmod(settings.runs, settings.workers)
        return WorkerSettings(
            number=number,
            artefacts=settings.artefacts,
            target=settings.target,
            core=cores[number % len(cores)],
            seed=settings.seed + number,
            corpus=self._directory.corpus if settings.keep_corpus else None,
            findings=path,
            log=path / LOGS / f"worker-{number}.log",
            elsewhere=self._directory.elsewhere,
            pending=path / PENDING,
            workers=settings.workers,
            deadline=self._deadline,
            runs=share + (number < rest) if settings.runs else 0,
            check_every=settings.check_every,
            strict=settings.strict,
            coverage=settings.coverage,
            mutators=settings.mutators,
            maximum_calls=settings.maximum_calls,
            mix=settings.mix,
        )

    # -- what ends it

    def _going_on(self) -> bool:
        return any(not member.over and (member.running or not self._over()) for member in self._members)

    def _over(self) -> bool:
        """Whether lost workers are not started again any more."""
        return self._ends or bool(self._deadline and time.monotonic() > self._deadline)

    def _stop(self) -> None:
        """Ask all workers to finish."""
        if self._ends:
            return
        self._ends, self._latest = True, time.monotonic() + STOP_SECONDS
        for member in self._members:
            member.tell(Stop())

    def _obey_signals(self) -> None:
        if self._stopping.count == self._signals:
            return
        self._signals = self._stopping.count
        campaign = self._campaign
        campaign.state, campaign.signal = State.INTERRUPTED, self._stopping.number
        campaign.reason = f"it was ended by {signal.Signals(campaign.signal).name}"
        self._stop()
        if self._signals > 1:
            self._latest = time.monotonic()

    # -- workers

    def _receive(self, member: Member) -> None:
        """Take one message of a worker."""
        campaign, number = self._campaign, member.number
        assert isinstance(member.pipe, Connection)
        try:
            message = member.pipe.recv()
        except (EOFError, OSError):
            self._lost(member)
            return
        except Exception as error:  # half a message of a worker that was killed while it wrote
            campaign.notes.add(f"a message of worker {number} could not be read", f"{type(error).__name__}: {error}")
            member.kill()
            self._lost(member)
            return
        member.heard()
        if isinstance(message, Ready):
            campaign.labels, campaign.errors = message.labels, message.errors
            campaign.boot_seconds.append(message.boot_seconds)
            member.phase = Phase.LOADING if message.programs else Phase.FUZZING
        elif isinstance(message, Doing):
            member.phase, member.detail = message.phase, message.detail
        elif isinstance(message, Progress):
            self._count(member, message)
        elif isinstance(message, Added):
            self._add(member, message.program)
        elif isinstance(message, Repeated):
            for signature, count in message.counts.items():
                if signature in campaign.findings:
                    campaign.findings[signature].count += count
        elif isinstance(message, Trouble):
            campaign.notes.add(f"worker {number}: {message.message}", message.detail)
            if message.fatal:
                member.fatal = message
        elif isinstance(message, Found):
            self._found(member, message)

    def _count(self, member: Member, message: Progress) -> None:
        campaign, number = self._campaign, member.number
        campaign.parts[number] = message.totals
        campaign.worker_seconds[number] = self._seconds_before.get(number, 0.0) + message.seconds
        member.executions = message.totals.executions
        if not message.last:
            member.listens()

    def _add(self, member: Member, program: bytes) -> None:
        """A worker has found a new input: it belongs to all of them."""
        if not self._directory.add(program):
            return
        campaign = self._campaign
        campaign.programs, campaign.programs_added = self._directory.programs, campaign.programs_added + 1
        campaign.last_new = time.monotonic() - self._started
        for other in self._members:
            if other is not member and other.running:
                other.offer([program])

    def _found(self, member: Member, message: Found) -> None:
        campaign = self._campaign
        summary = campaign.findings.get(message.signature)
        if summary is None:
            part = campaign.parts.get(member.number)
            counted = part.executions if part is not None else 0
            summary = FindingSummary(
                message.signature,
                message.kind,
                message.invariant,
                message.message,
                message.path or self._settings.directory / Signature.parse(message.signature).directory_name,
                message.calls,
                0,
                time.monotonic() - self._started,
                campaign.totals.executions + message.executions - counted,
                message.program,
                Program.from_bytes(message.program, self._interface).to_yaml(),
            )
            campaign.findings[message.signature] = summary
        if message.path is not None:
            summary.path = message.path
            if not message.path.is_relative_to(self._settings.directory):
                campaign.notes.add("findings were filed elsewhere, their own directory could not be written",
                                   str(message.path.parent))  # fmt: skip
        elif not summary.path.exists():
            campaign.notes.add("a finding could be written nowhere; it is kept in memory and tried again",
                               message.signature)  # fmt: skip
        summary.count += not message.again
        if self._until is not None and self._until(campaign, summary):
            self._stop()

    def _lost(self, member: Member) -> None:
        """A worker's pipe has ended."""
        campaign, number = self._campaign, member.number
        runs = member.settings.runs
        left = max(1, runs - member.executions) if runs else 0
        reason = member.left(ever_ready=bool(campaign.labels), runs_left=left)
        if reason is None:
            return
        part = campaign.parts.pop(number, None)
        if part is not None:
            campaign.earlier = merge([campaign.earlier, part])
        self._seconds_before[number] = campaign.worker_seconds.get(number, 0.0)
        short = reason.partition("\n")[0].rstrip(": ")
        if not member.given_up:
            again = "" if self._over() else ", and is started again"
            campaign.notes.add(f"worker {number} was lost{again}", f"{short}; its log is {member.settings.log}")
            return
        message = f"worker {number} cannot go on: {reason}\n  its log is {member.settings.log}"
        campaign.notes.add(f"worker {number} was given up", short)
        if all(other.over and not other.ended for other in self._members):
            bad_input = member.fatal is not None and member.fatal.exit_code == InputError.exit_code
            raise (InputError if bad_input else EnvironmentFailure)(message)

    def _care_for_members(self) -> None:
        """Start lost workers again, end those that hang."""
        now = time.monotonic()
        for member in self._members:
            if member.resume_at and not member.running and not self._over() and now >= member.resume_at:
                member.resume()
            elif member.silent():
                self._campaign.notes.add(
                    f"worker {member.number} said nothing for {crew.SILENT_SECONDS:.0f} s and was ended",
                    f"it was {member.phase}",
                )
                member.kill()

    # -- books

    def _keep_books(self) -> None:
        campaign, now = self._campaign, time.monotonic()
        campaign.seconds = now - self._started
        if not campaign.moments or now - campaign.moments[-1].time >= MOMENT_SECONDS:
            totals = campaign.totals
            blocks = int((totals.hit != 0).sum()) if len(totals.hit) else 0
            campaign.moments.append(Moment(now, totals.executions, blocks, campaign.programs))
        gone = self._directory.tick(campaign.to_json() if self._directory.report_is_due() else None)
        if gone:
            self._file_again()
        self._show()

    def _file_again(self) -> None:
        """Findings whose directories are gone are to be filed again, by the first worker that listens."""
        member = next((one for one in self._members if one.running), None)
        for finding in self._campaign.findings.values():
            if member is not None and not finding.path.exists():
                member.tell(Refile(finding.signature, finding.program))

    def _show(self) -> None:
        """Show progress. A terminal that is gone ends nothing but the showing; a pipe that nobody reads ends it all."""
        if self._watch is None:
            return
        try:
            self._watch(self._campaign)
        except BrokenPipeError:
            self._watch = None
            self._campaign.state, self._campaign.reason = State.INTERRUPTED, "nobody reads its output any more"
            self._stop()
        except OSError as error:
            self._watch = None
            self._campaign.notes.add("progress cannot be shown any more", error.strerror or str(error))

    def end(self) -> None:
        """End all processes and write what is left."""
        campaign = self._campaign
        for member in self._members:
            member.close(0.0 if self._signals > 1 else 1.0)
        campaign.seconds = time.monotonic() - self._started
        for finding in campaign.findings.values():
            if not finding.path.exists():
                campaign.notes.add("findings have no directory; their programs are in the report", finding.signature)
        self._directory.finish(campaign.to_json())
        self._show()


def _doing(members: list[Member]) -> str:
    return ", ".join(f"worker {member.number}: {member.phase} {member.detail}".rstrip() for member in members)
