# SPDX-License-Identifier: BSD-2-Clause
"""The memory that was judged, in a file: pages by physical address, zero pages left out."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.errors import FindingError
from harness.protocol import PAGE


class ReadableMemory(Protocol):
    """Memory by physical address, of a machine or of a file."""

    def read(self, address: int, count: int, /) -> bytes:
        """`count` bytes from a physical address."""


class MemoryImage:
    """Pages of physical memory that can be read like a machine's.

    `ranges`: u64[m, 2], first address and size in bytes of what was saved, page-aligned and sorted;
    inside them a page that is not listed is zero. Reading outside raises FindingError.
    """

    def __init__(self, ranges: NDArray[np.uint64], addresses: NDArray[np.uint64], pages: NDArray[np.uint8]) -> None:
        self.ranges = [(int(base), int(size)) for base, size in ranges]
        self._pages = pages
        self._index = {int(address): number for number, address in enumerate(addresses)}

    @classmethod
    def capture(cls, memory: ReadableMemory, ranges: Iterable[tuple[int, int]]) -> MemoryImage:
        """Copy `ranges` (first address, size) of a machine's memory, widened to whole pages."""
        merged = merge_ranges(ranges)
        addresses: list[NDArray[np.uint64]] = []
        contents: list[NDArray[np.uint8]] = []
        for base, size in merged:
            pages = np.frombuffer(bytes(memory.read(base, size)), dtype=np.uint8).reshape(-1, PAGE)
            kept = np.flatnonzero(pages.any(axis=1))
            addresses.append((np.uint64(base) + kept.astype(np.uint64) * np.uint64(PAGE)).astype(np.uint64))
            contents.append(pages[kept])
        return cls(
            np.array(merged, dtype=np.uint64).reshape(-1, 2),
            np.concatenate(addresses) if addresses else np.zeros(0, np.uint64),
            np.concatenate(contents) if contents else np.zeros((0, PAGE), np.uint8),
        )

    def read(self, address: int, count: int) -> bytes:
        """`count` bytes from a physical address; FindingError if they were not saved."""
        if not any(base <= address and address + count <= base + size for base, size in self.ranges):
            raise FindingError(f"the memory image does not hold {address:#x}..{address + count:#x}")
        first = address & -PAGE
        parts = []
        for page in range(first, address + count, PAGE):
            number = self._index.get(page)
            parts.append(bytes(PAGE) if number is None else self._pages[number].tobytes())
        return b"".join(parts)[address - first : address - first + count]

    def save(self, path: Path) -> None:
        """Write the image, compressed."""
        addresses = np.fromiter(self._index, dtype=np.uint64, count=len(self._index))
        with path.open("wb") as file:
            np.savez_compressed(
                file, ranges=np.array(self.ranges, np.uint64).reshape(-1, 2), addresses=addresses, pages=self._pages
            )

    @classmethod
    def load(cls, path: Path) -> MemoryImage:
        """Read an image; FindingError names the file and what is wrong with it."""
        try:
            data = path.read_bytes()
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                ranges, addresses, pages = (archive[name] for name in ("ranges", "addresses", "pages"))
        except KeyError as error:
            raise FindingError(f"{path}: the memory image has no array {error}") from error
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise FindingError(f"{path}: not a memory image: {error}") from error
        if ranges.ndim != 2 or ranges.shape[1] != 2 or ranges.dtype != np.uint64:
            raise FindingError(f"{path}: 'ranges' has shape {ranges.shape} and type {ranges.dtype}, not u64[n, 2]")
        if pages.dtype != np.uint8 or pages.shape != (len(addresses), PAGE) or addresses.dtype != np.uint64:
            raise FindingError(f"{path}: 'pages' has shape {pages.shape}, not ({len(addresses)}, {PAGE})")
        return cls(ranges, addresses, pages)


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, page-aligned, disjoint ranges (first address, size) that cover the given ones."""
    merged: list[list[int]] = []
    aligned = sorted((base & -PAGE, (base + size + PAGE - 1) & -PAGE) for base, size in ranges if size > 0)
    for base, end in aligned:
        if merged and base <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([base, end])
    return [(base, end - base) for base, end in merged]
