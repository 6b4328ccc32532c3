# SPDX-License-Identifier: BSD-2-Clause
"""Filing a worker's findings so that none is lost: where it belongs, else elsewhere, else in memory until it works."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import OutputError
from harness.execution.audit import Difference
from harness.findings.filing import Filer, Origin, Reduced
from harness.findings.judge import HARNESS_DEFECT
from harness.findings.minimise import Budget, Limits
from harness.findings.signature import Signature, Symptom
from harness.protocol import CALL_BYTES

RETRY_SECONDS = 15.0


@dataclass
class Known:
    """A symptom that was seen before, and how its last finding is called."""

    seen: int = 0
    signature: Signature | None = None


class Patience(Budget):
    """What may be spent on one finding; nothing more once the campaign asks for an end."""

    def __init__(self, limits: Limits, stopping: Callable[[], bool]) -> None:
        super().__init__(limits)
        self._stopping = stopping

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return super().over or self._stopping()


class Clerk:
    """Files findings in `directory`, or `elsewhere` if that cannot be written."""

    def __init__(self, filer: Filer, directory: Path, elsewhere: Path | None) -> None:
        self._filer = filer
        self._places = [directory] if elsewhere is None else [directory, elsewhere]
        self._unwritten: list[tuple[Reduced, Origin]] = []
        self._next_attempt = 0.0

    def file(self, reduced: Reduced, origin: Origin) -> Path | None:
        """Write a finding if it is new; returns its directory, None if it can be written nowhere and is kept in memory.

        Raises MachineError.
        """
        path = self._write(reduced, origin)
        if path is None:
            # What the machine shows is gone with the next program: the program says how to see it again.
            self._unwritten.append((replace(reduced, verdict=None), origin))
        return path

    def _write(self, reduced: Reduced, origin: Origin) -> Path | None:
        for place in self._places:
            try:
                if place is not self._places[0]:
                    place.mkdir(mode=0o700, exist_ok=True)
                self._filer.directory = place
                return self._filer.file(reduced, origin)[0]
            except (OutputError, OSError):
                continue
            finally:
                self._filer.directory = self._places[0]
        return None

    def again(self, *, now: bool = False) -> list[tuple[Reduced, Path]]:
        """Try to write what could not be written, now and then; returns what was."""
        if not self._unwritten or (not now and time.monotonic() < self._next_attempt):
            return []
        self._next_attempt = time.monotonic() + RETRY_SECONDS
        written: list[tuple[Reduced, Path]] = []
        for reduced, origin in list(self._unwritten):
            verdict = self._filer.verdict(reduced.program, reduced.symptom) if reduced.repeatable else None
            path = self._write(replace(reduced, verdict=verdict), origin)
            if path is not None:
                written.append((reduced, path))
                self._unwritten.remove((reduced, origin))
        return written


def defect_of_restore(program: bytes, differences: Sequence[Difference]) -> Reduced:
    """The finding that the harness itself is wrong: a restored machine differs from the snapshot."""
    evidence = {"differences": [str(difference) for difference in differences[:32]], "count": len(differences)}
    symptom = Symptom(HARNESS_DEFECT, "", "restore", f"{len(differences)} differences after a restore", evidence)
    whole = program[: len(program) // CALL_BYTES * CALL_BYTES]
    return Reduced(whole, Signature(HARNESS_DEFECT, "restore", "-"), None, False, None, symptom)
