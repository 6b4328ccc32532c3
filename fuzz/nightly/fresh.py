# SPDX-License-Identifier: BSD-2-Clause
"""What is new is made as small as it gets, run again, and becomes known."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from fuzz.nightly.plan import Minimise
from fuzz.nightly.record import FindingRecord
from fuzz.nightly.store import Store
from fuzz.nightly.words import first_line
from harness.build.artefacts import Artefacts
from harness.errors import BothworldsError
from harness.findings.bundle import read_bundle
from harness.findings.filing import calls_of
from harness.findings.improve import improve
from harness.findings.judge import HARNESS_DEFECT
from harness.findings.minimise import Budget, Limits
from harness.findings.reproduce import reproduce

LEAST_SECONDS = 3.0
"""With less time than this a finding is only run again once."""
OVERTIME = 10.0
"""Seconds by which a night may become longer, so that what it found is at least run again."""


def handle(record: FindingRecord, night: Path, artefacts: Artefacts, wanted: Minimise, seconds: float) -> str | None:
    """Make a new finding smaller in its place and run it again; returns what went wrong, if anything did.

    Takes about `seconds` at most; with too few of them it is only run again, once. A machine that is lost, or a
    directory that cannot be written, is no reason to lose the finding: it stays as it is.
    """
    from harness.execution.executor import Executor

    path = night / record.path
    started = time.monotonic()
    try:
        bundle = read_bundle(path)
        if bundle.finding.kind == HARNESS_DEFECT:
            return None
        record.calls_before = record.calls
        enough = seconds >= LEAST_SECONDS
        budget = min(wanted.seconds, seconds / 2) if enough else 0.0
        if budget:
            with (
                tempfile.TemporaryDirectory(prefix=".minimise-", dir=path.parent) as work,
                Executor(artefacts, coverage=False) as executor,
            ):
                improve(bundle, executor, Path(work), Budget(Limits(seconds=budget)))
            bundle = read_bundle(path)
        record.calls = calls_of(bundle.program)
        enough = enough and time.monotonic() - started < seconds
        times, cold = (wanted.times, wanted.cold) if enough else (min(1, wanted.times), 0)
        if times or cold:
            again = reproduce(bundle, artefacts, times=times, cold=cold)
            record.reproduced, record.reproduced_cold = str(again.snapshot), str(again.cold) if cold else ""
        record.handled = bool(budget)
    except (BothworldsError, OSError) as problem:
        return f"{record.signature}: could not be made smaller or run again: {first_line(problem)}"
    return None


def make_known(record: FindingRecord, night: Path, store: Store) -> str | None:
    """Keep a finding for the nights to come; returns what went wrong, if anything did."""
    try:
        store.keep(record.build, read_bundle(night / record.path))
    except (BothworldsError, OSError) as problem:
        return f"{record.signature}: could not be kept for the next night: {first_line(problem)}"
    return None
