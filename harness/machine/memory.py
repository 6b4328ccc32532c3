# SPDX-License-Identifier: BSD-2-Clause
"""The guest's RAM, shared with QEMU, and images of it.

Shared memory has no name in any file system: it is gone with the last process that has it,
however that process ends.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.configs import MachineConfig
from harness.errors import ImageError
from harness.protocol import PAGE

Bytes = npt.NDArray[np.uint8]

GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK"
"""What files of images begin with: compressed, and not."""
MAXIMUM_IMAGE = 1 << 30
"""Bytes of an image that is unpacked; a compressed file can claim any number."""
_CHUNK = 2 << 20
_FALLOC_PUNCH_HOLE = 2 | 1
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE of linux/falloc.h."""

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


class SharedMemory:
    """`size` bytes of anonymous memory with a descriptor that a child process can inherit."""

    def __init__(self, name: str, size: int) -> None:
        self.size = size
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size, flags=mmap.MAP_SHARED)
        self.bytes: Bytes = np.frombuffer(self.map, np.uint8)

    @property
    def address(self) -> int:
        """Address of the first byte in this process."""
        return int(self.bytes.ctypes.data)

    def clear(self) -> None:
        """Make all bytes zero and give their memory back."""
        os.ftruncate(self.fd, 0)
        os.ftruncate(self.fd, self.size)

    def extents(self) -> Iterator[tuple[int, int]]:
        """Offsets `[start, end)` of the parts for which memory is allocated; all else reads as zeros."""
        offset = 0
        while offset < self.size:
            try:
                start = os.lseek(self.fd, offset, os.SEEK_DATA)
            except OSError:
                return
            offset = os.lseek(self.fd, start, os.SEEK_HOLE)
            yield start, offset

    def release_zeros(self) -> None:
        """Give the memory of pages that hold only zeros back; what is read stays the same."""
        for start, end in self.extents():
            for at in range(start, end, _CHUNK):
                stop = min(at + _CHUNK, end)
                used = _used_pages(self.bytes[at:stop])
                for first, last in _runs(np.flatnonzero(~used)):
                    _fallocate(self.fd, _FALLOC_PUNCH_HOLE, at + first * PAGE, (last - first) * PAGE)

    def close(self) -> None:
        """Release descriptor and, as soon as no view of it is left, the mapping."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _used_pages(data: Bytes) -> npt.NDArray[np.bool_]:
    """Which pages of some whole pages hold anything but zeros."""
    return np.asarray(data.view(np.uint64).reshape(-1, PAGE // 8).any(axis=1), np.bool_)


def _runs(indices: npt.NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Ranges `[first, last)` of consecutive numbers in an ascending array."""
    if len(indices):
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        for run in np.split(indices, breaks):
            yield int(run[0]), int(run[-1]) + 1


@dataclass(frozen=True)
class Bank:
    """One contiguous RAM of the machine: its name, physical base address and size in bytes."""

    name: str
    base: int
    size: int

    @property
    def end(self) -> int:
        """First physical address behind it."""
        return self.base + self.size


def banks(config: MachineConfig) -> tuple[Bank, Bank]:
    """Secure and normal RAM as QEMU has them: the config's regions of RAM, joined."""
    secure, normal = config.secure_ram, config.firmware_ram
    joined = Bank("secure", min(secure.base, normal.base), max(secure.end, normal.end) - min(secure.base, normal.base))
    base = min(r.base for r in config.regions if r.kind == "ram" and r.world == "non-secure")
    return joined, Bank("normal", base, config.qemu.memory_mib << 20)


class MachineMemory:
    """Live RAM of both worlds by physical address; what is written is seen by the guest at once."""

    def __init__(self, config: MachineConfig) -> None:
        self.secure_bank, self.normal_bank = banks(config)
        self.secure = SharedMemory("secure-ram", self.secure_bank.size)
        self.normal = SharedMemory("normal-ram", self.normal_bank.size)
        self.written = False
        """Set by write(): the next restore must compare again."""

    def view(self, address: int, size: int) -> Bytes:
        """Array over live memory at a physical address.

        Raises ImageError where there is no RAM.
        """
        for bank, shared in ((self.secure_bank, self.secure), (self.normal_bank, self.normal)):
            offset = address - bank.base
            if offset >= 0 and offset + size <= bank.size:
                return shared.bytes[offset : offset + size]
        raise ImageError(f"no RAM at [{address:#x}, {address + size:#x})")

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at a physical address; raises ImageError where there is no RAM."""
        return self.view(address, size).tobytes()

    def write(self, address: int, data: bytes) -> None:
        """Write bytes at a physical address; raises ImageError where there is no RAM."""
        self.view(address, len(data))[:] = np.frombuffer(data, np.uint8)
        self.written = True

    def image(self) -> Image:
        """Copy of all RAM as it is now; pages of zeros take no space."""
        self.normal.release_zeros()
        parts: dict[int, Bytes] = {self.secure_bank.base: self.secure.bytes.copy()}
        base = self.normal_bank.base
        for start, end in self.normal.extents():
            parts[base + start] = self.normal.bytes[start:end].copy()
        return Image((self.secure_bank, self.normal_bank), parts)

    def clear(self) -> None:
        """Make all RAM zero, for a new machine."""
        self.secure.clear()
        self.normal.clear()
        self.written = False

    def close(self) -> None:
        """Release the memory."""
        self.secure.close()
        self.normal.close()


class Image:
    """A copy of RAM: secure RAM as a whole, normal RAM as its parts that are not zero."""

    def __init__(self, image_banks: tuple[Bank, ...], parts: dict[int, Bytes]) -> None:
        self.banks = image_banks
        self.parts = dict(sorted(parts.items()))
        """Contents by physical base address; they do not overlap and do not cross banks."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at a physical address; raises ImageError where there is no RAM."""
        return self.view(address, size).tobytes()

    def view(self, address: int, size: int) -> Bytes:
        """Array with `size` bytes at a physical address: read-only, or a copy if not stored in one part.

        Raises ImageError where there is no RAM.
        """
        if not any(bank.base <= address and address + size <= bank.end for bank in self.banks):
            raise ImageError(f"no RAM at [{address:#x}, {address + size:#x})")
        result: Bytes | None = None
        for base, part in self.parts.items():
            start, end = max(base, address), min(base + len(part), address + size)
            if start >= end:
                continue
            if end - start == size:
                whole = part[start - base : end - base]
                whole.flags.writeable = False
                return whole
            if result is None:
                result = np.zeros(size, np.uint8)
            result[start - address : end - address] = part[start - base : end - base]
        return np.zeros(size, np.uint8) if result is None else result

    def to_bytes(self) -> bytes:
        """The image as one string for a file: numpy's archive format, not compressed."""
        names = np.array([bank.name for bank in self.banks])
        arrays: dict[str, Any] = {f"part_{base:x}": part for base, part in self.parts.items()}
        output = io.BytesIO()
        table = np.array([(bank.base, bank.size) for bank in self.banks], np.uint64)
        np.savez(output, bank_names=names, bank_table=table, **arrays)
        return output.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Image:
        """The image that to_bytes() wrote.

        Raises ImageError for anything else.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                # Its parts are stored as they are: one that claims more than there is comes from elsewhere.
                if sum(info.file_size for info in archive.zip.infolist()) > len(data):
                    raise ImageError("its parts are larger than the file")
                table = zip(archive["bank_names"], archive["bank_table"], strict=True)
                image_banks = tuple(Bank(str(name), int(row[0]), int(row[1])) for name, row in table)
                parts = {
                    int(name.removeprefix("part_"), 16): archive[name].view(np.uint8)
                    for name in archive.files
                    if name.startswith("part_")
                }
        except Exception as error:
            # A damaged archive can raise nearly anything: zipfile, zlib and numpy each have errors of their own.
            first = str(error).split("\n", 1)[0][:200]
            raise ImageError(f"not a memory image: {first or type(error).__name__}") from error
        for base, part in parts.items():
            if part.ndim != 1 or not any(b.base <= base and base + len(part) <= b.end for b in image_banks):
                raise ImageError(f"not a memory image: its part at {base:#x} lies outside of its RAM")
        return cls(image_banks, parts)

    @classmethod
    def from_file(cls, path: Path) -> Image:
        """Read an image from a file, compressed or not; raises ImageError naming it."""
        try:
            data = path.read_bytes()
            return cls.from_bytes(_decompressed(data) if data.startswith(GZIP_MAGIC) else data)
        except FileNotFoundError as error:
            raise ImageError(f"{path}: there is no such file") from error
        except (OSError, ImageError) as error:
            raise ImageError(f"{path}: {error}") from error


def _decompressed(data: bytes) -> bytes:
    """What gzip compressed; raises ImageError for anything else, and for more than MAXIMUM_IMAGE bytes."""
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        content = stream.decompress(data, MAXIMUM_IMAGE)
    except zlib.error as error:
        raise ImageError(f"damaged: {error}") from error
    if stream.unconsumed_tail:
        raise ImageError(f"more than {MAXIMUM_IMAGE >> 20} MiB once unpacked")
    if not stream.eof:
        raise ImageError("truncated: it ends before its content does")
    return content
