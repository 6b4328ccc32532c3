# SPDX-License-Identifier: BSD-2-Clause
"""Files that are there whole, or as they were before."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from harness.errors import OutputError


def write_whole(path: Path, content: str, option: str = "") -> None:
    """Write a file in one step; `option` is what the user named it by, with which messages begin.

    Its directory is made where it is missing. Raises OutputError if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(content)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        named = f"{option} {path}" if option else str(path)
        raise OutputError(f"{named}: cannot be written: {error.strerror or error}") from error
