# SPDX-License-Identifier: BSD-2-Clause
"""Lays the flash image out: firmware, headers, kernel, root task, the normal world's program, and one for the victims.

The firmware executes from flash at its first byte. It copies kernel and root task to where the
header says; the root task goes to the first page behind the kernel, where the kernel expects it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from harness import protocol
from harness.build.cache import publish
from harness.build.firmware import FirmwareBuild
from harness.configs import MachineConfig
from harness.errors import BuildFailure, ImageError, ProgramError
from harness.kernel_state.elf import Elf

BLOCK = 1 << 21
"""Bytes that one entry of the boot tables maps."""
BOOT_TABLE_PAGES = 4
COPY_UNIT = 16
"""The firmware copies and clears this many bytes at a time."""


class HasKernel(Protocol):
    """What is needed of a kernel build."""

    @property
    def elf(self) -> Path:
        """The kernel's ELF file."""


class HasRootTask(Protocol):
    """What is needed of a build of the guests."""

    @property
    def root_task_elf(self) -> Path:
        """The root task's ELF file."""


@dataclass(frozen=True)
class LoadedImage:
    """An ELF file's segments as one piece of memory.

    `contents` are the bytes from `physical` (and `virtual`) on; up to `memory_bytes` the rest is zero.
    """

    contents: bytes
    physical: int
    virtual: int
    memory_bytes: int
    entry: int


def load_image(path: Path) -> LoadedImage:
    """Read an ELF file's loadable segments.

    Raises ImageError if it cannot be read, has none, or its segments do not lie as far apart in
    physical as in virtual memory.
    """
    elf = Elf(path)
    segments = [segment for segment in elf.segments if segment.memory_bytes]
    if not segments:
        raise ImageError(f"{path}: no loadable segment; build it again")
    if len({segment.physical - segment.virtual for segment in segments}) > 1:
        raise ImageError(f"{path}: segments lie differently in physical and in virtual memory; check its linker script")
    physical = min(segment.physical for segment in segments)
    contents = bytearray(max(segment.physical + len(segment.data) for segment in segments) - physical)
    for segment in segments:
        start = segment.physical - physical
        contents[start : start + len(segment.data)] = segment.data
    memory = max(segment.physical + segment.memory_bytes for segment in segments) - physical
    return LoadedImage(bytes(contents), physical, min(segment.virtual for segment in segments), memory, elf.entry)


def build_flash(
    config: MachineConfig,
    kernel: HasKernel,
    guests: HasRootTask,
    firmware: FirmwareBuild,
    *,
    program: bytes = b"",
    normal_world: Path | None = None,
) -> Path:
    """Path of the flash image (for QEMU's -bios), in the cache under a name made from its content.

    `normal_world` is the ELF file of that world's program, where the config has one.
    With a `program` (records as `harness.programs` encodes them) the firmware runs it by itself
    when the snapshot is reached, and shows on its console how it ended. Raises BuildFailure if the
    images do not fit, ImageError for a file that is no ELF file, ProgramError for a program that is
    too long.
    """
    image = flash_bytes(
        config,
        load_image(kernel.elf),
        load_image(guests.root_task_elf),
        firmware.binary.read_bytes(),
        program,
        None if normal_world is None else load_image(normal_world),
    )
    key = hashlib.sha256(image).hexdigest()
    return publish(f"flash-{key[:32]}", lambda work: _write(work, image)) / "flash.bin"


def flash_bytes(
    config: MachineConfig,
    kernel: LoadedImage,
    root_task: LoadedImage,
    firmware: bytes,
    program: bytes,
    normal_world: LoadedImage | None = None,
) -> bytes:
    """The image's bytes; see `build_flash`."""
    calls = len(program) // protocol.CALL_BYTES
    if calls > protocol.MAXIMUM_CALLS:
        raise ProgramError(f"the program has {calls} calls, the flash image holds {protocol.MAXIMUM_CALLS}; shorten it")
    if root_task.virtual % protocol.PAGE:
        raise BuildFailure(f"the root task begins at {root_task.virtual:#x}, not on a page; check its linker script")
    destination = _up(kernel.physical + kernel.memory_bytes, protocol.PAGE)
    root_task_bytes = _up(root_task.memory_bytes, protocol.PAGE)
    ram = config.secure_ram
    boot_tables = ram.end - BOOT_TABLE_PAGES * protocol.PAGE
    if not ram.covers(kernel.physical) or destination + root_task_bytes > boot_tables:
        raise BuildFailure(
            f"kernel and root task need {kernel.physical:#x} to {destination + root_task_bytes:#x}, "
            f"but secure RAM '{ram.name}' of config '{config.name}' offers {ram.base:#x} to {boot_tables:#x}"
        )
    if kernel.physical % BLOCK or kernel.virtual % BLOCK:
        raise BuildFailure(f"the kernel begins at {kernel.physical:#x}, not on a {BLOCK:#x} byte block")

    image = bytearray(firmware)

    def append(contents: bytes) -> int:
        """Put contents on the next page of the image; its offset."""
        offset = _up(len(image), protocol.PAGE)
        image.extend(bytes(offset - len(image)) + contents)
        return offset

    header = np.zeros((), protocol.FLASH_HEADER)
    header["kernel"] = _entry(append(kernel.contents), kernel.physical, kernel)
    header["root_task"] = _entry(append(root_task.contents), destination, root_task)
    header["kernel_entry"] = kernel.entry
    header["kernel_virtual_base"] = kernel.virtual
    header["kernel_physical_base"] = kernel.physical
    header["kernel_map_bytes"] = _up(kernel.memory_bytes, BLOCK)
    header["boot_tables"] = boot_tables
    offset_to_virtual = (destination - root_task.virtual) % (1 << 64)
    header["boot_arguments"] = (destination, destination + root_task_bytes, offset_to_virtual, root_task.entry)
    if calls:
        header["program"] = append(program[: calls * protocol.CALL_BYTES])
        header["program_calls"] = calls
    if config.normal_world is not None:
        if normal_world is None:
            raise BuildFailure(f"config '{config.name}' has a normal world, but no program for it was built")
        memory = config.normal_world.memory
        end = normal_world.physical + normal_world.memory_bytes
        if normal_world.physical < memory.base or end > memory.end:
            raise BuildFailure(
                f"the normal world's program needs {normal_world.physical:#x} to {end:#x}, "
                f"but its memory in config '{config.name}' is {memory.base:#x} to {memory.end:#x}"
            )
        second = np.zeros((), protocol.NORMAL_HEADER)
        second["image"] = _entry(append(normal_world.contents), normal_world.physical, normal_world)
        second["entry"] = normal_world.entry
        start = protocol.NORMAL_HEADER_OFFSET
        image[start : start + second.nbytes] = second.tobytes()
    append(b"")
    start = protocol.FLASH_HEADER_OFFSET
    image[start : start + header.nbytes] = header.tobytes()
    limit = config.region("flash").size
    if len(image) > limit:
        raise BuildFailure(f"the flash image has {len(image)} bytes, the machine's flash {limit}")
    return bytes(image)


def _entry(source: int, destination: int, image: LoadedImage) -> tuple[int, int, int, int]:
    """An image's entry in the header: where it is, where it goes, bytes to copy, bytes of memory."""
    return source, destination, _up(len(image.contents), COPY_UNIT), _up(image.memory_bytes, COPY_UNIT)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _write(directory: Path, image: bytes) -> None:
    (directory / "flash.bin").write_bytes(image)
