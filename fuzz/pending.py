# SPDX-License-Identifier: BSD-2-Clause
"""Symptoms that were seen and are not filed yet, on disk, so that a worker that dies meanwhile loses none.

One small file each. The worker that takes the place of the lost one, or the next campaign in the same
directory, goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from harness.errors import BothworldsError, OutputError
from harness.files import write_whole
from harness.findings.signature import Symptom
from harness.programs.interfaces import Interface
from harness.programs.program import Program

PENDING = "pending"
"""Directory of these files, below a campaign's."""
AGAIN = ".again"
"""In the name of such a file that has been taken up."""
UNREADABLE = ".unreadable"
"""Ends the name of such a file that could not be used; people may look at it."""


class Pending:
    """The files of one worker; `directory` None: nothing is kept."""

    def __init__(self, directory: Path | None, worker: int, interface: Interface) -> None:
        self._directory = directory
        self._worker = worker
        self._interface = interface

    def add(self, program: bytes, symptom: Symptom) -> Path | None:
        """Keep a program and what it showed until `done`; None where nothing can be written."""
        if self._directory is None:
            return None
        name = hashlib.sha1(program + repr(symptom.key).encode(), usedforsecurity=False).hexdigest()
        path = self._directory / f"{self._worker}-{name}.json"
        data = {
            "program": Program.from_bytes(program, self._interface).to_yaml(),
            "symptom": {
                "kind": symptom.kind,
                "invariant": symptom.invariant,
                "place": symptom.place,
                "message": symptom.message,
                "evidence": symptom.evidence,
            },
        }
        with contextlib.suppress(OutputError):
            write_whole(path, json.dumps(data, default=str))
            return path
        return None

    def done(self, path: Path | None) -> None:
        """It is filed."""
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()

    def left(self, workers: int) -> list[tuple[Path, bytes, Symptom]]:
        """What a worker before this one has left; of a campaign with more workers, this one's share.

        A file that cannot be used, damaged or with calls that are no more, gets another name and stays; so does one
        that was taken up before and is still there, since it might be what ends workers.
        """
        found: list[tuple[Path, bytes, Symptom]] = []
        if self._directory is None:
            return found
        for path in sorted(self._directory.glob("[0-9]*-*.json")):
            if int(path.name.partition("-")[0]) % workers != self._worker:
                continue
            try:
                if AGAIN in path.name:
                    raise ValueError("it was taken up before")
                data = json.loads(path.read_text())
                program = Program.from_yaml(data["program"], self._interface, str(path)).to_bytes()
                symptom = Symptom(**data["symptom"])
                found.append((path.rename(path.with_suffix(f"{AGAIN}.json")), program, symptom))
            except (BothworldsError, OSError, ValueError, KeyError, TypeError):
                with contextlib.suppress(OSError):
                    path.rename(path.with_suffix(UNREADABLE))
        return found
