# SPDX-License-Identifier: BSD-2-Clause
"""The reports of a night, made from its record: comparison, JUnit XML, lcov data, the page, words on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fuzz.nightly.campaigns import findings_of
from fuzz.nightly.compare import compare
from fuzz.nightly.coverage import covered, merge_lcov
from fuzz.nightly.html import duration, percent, summary_html
from fuzz.nightly.junit import junit_xml
from fuzz.nightly.plan import FailOn, Plan
from fuzz.nightly.record import Difference, Night, Retried
from fuzz.nightly.store import JUNIT_FILE, LCOV_FILE, RECORD_FILE, SUMMARY_FILE, Store
from fuzz.nightly.verdict import failures, headline
from fuzz.nightly.words import first_line, shortened
from harness.commands.output import command_line, say
from harness.errors import BothworldsError
from harness.files import write_whole

LISTED = 10
"""Findings of each kind that are listed on the terminal; the page has all."""


def collect_findings(night: Night, directory: Path) -> None:
    """Take what campaigns found into the night's record; what is there already stays as it is."""
    known = {(one.build, one.signature) for one in night.retried if one.state is not Retried.FIXED}
    have = {(one.build, one.target, one.signature) for one in night.findings}
    for campaign in night.campaigns:
        for finding in findings_of(campaign, known, directory):
            if (finding.build, finding.target, finding.signature) not in have:
                night.findings.append(finding)


def collect_coverage(night: Night, directory: Path) -> None:
    """Coverage by function into the record, by source line into a file."""
    parts = []
    for build in night.builds:
        try:
            part = covered(night, directory, build)
        except BothworldsError as problem:
            night.troubles.append(f"coverage on {build} is not known: {first_line(problem)}")
            continue
        if part is not None:
            night.functions[build] = part.functions
            parts.append((part.lcov, part.root))
    if parts:
        write_whole(directory / LCOV_FILE, merge_lcov(parts, night.night))


def write_record(night: Night, directory: Path) -> None:
    """Write `nightly.json`; raises OutputError."""
    write_whole(directory / RECORD_FILE, night.model_dump_json(indent=1) + "\n")


def write_reports(night: Night, plan: Plan, store: Store, directory: Path) -> None:
    """Compare with the last complete night, and write everything that is read; raises OutputError."""
    night.comparison = compare(night, store.last_complete(directory), slower_below=plan.slower_below)
    write_whole(directory / JUNIT_FILE, junit_xml(night, plan.fail_on))
    write_whole(directory / SUMMARY_FILE, summary_html(night, plan.fail_on))
    write_record(night, directory)


def tell(night: Night, directory: Path, fail_on: Sequence[FailOn]) -> None:
    """Say what a night comes to."""
    compared = night.comparison
    say()
    bad = night.is_blind or bool(failures(night)) or bool(night.exit_code)
    say(headline(night, fail_on), "bold red" if bad else "bold green")
    beside = f"compared with {compared.with_night}" if compared.with_night else "nothing to compare with"
    say(f"  night {night.night}, {duration(night.seconds)}, {beside}")
    for name, rows in (("new", compared.new), ("fixed", compared.fixed), ("still there", compared.still_there),
                       ("not judged", compared.not_judged)):  # fmt: skip
        say(f"  {name}: {len(rows)}")
        for row in rows[:LISTED]:
            _tell_finding(row, directory, with_command=name == "new")
        if len(rows) > LISTED:
            say(f"    and {len(rows) - LISTED} more")
    for total in compared.coverage:
        change = f", {total.after[0] - total.before[0]:+d}" if total.before else ""
        words = f"{total.after[0]} of {total.after[1]} blocks ({percent(total.after)}){change}"
        say(f"  {total.component} on {total.build}: {words}")
    for build, labels in compared.labels_lost.items():
        say(f"  no longer succeed on {build}: {', '.join(labels)}", "red")
    for problem in [*failures(night), *(shortened(text) for text in night.troubles[-LISTED:])]:
        say(f"  {problem}", "yellow")
    say(f"  {directory / SUMMARY_FILE}")


def _tell_finding(row: Difference, directory: Path, *, with_command: bool) -> None:
    note = f" ({row.note})" if row.note else ""
    say(f"    {row.signature} [{', '.join(row.kernels)}]{note}: {row.message}")
    if with_command and row.path:
        say(f"      {command_line('repro', directory / row.path)}")
