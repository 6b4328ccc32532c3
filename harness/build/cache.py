# SPDX-License-Identifier: BSD-2-Clause
"""Directories of the cache that appear complete or not at all, and are made again when they are damaged.

Each has a list of what belongs in it (`.contents.json`: size and SHA-256 of every file). Whoever uses
one compares all sizes, and the content of what lies in it directly, the artefacts; `doctor --mend` compares
everything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.build.artefacts import cache_directory
from harness.errors import OutputError

CONTENTS = ".contents.json"
ABANDONED_SECONDS = 3600
"""A temporary directory of this age belongs to a build that was killed."""
_REMEDY = "set BOTHWORLDS_CACHE to a writable directory"


@dataclass(frozen=True)
class Damage:
    """A directory of the cache that cannot be used, or should not be there."""

    path: Path
    what: str

    def mend(self) -> None:
        """Remove it; a damaged directory is made again when it is next needed. Raises OutputError."""
        discard(self.path)


def publish(name: str, fill: Callable[[Path], None]) -> Path:
    """The cached directory `name`; if it is absent or damaged, `fill(directory)` makes its content first.

    `fill` works in a temporary directory beside it, which is renamed when it is complete. Two
    processes may do this at the same time: the first one wins, the other uses its result.
    Raises OutputError if the cache cannot be written, and whatever `fill` raises.
    """
    final = cache_directory() / name
    if final.is_dir():
        if not damage_of(final):
            return final
        discard(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=final.parent))
    except OSError as error:
        raise OutputError(f"cannot write the build cache {final.parent} ({error.strerror}); {_REMEDY}") from error
    try:
        fill(directory)
        _seal(directory)
        directory.chmod(0o755)
        try:
            os.rename(directory, final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return final


def damage_of(directory: Path, *, thorough: bool = False) -> str:
    """What is wrong with a directory of the cache; empty if nothing is.

    `thorough` compares the content of every file, not only of those that lie in it directly.
    """
    listing = directory / CONTENTS
    if not listing.exists():
        # It was made before there were lists: it gets one.
        with contextlib.suppress(OutputError):
            _seal(directory)
        return ""
    try:
        listed = json.loads(listing.read_text())
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in listed.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{CONTENTS} is damaged"
    for name, (size, digest) in files.items():
        path = directory / name
        try:
            found = path.stat().st_size
            if found != size:
                return f"{name} has {found} bytes instead of {size}"
            if (thorough or "/" not in name) and _digest(path) != digest:
                return f"{name} has changed"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return ""


def damages(*, thorough: bool = False) -> list[Damage]:
    """All directories of the cache that are damaged, or that builds which were killed left behind."""
    found = []
    now = time.time()
    try:
        entries = sorted(entry for entry in cache_directory().iterdir() if entry.is_dir())
    except OSError:
        return []
    for entry in entries:
        if entry.name.startswith("."):
            with contextlib.suppress(OSError):
                if now - entry.stat().st_mtime > ABANDONED_SECONDS:
                    found.append(Damage(entry, "left behind by a build that was killed"))
        elif (entry / CONTENTS).exists() and (what := damage_of(entry, thorough=thorough)):
            found.append(Damage(entry, what))
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(directory: Path) -> None:
    """Write the list of a directory's files. Raises OutputError."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != CONTENTS)
    try:
        contents = {str(p.relative_to(directory)): (p.stat().st_size, _digest(p)) for p in files}
        temporary = directory / f"{CONTENTS}.{os.getpid()}"
        temporary.write_text(json.dumps(contents))
        temporary.replace(directory / CONTENTS)
    except OSError as error:
        raise OutputError(f"cannot write the build cache {directory} ({error.strerror}); {_REMEDY}") from error


def discard(directory: Path) -> None:
    """Remove a directory of the cache so that nobody ever sees it half removed. Raises OutputError."""
    try:
        aside = Path(tempfile.mkdtemp(prefix=".damaged-", dir=directory.parent))
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.rename(directory, aside / directory.name)
    except OSError as error:
        raise OutputError(f"{directory} is damaged and cannot be removed ({error.strerror}): delete it") from error
    shutil.rmtree(aside, ignore_errors=True)
