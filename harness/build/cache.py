# SPDX-License-Identifier: BSD-2-Clause
"""Directories of the cache that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.build.artefacts import cache_directory
from harness.errors import OutputError


def publish(name: str, fill: Callable[[Path], None]) -> Path:
    """The cached directory `name`; if it is absent, `fill(directory)` makes its content first.

    `fill` works in a temporary directory beside it, which is renamed when it is complete. Two
    processes may do this at the same time: the first one wins, the other uses its result.
    Raises OutputError if the cache cannot be written, and whatever `fill` raises.
    """
    final = cache_directory() / name
    if final.is_dir():
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=final.parent))
    except OSError as error:
        remedy = "set BOTHWORLDS_CACHE to a writable directory"
        raise OutputError(f"cannot write the build cache {final.parent} ({error.strerror}); {remedy}") from error
    try:
        fill(directory)
        directory.chmod(0o755)
        try:
            os.rename(directory, final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return final
