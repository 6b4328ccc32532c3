# SPDX-License-Identifier: BSD-2-Clause
"""Whatever a machine's memory becomes, it is judged and shown in time, or refused in one clear error."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.build.artefacts import Artefacts
from harness.errors import BothworldsError, ImageError
from harness.execution.executor import Executor
from harness.kernel_state.bitfields import parse_files
from harness.kernel_state.dwarf import read_types
from harness.kernel_state.elf import Elf
from harness.kernel_state.layout import Layout
from harness.machine.memory import Image
from tests.corruption.cases import Cases, Summary, bounded

CASES = int(os.environ.get("BOTHWORLDS_CORRUPT_CASES", "400"))
"""Of the debug kernel; a quarter as many of the release kernel. `python -m tests.corruption` tries any number."""
FILES = CASES // 20
"""Damaged files of each kind."""
SLOWEST_SECONDS = 5.0
"""Processor time of one judgement, whatever memory holds; seldom more than one."""


def parked(artefacts: Artefacts) -> Image:
    """Memory of a parked machine."""
    with Executor(artefacts, coverage=False) as executor:
        executor.run(b"")
        return executor.memory.image()


def run(artefacts: Artefacts, count: int) -> Summary:
    """Spoil and judge; the whole summary is the message if a case fails."""
    summary = Cases(Layout.from_artefacts(artefacts), artefacts.config, parked(artefacts)).run(count)
    assert not summary.failures, summary.text()
    assert summary.slowest[0][0] < SLOWEST_SECONDS, summary.text()
    assert "not judged" not in "".join(summary.outcomes), summary.text()
    return summary


def test_corrupt_memory_of_the_debug_kernel(artefacts: Artefacts) -> None:
    summary = run(artefacts, CASES)
    # The cases are worth something: many are caught, by most invariants, and not all are.
    assert sum(count for name, count in summary.outcomes.items() if "violations" in name) > CASES // 4
    assert sum(count for name, count in summary.outcomes.items() if "held" in name) > CASES // 20
    assert len(summary.invariants) > 20


def test_corrupt_memory_of_the_release_kernel(release_artefacts: Artefacts) -> None:
    run(release_artefacts, CASES // 4)


def spoiled(data: bytes, choice: random.Random) -> bytes:
    """A file cut short, with changed bytes, or with a run of noise."""
    way = choice.randrange(4)
    if way == 0:
        return data[: choice.randrange(len(data))]
    content = bytearray(data)
    if way == 1:
        for _ in range(choice.choice((1, 8, 64))):
            content[choice.randrange(len(content))] = choice.randrange(256)
    elif way == 2:
        # The beginning of a file says where the rest is.
        for _ in range(choice.choice((1, 4))):
            content[choice.randrange(min(64, len(content)))] = choice.randrange(256)
    else:
        at = choice.randrange(len(content))
        content[at : at + 256] = choice.randbytes(256)
    return bytes(content)


def everything_of(path: Path) -> None:
    """Read all that is read from an ELF file."""
    elf = Elf(path)
    assert elf.functions is not None
    assert elf.segments is not None
    elf.lines.at(0)
    read_types(elf)


READERS: dict[str, tuple[Callable[[Artefacts], Path], Callable[[Path], object]]] = {
    "ELF file with debug information": (lambda built: built.victim_elf, everything_of),
    "ELF file of the firmware": (lambda built: built.firmware_elf, everything_of),
    "bit-field file": (
        lambda built: next(iter(built.kernel_generated.rglob("structures.pbf"))),
        lambda path: parse_files([path]),
    ),
}


@pytest.mark.parametrize("kind", READERS)
def test_files_of_the_build_that_are_damaged(artefacts: Artefacts, tmp_path: Path, kind: str) -> None:
    source, read = READERS[kind]
    data, path = source(artefacts).read_bytes(), tmp_path / "file"
    refused = 0
    for number in range(FILES):
        path.write_bytes(spoiled(data, random.Random(f"{kind}:{number}")))
        try:
            with bounded():
                read(path)
        except BothworldsError as error:
            refused += 1
            assert str(path) in str(error)
            assert len(str(error)) < 2000
    assert refused


def test_damaged_images(artefacts: Artefacts, tmp_path: Path) -> None:
    data = parked(artefacts).to_bytes()
    path = tmp_path / "memory.image"
    for number in range(20):
        content = spoiled(data, random.Random(number))
        path.write_bytes(content)
        try:
            with bounded():
                Image.from_file(path)
        except ImageError as error:
            assert str(path) in str(error)
