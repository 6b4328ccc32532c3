# SPDX-License-Identifier: BSD-2-Clause
"""What a user waits for after a change: the time to build the system again when the body of one function is new."""

from __future__ import annotations

import contextlib
import difflib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fuzz.metrics import Metric
from harness.build.artefacts import Artefacts, cache_directory
from harness.build.patches import read_lines
from harness.build.system import build

CHANGES = 3
_FILE = "src/object/cnode.c"
_FUNCTION = "cteInsert("
_HEADER = "SPDX-License-Identifier: GPL-2.0-only\nSubject: A change of nothing\n\nIn the body of one function.\n\n"


def rebuild_cost(artefacts: Artefacts) -> Metric:
    """Seconds to build a system after a change of one function's body; the median of some.

    It is compared with building everything, in an empty cache that has nothing but the kernel's source.
    """
    config, release = artefacts.config, artefacts.release
    with tempfile.TemporaryDirectory(prefix="bothworlds-bench-") as directory, _empty_cache(Path(directory) / "cache"):
        started = time.perf_counter()
        build(config, release=release)
        everything = time.perf_counter() - started
        changed = []
        for number in range(CHANGES):
            patch = Path(directory) / f"{number}.patch"
            patch.write_text(_HEADER + change_of_a_body(artefacts.kernel_source, number))
            started = time.perf_counter()
            build(config, release=release, extra_patches=[patch])
            changed.append(time.perf_counter() - started)
    return Metric("rebuild_seconds", statistics.median(changed), "s", everything, "everything, in an empty cache")


def change_of_a_body(source: Path, number: int) -> str:
    """A diff of a patched kernel source that puts a number into a function, which makes no other code."""
    before = read_lines(source / _FILE)
    name = next(index for index, line in enumerate(before) if line.startswith(_FUNCTION))
    body = before.index("{\n", name) + 1
    after = [*before[:body], f'    asm volatile("" : : "i" ({number}));\n', *before[body:]]
    return "".join(difflib.unified_diff(before, after, f"a/{_FILE}", f"b/{_FILE}"))


@contextlib.contextmanager
def _empty_cache(directory: Path) -> Iterator[None]:
    """A build cache of its own, with the kernel's source, which cargo would have to download again."""
    directory.mkdir()
    for package in cache_directory().glob("source-*"):
        (directory / package.name).symlink_to(package)
    before = os.environ.get("BOTHWORLDS_CACHE")
    os.environ["BOTHWORLDS_CACHE"] = str(directory)
    try:
        yield
    finally:
        if before is None:
            del os.environ["BOTHWORLDS_CACHE"]
        else:
            os.environ["BOTHWORLDS_CACHE"] = before
