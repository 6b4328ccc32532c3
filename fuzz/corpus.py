# SPDX-License-Identifier: BSD-2-Clause
"""Corpora: directories of programs, each in a file named by its content, as libFuzzer keeps them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError, OutputError
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CALL_BYTES, MAXIMUM_CALLS


class Covered(Protocol):
    """What is needed of an executor: run a program, and see how often each block ran."""

    def run(self, program: bytes, /) -> object:
        """Run a program from the snapshot."""

    @property
    def coverage(self) -> NDArray[np.uint8]:
        """How often each static block ran in the last program, saturating."""


def _bucket_table() -> NDArray[np.uint8]:
    """LibFuzzer's classes of counts: 0, 1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128 and more, as one bit each."""
    table = np.zeros(256, np.uint8)
    for bit, (first, end) in enumerate([(1, 2), (2, 3), (3, 4), (4, 8), (8, 16), (16, 32), (32, 128), (128, 256)]):
        table[first:end] = 1 << bit
    return table


_BUCKETS = _bucket_table()


def file_name(program: bytes) -> str:
    """The name libFuzzer gives to an input."""
    return hashlib.sha1(program, usedforsecurity=False).hexdigest()


def read_corpus(directory: Path) -> list[bytes]:
    """Programs of a corpus, short ones first; InputError if there is no such directory."""
    if not directory.is_dir():
        raise InputError(f"{directory}: no such corpus; give a directory of programs")
    programs = {path.read_bytes() for path in directory.iterdir() if path.is_file() and not path.name.startswith(".")}
    return sorted(programs, key=lambda program: (len(program), program))


def add_program(directory: Path, program: bytes) -> bool:
    """Put a program into a corpus; whether it is new there. Never leaves half a file behind."""
    path = directory / file_name(program)
    if path.exists():
        return False
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", dir=directory)
        with os.fdopen(handle, "wb") as file:
            file.write(program)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return True


def adding_coverage(
    executor: Covered, programs: Iterable[bytes], watch: Callable[[bytes, bool], None] | None = None
) -> list[bytes]:
    """Those programs that reach a block, or reach it a number of times, that none before them did."""
    kept: list[bytes] = []
    seen: NDArray[np.uint8] | None = None
    for program in programs:
        executor.coverage[:] = 0
        executor.run(program)
        features = _BUCKETS[executor.coverage]
        if seen is None:
            seen = np.zeros_like(features)
        new = bool((features & ~seen).any())
        if new:
            seen |= features
            kept.append(program)
        if watch is not None:
            watch(program, new)
    return kept


def merge(executor: Covered, into: Path, sources: Sequence[Path]) -> tuple[int, int]:
    """Add to a corpus what reaches more than it does; returns how many were added and how many looked at."""
    old = read_corpus(into) if into.is_dir() else []
    known = set(old)
    more = sorted(
        {program for source in sources for program in read_corpus(source)} - known, key=lambda item: (len(item), item)
    )
    kept = adding_coverage(executor, [*old, *more])
    added = sum(add_program(into, program) for program in kept if program not in known)
    return added, len(more)


def minimise(executor: Covered, directory: Path) -> tuple[int, int]:
    """Remove from a corpus what reaches nothing that shorter programs do not; returns how many stay and were there."""
    programs = read_corpus(directory)
    kept = set(adding_coverage(executor, programs))
    if programs and not kept:
        raise InputError(f"{directory}: no program reaches anything; nothing was removed")
    for path in list(directory.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.read_bytes() not in kept:
            path.unlink()
    return len(kept), len(programs)


def import_files(into: Path, files: Sequence[Path], interface: Interface) -> tuple[int, int]:
    """Add programs from YAML files, byte files or directories of them; returns how many are new and were read."""
    paths: list[Path] = []
    for path in files:
        if path.is_dir():
            paths += sorted(inner for inner in path.rglob("*") if inner.is_file() and not inner.name.startswith("."))
        elif path.is_file():
            paths.append(path)
        else:
            raise InputError(f"{path}: no such file")
    added = 0
    for path in paths:
        program = Program.load(path, interface).to_bytes()
        if len(program) > MAXIMUM_CALLS * CALL_BYTES:
            raise InputError(f"{path}: more than {MAXIMUM_CALLS} calls")
        added += add_program(into, program)
    return added, len(paths)
