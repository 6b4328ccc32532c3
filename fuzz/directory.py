# SPDX-License-Identifier: BSD-2-Clause
"""A campaign's output directory: one campaign at a time, corpus and report whole at each moment, nothing lost.

The campaign's own process is the only one that writes the corpus and `campaign.json`. What cannot be written (a full
disk, a directory that somebody removed) stays in memory and is tried again; at the end it goes to a private
temporary directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from fuzz import corpus
from fuzz.pending import PENDING
from fuzz.troubles import Troubles
from harness.errors import InputError, OutputError
from harness.files import remove_unfinished, write_whole
from harness.programs.interfaces import Interface

LOCK = ".lock"
REPORT = "campaign.json"
CORPUS, LOGS = "corpus", "logs"
REPORT_SECONDS = 10.0
"""Between two times that the report is written."""
LOOK_SECONDS = 1.0
"""Between two looks at whether the directory is still there."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two attempts to write what could not be written."""


class Lock:
    """The right to work in a directory. It ends with the process that has it, so that none is ever stale."""

    def __init__(self, directory: Path, what: str = "campaign") -> None:
        """Take it; raises InputError that names the other process if it is taken, OutputError."""
        path = directory / LOCK
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _cannot_be_written(directory, error) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._descriptor, 64, 0).decode("utf-8", "replace").strip() or "another process"
            os.close(self._descriptor)
            raise InputError(
                f"{directory}: {owner} works in this directory; wait until it is done, or choose another directory"
            ) from error
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{what} of process {os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others work there."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _cannot_be_written(directory: Path, error: OSError) -> OutputError:
    return OutputError(f"{directory}: cannot be written: {error.strerror or error}; choose another with --out")


@contextlib.contextmanager
def corpus_lock(directory: Path) -> Iterator[None]:
    """Keep campaigns away from a corpus while it is changed: it may be that of a campaign's directory.

    Raises InputError if one works there.
    """
    if not directory.is_dir():
        yield
        return
    campaigns = directory.resolve().parent
    with contextlib.ExitStack() as locks:
        locks.enter_context(Lock(directory, "corpus command"))
        if (campaigns / LOCK).is_file():
            locks.enter_context(Lock(campaigns, "corpus command"))
        yield


def prepare_directory(directory: Path) -> None:
    """Make the output directory; raises OutputError if nothing can be written there."""
    try:
        for name in (CORPUS, LOGS, PENDING):
            (directory / name).mkdir(parents=True, exist_ok=True)
        probe = directory / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise _cannot_be_written(directory, error) from error


class OutputDirectory:
    """The directory while a campaign works in it, as a context manager."""

    def __init__(self, path: Path, interface: Interface, troubles: Troubles, *, keep_corpus: bool = True) -> None:
        self.path = path
        self.corpus = path / CORPUS
        self.elsewhere = Path(tempfile.gettempdir(), f"bothworlds-{os.getpid()}-{secrets.token_hex(4)}")
        """What cannot be written is written there in the end; made when it is needed."""
        self._interface = interface
        self._troubles = troubles
        self._keep_corpus = keep_corpus
        self._programs: dict[str, bytes] = {}
        self._unwritten: dict[str, bytes] = {}
        self._lock: Lock | None = None
        self._inode = 0
        self._pause = 0.0
        self._next_attempt = self._next_look = self._next_report = 0.0
        self.loaded = 0
        """Programs that were there at the beginning."""

    def __enter__(self) -> Self:
        prepare_directory(self.path)
        self._lock = Lock(self.path)
        try:
            self._inode = self.path.stat().st_ino
            if self._keep_corpus:
                self._load()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _load(self) -> None:
        remove_unfinished(self.corpus)
        if said := corpus.renew(self.corpus, self._interface):
            self._troubles.add("the corpus was made for another call table", said)
        self._programs = {corpus.file_name(program): program for program in corpus.read_corpus(self.corpus)}
        self.loaded = len(self._programs)

    @property
    def programs(self) -> int:
        """Size of the corpus."""
        return len(self._programs)

    def add(self, program: bytes) -> bool:
        """Take a program into the corpus; whether it is new there."""
        name = corpus.file_name(program)
        if name in self._programs or not self._keep_corpus:
            return False
        self._programs[name] = self._unwritten[name] = program
        if not self._pause:
            self._write()
        return True

    def _write(self) -> bool:
        """Try to write what is not written yet."""
        try:
            for name, program in list(self._unwritten.items()):
                corpus.add_program(self.corpus, program)
                del self._unwritten[name]
        except OutputError as error:
            self._failed("programs of the corpus cannot be written; they are kept in memory and tried again", error)
            return False
        self._pause = 0.0
        return True

    def _failed(self, what: str, error: OutputError) -> None:
        self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
        self._next_attempt = time.monotonic() + self._pause
        self._troubles.add(what, str(error))

    def tick(self, report: dict[str, Any] | None = None) -> bool:
        """Look after the directory, about twice a second; whether it was gone, and with it all that was filed there.

        `report` is written if there is one: see `report_is_due`.
        """
        now, gone = time.monotonic(), False
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            gone = self._renew_if_gone()
        if self._unwritten and now >= self._next_attempt:
            self._write()
        if report is not None:
            self._next_report = now + REPORT_SECONDS
            try:
                self._write_report(self.path, report)
            except OutputError as error:
                self._troubles.add(f"{REPORT} cannot be written; it is tried again", str(error))
        return gone

    def report_is_due(self) -> bool:
        """Whether it is time to write the report."""
        return time.monotonic() >= self._next_report

    def _write_report(self, directory: Path, report: dict[str, Any]) -> None:
        write_whole(directory / REPORT, json.dumps(report, indent=2) + "\n")

    def _renew_if_gone(self) -> bool:
        """Make the directory again if it was removed, and write all programs again."""
        try:
            there = self.path.stat().st_ino == self._inode and self.corpus.is_dir()
        except OSError:
            there = False
        if there:
            return False
        try:
            prepare_directory(self.path)
        except OutputError as error:
            self._troubles.add(
                "the output directory was removed and cannot be made again; it is tried again", str(error)
            )
            return False
        self._inode = self.path.stat().st_ino
        if self._keep_corpus:
            self._unwritten |= self._programs
            with contextlib.suppress(OutputError):
                corpus.write_interface(self.corpus, self._interface)
        with contextlib.suppress(InputError, OutputError):  # another campaign has begun there: both write whole files
            lock = Lock(self.path)
            if self._lock is not None:
                self._lock.release()
            self._lock = lock
        self._troubles.add(
            "the output directory was removed; it was made again",
            f"{len(self._programs)} programs of the corpus were written again; findings are looked for and filed again",
        )
        return True

    def finish(self, report: dict[str, Any]) -> list[Path]:
        """Write all that is left, the report last; returns where something was written instead of the directory."""
        self._next_look = 0.0
        self._renew_if_gone()
        used: list[Path] = []
        if self._unwritten and not self._write():
            place = self.elsewhere / CORPUS
            try:
                self.elsewhere.mkdir(mode=0o700, exist_ok=True)
                corpus.write_interface(place, self._interface)
                for program in self._unwritten.values():
                    corpus.add_program(place, program)
                self._troubles.add(f"{len(self._unwritten)} programs of the corpus were written elsewhere", str(place))
                used.append(place)
            except (OSError, OutputError) as error:
                self._troubles.add(f"{len(self._unwritten)} programs of the corpus are lost", str(error))
        report = report | {"troubles": self._troubles.texts()}
        try:
            self._write_report(self.path, report)
        except OutputError as error:
            self._troubles.add(f"{REPORT} could not be written", str(error))
            report["troubles"] = self._troubles.texts()
            with contextlib.suppress(OSError, OutputError):
                self.elsewhere.mkdir(mode=0o700, exist_ok=True)
                self._write_report(self.elsewhere, report)
                self._troubles.add(f"{REPORT} was written elsewhere", str(self.elsewhere / REPORT))
                used.append(self.elsewhere / REPORT)
        return used
