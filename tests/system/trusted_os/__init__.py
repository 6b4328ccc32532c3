# SPDX-License-Identifier: BSD-2-Clause
"""A normal world for tests of the trusted OS: a list of steps, performed before the snapshot.

Numbers and layouts are those of OP-TEE's public protocol, the SMC calling convention and GICv2, written
down here once more so that the tests do not believe the code they test.
"""

from __future__ import annotations

import dataclasses
import struct
import subprocess
import types
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.build.artefacts import Artefacts
from harness.build.firmware import FirmwareBuild
from harness.build.flash import build_flash
from harness.execution.executor import Executor
from harness.kernel_state.elf import Elf
from harness.packages import tool

HERE = Path(__file__).parent
STEP_WORDS, RESULT_WORDS = 9, 8
CALL, LOAD, STORE, BYTES, TIMED_COPIES = range(5)

MEMORY, SHARED, SHARED_END = 0x4040_0000, 0x4060_0000, 0x4064_0000
PAGE = 0x1000
NOT_SUPPORTED = (1 << 64) - 1

CALL_WITH_ARG, RETURN_FROM_RPC = 0x3200_0004, 0x3200_0003
OK, THREAD_LIMIT, IS_BUSY, BAD_RESUME, BAD_ADDRESS, BAD_COMMAND, NOT_AVAILABLE = 0, 1, 2, 3, 4, 5, 7
RPC_ALLOCATE, RPC_FREE, RPC_FOREIGN_INTERRUPT = 0xFFFF_0000, 0xFFFF_0002, 0xFFFF_0004
OPEN, INVOKE, CLOSE, CANCEL, REGISTER, UNREGISTER = range(6)

SUCCESS, CANCELLED, EXCESS_DATA, BAD_PARAMETERS = 0, 0xFFFF_0002, 0xFFFF_0004, 0xFFFF_0006
ITEM_NOT_FOUND, NOT_IMPLEMENTED, OUT_OF_MEMORY, BUSY = 0xFFFF_0008, 0xFFFF_000A, 0xFFFF_000C, 0xFFFF_000D
SHORT_BUFFER = 0xFFFF_0010
TEE, SERVICE = 3, 4
"""Origins of a result."""

ARITHMETIC = uuid.UUID("d7375907-1e77-48d7-9e73-a7be32731a25")
COUNTER = uuid.UUID("b4809315-68d8-4e93-97d1-ec932f302761")
BUFFERS = uuid.UUID("62b1f1de-0a5c-4c1d-8a53-6f1b8f0d2c74")

IN, OUT, INOUT = 1, 2, 3
META, PAGE_LIST = 1 << 8, 1 << 9
Parameter = tuple[int, int, int, int]
"""Attributes and three words, as a message has them."""


def value(direction: int, a: int = 0, b: int = 0, c: int = 0) -> Parameter:
    """A value parameter."""
    return direction, a, b, c


def registered(direction: int, cookie: int, offset: int, size: int) -> Parameter:
    """Part of registered memory."""
    return 4 + direction, offset, size, cookie


def temporary(direction: int, address: int, size: int, cookie: int = 0, flags: int = 0) -> Parameter:
    """Memory that is only known to this message; with PAGE_LIST the address is that of its list."""
    return 8 + direction | flags, address, size, cookie


@dataclass
class Script:
    """Steps of the normal world. Methods return a step's number, by which its result is found."""

    steps: list[tuple[int, ...]] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    next_message: int = SHARED

    def _step(self, kind: int, *words: int) -> int:
        self.steps.append((kind, *(word % (1 << 64) for word in words)))
        return len(self.steps) - 1

    def call(self, function: int, *arguments: int, client: int = 0) -> int:
        """An SMC; all eight registers are its result."""
        return self._step(CALL, function, *arguments, *[0] * (6 - len(arguments)), client)

    def load(self, address: int, width: int = 8) -> int:
        """The result's first word is what was there."""
        return self._step(LOAD, address, width)

    def store(self, address: int, word: int) -> None:
        """Store 32 bits."""
        self._step(STORE, address, word)

    def write(self, address: int, data: bytes) -> None:
        """Put bytes into memory."""
        self._step(BYTES, address, len(data), len(self.data))
        self.data += data

    def timed_copies(self, message: int, ticks: int, count: int, destination: int, length: int, gicc: int) -> int:
        """Interrupted calls (guest.c says what they do and what the result is)."""
        return self._step(TIMED_COPIES, message, ticks, count, destination, length, gicc)

    def put(
        self, command: int, parameters: Sequence[Parameter] = (), *, at: int, function: int = 0, session: int = 0,
        cancel_id: int = 0, count: int | None = None,
    ) -> None:  # fmt: skip
        """Put a message somewhere; `count` is what it says to have as parameters, if not the truth."""
        header = (command, function, session, cancel_id, 0, 0xDEAD, 0xDEAD, len(parameters) if count is None else count)
        self.write(at, struct.pack("<8I", *header) + b"".join(struct.pack("<4Q", *p) for p in parameters))

    def send(
        self, command: int, parameters: Sequence[Parameter] = (), *, client: int = 0, at: int | None = None,
        function: int = 0, session: int = 0, cancel_id: int = 0,
    ) -> Sent:  # fmt: skip
        """A call with a message, of its own 512 bytes from the start of the shared pages on."""
        if at is None:
            at = self.next_message
            self.next_message += 512
        self.put(command, parameters, at=at, function=function, session=session, cancel_id=cancel_id)
        return Sent(self.call(CALL_WITH_ARG, at >> 32, at & 0xFFFF_FFFF, client=client), at)

    def open(self, service: uuid.UUID, parameters: Iterable[Parameter] = (), *, client: int = 0) -> Sent:
        """Open a session."""
        identity = value(META | IN, *struct.unpack("<QQ", service.bytes))
        return self.send(OPEN, [identity, value(META | IN), *parameters], client=client)

    def invoke(
        self, session: int, function: int, parameters: Sequence[Parameter] = (), *, client: int = 0, cancel_id: int = 0
    ) -> Sent:
        """Invoke a command in a session."""
        return self.send(INVOKE, parameters, client=client, function=function, session=session, cancel_id=cancel_id)

    def resume(self, thread: int, *, memory: int = 0, cookie: int = 0, client: int = 0) -> int:
        """Return from an RPC."""
        low = 0xFFFF_FFFF
        return self.call(RETURN_FROM_RPC, memory >> 32, memory & low, thread, cookie >> 32, cookie & low, client=client)


@dataclass(frozen=True)
class Sent:
    """A call with a message: the step's number, and where the message is."""

    step: int
    message: int


@dataclass(frozen=True)
class Performed:
    """What became of a script."""

    results: list[list[int]]
    memory: bytes
    """The normal world's memory and the shared pages behind it, from MEMORY on, at the end."""

    def bytes(self, address: int, length: int) -> bytes:
        """Memory at the end."""
        return self.memory[address - MEMORY : address - MEMORY + length]

    def returned(self, step: int | Sent) -> int:
        """What a call returned in x0."""
        return self.results[step.step if isinstance(step, Sent) else step][0]

    def result(self, sent: Sent) -> tuple[int, int]:
        """Result and origin in a message whose call returned OK."""
        assert self.returned(sent) == OK
        result, origin = struct.unpack("<II", self.bytes(sent.message + 20, 8))
        return result, origin

    def session(self, sent: Sent) -> int:
        """The session that a message has opened."""
        return int.from_bytes(self.bytes(sent.message + 8, 4), "little")

    def parameter(self, sent: Sent, index: int) -> Parameter:
        """A parameter as the message has it now."""
        attributes, *words = struct.unpack("<4Q", self.bytes(sent.message + 32 + 32 * index, 32))
        return attributes, *words


def perform(artefacts: Artefacts, script: Script, directory: Path) -> Performed:
    """Boot with a normal world that performs a script; its results once the machine has parked."""
    elf = _build(script, directory)
    firmware = FirmwareBuild(artefacts.firmware_elf, artefacts.firmware_elf.with_suffix(".bin"), "")
    kernel = types.SimpleNamespace(elf=artefacts.kernel_elf)
    guests = types.SimpleNamespace(root_task_elf=artefacts.root_task_elf)
    flash = build_flash(artefacts.config, kernel, guests, firmware, normal_world=elf)
    address = Elf(elf).symbols["results"].address
    with Executor(dataclasses.replace(artefacts, flash=flash, normal_world_elf=elf)) as executor:
        memory = bytes(executor.memory.read(MEMORY, SHARED_END - MEMORY))
        count = len(script.steps)
        words = np.frombuffer(memory, "<u8", count * RESULT_WORDS, address - MEMORY)
        return Performed([list(map(int, row)) for row in words.reshape(count, RESULT_WORDS)], memory)


def _build(script: Script, directory: Path) -> Path:
    steps = b"".join(struct.pack(f"<{STEP_WORDS}Q", *step, *[0] * (STEP_WORDS - len(step))) for step in script.steps)
    (directory / "steps.bin").write_bytes(steps)
    (directory / "data.bin").write_bytes(bytes(script.data))
    compiler = tool("aarch64-linux-gnu-gcc")
    flags = ["-O2", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-mgeneral-regs-only", "-mstrict-align"]
    flags += ["-Wall", "-Wextra", "-Werror", "-nostdlib", "-static", "-no-pie", "-Wl,--no-warn-rwx-segments"]
    output = directory / "guest.elf"
    sources = [HERE / "guest.c", HERE / "entry.S"]
    options = [
        f"-Wa,-I{directory}",
        "-Wl,--build-id=none",
        f"-Wl,--defsym=GUEST_BASE={MEMORY:#x}",
        "-T",
        str(HERE / "guest.lds"),
        "-o",
        str(output),
    ]
    subprocess.run([compiler, *flags, *options, *map(str, sources)], check=True)
    return output
