# SPDX-License-Identifier: BSD-2-Clause
"""Files and directories that are there whole, or as they were before."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from harness.errors import OutputError

UNFINISHED = ".new-"
"""How names begin of what is not yet whole."""


def write_whole(path: Path, content: str | bytes, option: str = "") -> None:
    """Write a file in one step; `option` is what the user named it by, with which messages begin.

    Its directory is made where it is missing. Raises OutputError if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        named = f"{option} {path}" if option else str(path)
        raise OutputError(f"{named}: cannot be written: {error.strerror or error}") from error


def remove_unfinished(directory: Path) -> None:
    """Remove files that a process that was killed has left half written; nobody else may write there now."""
    with contextlib.suppress(OSError):
        for path in directory.glob(f"{UNFINISHED}*"):
            path.unlink()


def replace_directory(path: Path, successor: Path) -> None:
    """Put a directory in the place of another one, or where none was; OSError.

    Both must be on one file system. The old one is removed when the new one is there.
    """
    aside = successor.with_name(f"{successor.name}.before")
    if path.is_dir():
        path.rename(aside)
    successor.rename(path)
    shutil.rmtree(aside, ignore_errors=True)
