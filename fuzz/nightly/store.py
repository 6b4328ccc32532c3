# SPDX-License-Identifier: BSD-2-Clause
"""The directory of the nights.

::

    .lock                       held while a night runs
    latest                      link to the newest night
    known/BUILD/FINDING/        every finding that a night made: tried again each night
    corpus/BUILD-TARGET/        programs that campaigns keep from night to night
    0007-2026-03-14/            a night: its number never goes back, whatever the clock says
        nightly.json            all that is known of it (`record.Night`), written again after each step
        summary.html, junit.xml, coverage.lcov
        campaigns/BUILD-TARGET/ output of each campaign, findings included
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from fuzz.nightly.record import Night, NightState
from harness.errors import FindingError, InputError, OutputError
from harness.files import replace_directory
from harness.findings.bundle import FINDING_FILE, Bundle, read_bundle

RECORD_FILE = "nightly.json"
SUMMARY_FILE = "summary.html"
JUNIT_FILE = "junit.xml"
LCOV_FILE = "coverage.lcov"
LATEST = "latest"
LOCK = ".lock"
KNOWN = "known"
CORPUS = "corpus"
CAMPAIGNS = "campaigns"
_NIGHT = re.compile(r"(\d{4,})-\d{4}-\d{2}-\d{2}")


class Store:
    """All nights of one directory. Nothing is written before `locked`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directory and hold it; raises InputError if another night runs there, OutputError if it cannot."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(
                f"{self.directory}: cannot be written: {error.strerror}; choose another with --out"
            ) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"{self.directory}: another night runs there; wait for its end, or choose another with --out"
                ) from error
            yield
        finally:
            os.close(handle)

    def nights(self) -> list[Path]:
        """Directories of all nights, the oldest first."""
        if not self.directory.is_dir():
            return []
        found = [(int(match[1]), path) for path in self.directory.iterdir() if (match := _NIGHT.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def new_night(self) -> Path:
        """Make the directory of a new night."""
        nights = self.nights()
        number = self.number(nights[-1]) + 1 if nights else 1
        path = self.directory / f"{number:04}-{time.strftime('%Y-%m-%d')}"
        try:
            (path / CAMPAIGNS).mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"{path}: cannot be made: {error.strerror}") from error
        return path

    @staticmethod
    def number(path: Path) -> int:
        """The number of a night."""
        match = _NIGHT.fullmatch(path.name)
        assert match is not None
        return int(match[1])

    def before(self, night: Path) -> list[Night]:
        """Records of all nights before that one that can be read, the oldest first."""
        paths = [path for path in self.nights() if self.number(path) < self.number(night)]
        return [record for path in paths if (record := read_record(path)) is not None]

    def last_complete(self, before: Path) -> Night | None:
        """The newest complete night before that one."""
        complete = (night for night in reversed(self.before(before)) if night.state is NightState.COMPLETE)
        return next(complete, None)

    def unfinished(self) -> tuple[Path, Night] | None:
        """The newest night and its record, if it was interrupted or lost."""
        nights = self.nights()
        night = read_record(nights[-1]) if nights else None
        if night is None or night.state not in (NightState.RUNNING, NightState.INTERRUPTED):
            return None
        return nights[-1], night

    def point_latest_to(self, night: Path) -> None:
        """Move the link `latest`, which is never absent once it was there."""
        temporary = self.directory / f".{LATEST}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        temporary.symlink_to(night.name)
        os.replace(temporary, self.directory / LATEST)

    def corpus(self, build: str, target: str) -> Path:
        """The corpus that campaigns of a target on a build keep."""
        return self.directory / CORPUS / f"{build}-{target}"

    def known(self) -> list[tuple[str, Path]]:
        """Known findings: build and directory, in a fixed order."""
        root = self.directory / KNOWN
        builds = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        return [
            (build.name, path)
            for build in builds
            for path in sorted(build.iterdir())
            if (path / FINDING_FILE).is_file()
        ]

    def keep(self, build: str, bundle: Bundle) -> Path:
        """Make a finding known. A known one with the same signature is replaced unless it is the shorter one."""
        final = self.directory / KNOWN / build / bundle.finding.identity.directory_name
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.is_dir():
            try:
                if len(read_bundle(final).program) < len(bundle.program):
                    return final
            except FindingError:
                pass  # damaged: the new one is better in any case
        work = Path(tempfile.mkdtemp(prefix=".incomplete-", dir=final.parent))
        shutil.copytree(bundle.path, work, dirs_exist_ok=True)
        replace_directory(final, work)
        return final

    def tidy(self, keep_nights: int) -> list[Path]:
        """Remove the oldest nights beyond `keep_nights`; the last complete one stays."""
        nights = self.nights()
        complete = [path for path in nights if (n := read_record(path)) and n.state is NightState.COMPLETE]
        removed = [path for path in nights[:-keep_nights] if path not in complete[-1:]]
        for path in removed:
            shutil.rmtree(path, ignore_errors=True)
        return removed


def read_record(night: Path) -> Night | None:
    """The record of a night; None if there is none that can be read."""
    try:
        return Night.model_validate_json((night / RECORD_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def bundles_below(directory: Path) -> Iterator[Bundle]:
    """Findings that campaigns left directly below their directories; damaged ones are left out."""
    if not directory.is_dir():
        return
    for campaign in sorted(directory.iterdir()):
        if not campaign.is_dir():
            continue
        for path in sorted(campaign.iterdir()):
            if not path.name.startswith(".") and (path / FINDING_FILE).is_file():
                try:
                    yield read_bundle(path)
                except InputError:
                    continue
