# SPDX-License-Identifier: BSD-2-Clause
"""Files of the cache that are cut short: commands build them again, or say in one line what is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.build.artefacts import PROJECT, Artefacts, cache_directory
from harness.execution.executor import Executor

SECONDS = 180


@pytest.fixture
def own_cache(artefacts: Artefacts, executor: Executor, tmp_path: Path) -> Path:
    """A copy of what the cache holds for the default config, to damage."""
    cache, whole = tmp_path / "cache", cache_directory()
    cache.mkdir()
    files = (artefacts.kernel_elf, artefacts.firmware_elf, artefacts.root_task_elf, artefacts.flash, artefacts.plugin)
    for directory in {path.relative_to(whole).parts[0] for path in files}:
        shutil.copytree(whole / directory, cache / directory)
    for kind in ("layouts", "blocks", "interrupts"):
        shutil.copytree(whole / kind, cache / kind)
    for source in whole.glob("source-*"):
        (cache / source.name).symlink_to(source)
    return cache


def run(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of its own process, with that cache."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "BOTHWORLDS_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert "a defect of bothworlds itself" not in done.stderr, done.stderr
    return done


def in_cache(path: Path, cache: Path) -> Path:
    """The copy of a file of the cache."""
    return cache / path.relative_to(cache_directory())


def test_everything_that_is_cut_short_is_made_again(artefacts: Artefacts, own_cache: Path) -> None:
    damaged = [artefacts.kernel_elf, artefacts.firmware_elf, artefacts.victim_elf, artefacts.flash]
    before = [path.read_bytes() for path in damaged]
    paths = [in_cache(path, own_cache) for path in damaged]
    plugin = in_cache(artefacts.plugin, own_cache)
    small = [path for kind in ("layouts", "blocks", "interrupts") for path in (own_cache / kind).iterdir()]
    for path in [*paths, *small, plugin]:
        os.truncate(path, path.stat().st_size // 2)
        with path.open("r+b") as file:
            file.write(path.read_bytes()[:8] + b"{'a" * 8)
    looked = run(own_cache, "doctor")
    assert looked.returncode == 3
    assert "kernel.elf has" in looked.stdout
    done = run(own_cache, "check", "--after", str(PROJECT / "examples" / "page-tables.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.read_bytes() for path in paths] == before
    assert run(own_cache, "doctor").returncode == 0
