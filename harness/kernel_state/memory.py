# SPDX-License-Identifier: BSD-2-Clause
"""What kernel state is read from: anything that returns bytes at a physical address."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from harness.configs import Region
from harness.errors import BothworldsError, ImageError

Words = np.ndarray[Any, np.dtype[np.uint64]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Array = np.ndarray[Any, Any]

PAGE_WORDS = 512


class MemoryImage(Protocol):
    """Physical memory: of a live machine, a snapshot, a finding or a file."""

    def read(self, address: int, size: int, /) -> bytes:
        """`size` bytes at a physical address; an ImageError or FindingError where there is no memory."""


class FileImage:
    """A raw dump of memory in a file: byte 0 of the file lies at `base`."""

    def __init__(self, path: Path, base: int) -> None:
        self._path = path
        self._base = base
        try:
            self._data: Bytes = np.asarray(np.memmap(path, np.uint8, "r"))
        except (OSError, ValueError) as error:
            raise ImageError(f"{path}: cannot be read as a memory image ({error})") from error

    def view(self, address: int, size: int) -> Bytes:
        """Array over the file; ImageError outside of it."""
        offset = address - self._base
        if offset < 0 or offset + size > len(self._data):
            raise ImageError(
                f"{self._path}: holds {self._base:#x}..{self._base + len(self._data):#x}, not all of "
                f"{address:#x}..{address + size:#x}; is it truncated, or does it begin at another address?"
            )
        return self._data[offset : offset + size]

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at a physical address; ImageError outside of the file."""
        return self.view(address, size).tobytes()


def words_of(memory: MemoryImage, base: int, size: int) -> Words:
    """Words (u64[size / 8]) of a range of physical memory.

    Not a copy where the memory offers a view: then it shows a live machine's memory as it changes.
    Raises ImageError if the memory does not hold the range.
    """
    view = getattr(memory, "view", None)
    data: Bytes = view(base, size) if view is not None else np.frombuffer(memory.read(base, size), np.uint8)
    if len(data) != size:
        raise ImageError(f"the memory image gives {len(data)} of {size} bytes at {base:#x}; is it truncated?")
    if data.ctypes.data % 8:
        data = data.copy()
    return data.view(np.uint64)


class Ram:
    """The secure RAM that holds the kernel and its objects, as words, slots and pages.

    `words`: u64[n]; `slots`: u64[n / 4, 4]; `pages`: u64[n / 512, 512]. `longs` are the words, too: single ones are
    read from there sooner.
    """

    def __init__(self, memory: MemoryImage, region: Region) -> None:
        self.base = region.base
        self.end = region.end
        self.words = words_of(memory, region.base, region.size)
        self.longs: memoryview = self.words.data
        self.slots = self.words.reshape(-1, 4)
        self.pages = self.words.reshape(-1, PAGE_WORDS)
        self.pairs = self.words.reshape(-1, 2)

    def holds(self, address: int, size: int = 8) -> bool:
        """Whether `size` bytes at a physical address lie in it."""
        return self.base <= address and address + size <= self.end

    def word(self, address: int) -> int:
        """The word at a physical address; ImageError outside or unaligned."""
        if not self.holds(address) or address & 7:
            raise ImageError(f"no word of secure RAM at {address:#x}")
        return int(self.longs[(address - self.base) >> 3])


def contains(ordered: Array, wanted: Array) -> Array:
    """Whether each value of `wanted` is in `ordered`, which is sorted (bool of `wanted`'s shape)."""
    if not len(ordered):
        return np.zeros(wanted.shape, np.bool_)
    found: Array = ordered[np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)] == wanted
    return found


def read_optional(memory: MemoryImage, address: int, size: int) -> bytes | None:
    """`size` bytes at a physical address; None where the memory holds none."""
    try:
        data = memory.read(address, size)
    except BothworldsError:
        return None
    return data if len(data) == size else None
