# SPDX-License-Identifier: BSD-2-Clause
"""Shared memory, images of it, and their comparison."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.configs import MachineConfig
from harness.errors import ImageError
from harness.execution.audit import compare
from harness.execution.restore_set import join
from harness.machine.memory import Image, MachineMemory, SharedMemory
from harness.protocol import PAGE


@pytest.fixture
def memory(config: MachineConfig) -> MachineMemory:
    return MachineMemory(config)


def test_shared_memory_has_no_name() -> None:
    shared = SharedMemory("test", 1 << 20)
    assert "(deleted)" in os.readlink(f"/proc/self/fd/{shared.fd}")
    assert not os.get_inheritable(shared.fd)
    shared.bytes[5] = 7
    assert os.pread(shared.fd, 1, 5) == b"\x07"
    shared.clear()
    assert not shared.bytes.any()
    shared.close()


def test_only_used_parts_take_memory() -> None:
    shared = SharedMemory("test", 64 << 20)
    shared.bytes[10 * PAGE : 600 * PAGE] = 0
    shared.bytes[300 * PAGE] = 1
    shared.release_zeros()
    assert [(start // PAGE, end // PAGE) for start, end in shared.extents()] == [(300, 301)]
    assert shared.bytes[300 * PAGE] == 1


def test_reads_and_writes_either_world(memory: MachineMemory) -> None:
    for address in (0x0E000000, 0x0EFFFFF0, 0x40000000, 0xBFFFFFF0):
        memory.write(address, b"sixteen bytes...")
        assert memory.read(address, 16) == b"sixteen bytes..."
    assert memory.written
    for address in (0, 0x09000000, 0x0DFFFFFF, 0x0EFFFFF1, 0x3FFFFFFF, 0xBFFFFFF1):
        with pytest.raises(ImageError, match=f"{address:#x}"):
            memory.read(address, 16)


def test_image_is_a_copy_that_survives_a_file(memory: MachineMemory, tmp_path: Path) -> None:
    memory.write(0x0E123456, b"secure")
    memory.write(0x41234000 - 3, b"normal")
    image = memory.image()
    memory.write(0x0E123456, b"other!")
    (tmp_path / "image").write_bytes(image.to_bytes())
    for same in (image, Image.from_bytes(image.to_bytes()), Image.from_file(tmp_path / "image")):
        assert same.read(0x0E123456, 6) == b"secure"
        assert same.read(0x41234000 - 3, 6) == b"normal"
        assert same.read(0x41230000, 0x10000).count(0) == 0x10000 - 6
        with pytest.raises(ImageError):
            same.read(0xC0000000, 1)
    assert sum(map(len, image.parts.values())) < 17 << 20


@given(st.binary(max_size=200))
def test_bytes_that_are_no_image(data: bytes) -> None:
    with pytest.raises(ImageError):
        Image.from_bytes(data)


def test_damaged_image(memory: MachineMemory) -> None:
    data = memory.image().to_bytes()
    for cut in (0, 10, 1000, len(data) // 2, len(data) - 5):
        with pytest.raises(ImageError):
            Image.from_bytes(data[:cut])


def test_comparison_finds_each_difference(memory: MachineMemory) -> None:
    memory.write(0x40300000, b"before")
    snapshot = memory.image()
    assert not compare([], snapshot, memory)
    memory.write(0x0E000000 + 5 * PAGE + 7, b"\x01")
    memory.write(0x40300001, b"E")
    memory.write(0x80000000, b"\x02")
    found = compare([], snapshot, memory)
    assert [(d.page, d.offset, d.expected, d.found) for d in found] == [
        (0x0E005000, 7, 0, 1),
        (0x40300000, 1, ord("e"), ord("E")),
        (0x80000000, 0, 0, 2),
    ]
    windows = [(0x0E005007, 1), (0x40300000, 64)]
    assert [d.page for d in compare(windows, snapshot, memory)] == [0x80000000]


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 40)), min_size=1, max_size=60), st.integers(1, 40))
@settings(max_examples=200)
def test_joined_ranges_cover_all(ranges: list[tuple[int, int]], limit: int) -> None:
    """Nothing is lost by joining, ranges do not touch, and there are no more than allowed."""
    joined = join([(start * 1000, size * 1000) for start, size in ranges], limit)
    assert len(joined) <= limit
    assert joined == sorted(joined)
    covered = np.zeros(300, bool)
    for start, size in joined:
        assert not start % PAGE and not size % PAGE
        assert not covered[max(start // PAGE - 1, 0) : (start + size) // PAGE].any()
        covered[start // PAGE : (start + size) // PAGE] = True
    for start, size in ranges:
        assert covered[start * 1000 // PAGE : ((start + size) * 1000 - 1) // PAGE + 1].all()
