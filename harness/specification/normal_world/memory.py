# SPDX-License-Identifier: BSD-2-Clause
"""The memory that the normal world and trusted services both write to, as the specification follows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.configs import NormalWorld
from harness.programs.normal_calls import own_page
from harness.protocol import PAGE
from harness.specification.answers import NotCoveredError

WORD = 8
MASK = (1 << 64) - 1
MASK_32 = (1 << 32) - 1


def extent(normal: NormalWorld) -> tuple[int, int]:
    """Where the memory that is followed begins and ends."""
    return own_page(normal), normal.shared.end


class SharedMemory:
    """The shared pages, and a page of the normal world's own: as in the snapshot, but for what was written since."""

    def __init__(self, normal: NormalWorld, start: bytes) -> None:
        """`start`: the content of its extent in the snapshot."""
        self.base, self.end = extent(normal)
        self._shared = (normal.shared.base, normal.shared.end)
        self._program = (normal.memory.base, normal.memory.end)
        self._start = start
        self.pages: dict[int, bytearray] = {}
        """Content of the pages that were written, by their offset."""
        self.watched: int | None = None
        """An aligned address that changes at some time: who reads a buffer there cannot be followed."""

    def copy(self) -> SharedMemory:
        """Another one with the same content."""
        other = SharedMemory.__new__(SharedMemory)
        other.base, other.end, other._start = self.base, self.end, self._start
        other._shared, other._program = self._shared, self._program
        other.pages = {offset: bytearray(page) for offset, page in self.pages.items()}
        other.watched = self.watched
        return other

    def _page(self, offset: int) -> bytearray:
        page = self.pages.get(offset)
        if page is None:
            page = self.pages[offset] = bytearray(self._start[offset : offset + PAGE])
        return page

    def is_shared(self, address: int, length: int = 1) -> bool:
        """Whether the bytes lie in the shared pages."""
        return self._shared[0] <= address and address + length <= self._shared[1]

    def _is_known(self, address: int, length: int) -> bool:
        return self.base <= address and address + length <= self.end

    def is_normal(self, address: int, length: int) -> bool:
        """Whether a range is the normal world's, as its own memory and the shared pages are; an empty one always is.

        Raises NotCoveredError for one that holds memory of the program itself.
        """
        if not length:
            return True
        ranges = sorted((self._program, self._shared))
        at = address
        for base, end in ranges:
            if base <= at < end:
                at = end
        if address + length > at:
            return False
        if not self._is_known(address, length):
            raise NotCoveredError("memory of the normal world's program")
        return True

    def read(self, address: int, length: int) -> bytes:
        """Bytes of a range; NotCoveredError outside of the extent."""
        if not length:
            return b""
        if not self._is_known(address, length):
            raise NotCoveredError("memory outside of the shared pages")
        offset = address - self.base
        first, last = offset // PAGE * PAGE, (offset + length - 1) // PAGE * PAGE
        parts = [
            bytes(self.pages.get(page, self._start[page : page + PAGE])) for page in range(first, last + PAGE, PAGE)
        ]
        return b"".join(parts)[offset - first : offset - first + length]

    def write(self, address: int, data: bytes) -> None:
        """Write to it; NotCoveredError outside of the extent."""
        if not data:
            return
        if not self._is_known(address, len(data)):
            raise NotCoveredError("memory outside of the shared pages")
        offset = address - self.base
        while data:
            page, at = offset // PAGE * PAGE, offset % PAGE
            part = data[: PAGE - at]
            self._page(page)[at : at + len(part)] = part
            offset, data = offset + len(part), data[len(part) :]

    def word(self, address: int) -> int:
        """The 64-bit word at an address."""
        return int.from_bytes(self.read(address, WORD), "little")

    def put(self, address: int, value: int) -> None:
        """What the normal-world program writes: the aligned word of an address, if it lies in shared pages."""
        address = address & MASK & -WORD
        if self.is_shared(address):
            self.write(address, (value & MASK).to_bytes(WORD, "little"))

    def differences(self, pages: Iterable[tuple[int, bytes]]) -> list[tuple[int, int, int]]:
        """Of pages as they are, given by offset: (address, found, expected) of each word that differs."""
        found = []
        for offset, content in pages:
            expected = bytes(self.pages.get(offset, self._start[offset : offset + PAGE]))
            if content != expected:
                for at in range(0, PAGE, WORD):
                    is_, must = content[at : at + WORD], expected[at : at + WORD]
                    if is_ != must:
                        address = self.base + offset + at
                        found.append((address, int.from_bytes(is_, "little"), int.from_bytes(must, "little")))
        return found


@dataclass(frozen=True)
class Buffer:
    """A client's buffer: contiguous from `address`, or `offset` bytes into pages that are given by their addresses."""

    address: int = 0
    length: int = 0
    offset: int = 0
    pages: tuple[int, ...] | None = None

    def part(self, offset: int, length: int) -> Buffer:
        """`length` bytes of it."""
        return Buffer((self.address + offset) & MASK, length, self.offset + offset, self.pages)

    def _pieces(self, offset: int, length: int) -> Sequence[tuple[int, int]]:
        """(address, bytes) of each piece of a range of it."""
        if self.pages is None:
            return [(self.address + offset, length)] if length else []
        pieces = []
        at = self.offset + offset
        while length:
            now = min(length, PAGE - at % PAGE)
            pieces.append((self.pages[at // PAGE] + at % PAGE, now))
            at, length = at + now, length - now
        return pieces

    def read(self, memory: SharedMemory, offset: int, length: int) -> bytes:
        """Bytes of it; NotCoveredError if they may change meanwhile."""
        pieces = self._pieces(offset, length)
        if memory.watched is not None:
            for address, size in pieces:
                if address < memory.watched + WORD and memory.watched < address + size:
                    raise NotCoveredError("bytes that change while they are read")
        return b"".join(memory.read(address, size) for address, size in pieces)

    def write(self, memory: SharedMemory, offset: int, data: bytes) -> None:
        """Write to it."""
        for address, size in self._pieces(offset, len(data)):
            memory.write(address, data[:size])
            data = data[size:]


def inside(offset: int, length: int, size: int) -> bool:
    """Whether [offset, offset + length) lies in [0, size)."""
    return offset + length <= size
