# SPDX-License-Identifier: BSD-2-Clause
"""What trusted services do with a session's call (guest_images/normal_world/services.yaml lists them).

A service answers with a result of the GlobalPlatform TEE Client API. One that asks the normal world for something
in the middle of a call yields the request, and goes on with what that world resumed it with.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache

from harness.programs.trusted_messages import load_trusted_services
from harness.specification.normal_world.memory import MASK, MASK_32, Buffer, SharedMemory, inside


class Result(IntEnum):
    """Results of the TEE Client API that occur."""

    SUCCESS = 0
    CANCELLED = 0xFFFF0002
    EXCESS_DATA = 0xFFFF0004
    BAD_PARAMETERS = 0xFFFF0006
    ITEM_NOT_FOUND = 0xFFFF0008
    NOT_SUPPORTED = 0xFFFF000A
    OUT_OF_MEMORY = 0xFFFF000C
    BUSY = 0xFFFF000D
    SHORT_BUFFER = 0xFFFF0010


IN, OUT = 1, 2
VALUE, MEMORY = 1, 2
"""Kinds of parameters; 0 is none."""
PARAMETERS = 4
RPC_ALLOCATE, RPC_FREE = 0xFFFF0000, 0xFFFF0002
_LIMIT = MASK_32
_CHUNK = 128
"""Bytes that are copied at a time; only where source and destination overlap does it show."""


@dataclass
class Parameter:
    """A parameter as a service sees it. `size`: of memory, how much was written or would have been."""

    kind: int = 0
    direction: int = 0
    a: int = 0
    b: int = 0
    size: int = 0
    buffer: Buffer = field(default_factory=Buffer)

    def is_(self, kind: int, direction: int) -> bool:
        """Whether it is of that kind and can be used so."""
        return self.kind == kind and self.direction & direction == direction


@dataclass
class Session:
    """An open session. `state`: the counter's count, and its increases."""

    service: str
    interface: str
    client: int
    busy: bool = False
    state: list[int] = field(default_factory=lambda: [0, 0])


@dataclass(frozen=True)
class Resumed:
    """What the normal world resumes a call with: the words of w1-w5, and whether it has cancelled the call."""

    words: tuple[int, ...]
    cancelled: bool = False


Asking = Generator[tuple[int, int, int], Resumed, Result]
"""Yields x0-x2 of what it asks the normal world for."""


@dataclass
class Invocation:
    """One call of a session; `fast` if it cannot ask the normal world for anything."""

    memory: SharedMemory
    session: Session
    command: int
    parameters: list[Parameter]
    fast: bool = False


def opened(session: Session, parameters: list[Parameter]) -> Result:
    """Open a session with its service."""
    if session.service == "counter":
        session.state = [parameters[0].a, 0]
        return Result.BAD_PARAMETERS if parameters[0].kind == MEMORY else Result.SUCCESS
    return Result.SUCCESS


def _arithmetic(call: Invocation) -> Asking:
    given, got = call.parameters[:2]
    if not given.is_(VALUE, IN) or not got.is_(VALUE, OUT):
        return Result.BAD_PARAMETERS
    a, b = given.a, given.b
    if call.command == 0:
        got.a, got.b = a, b
        return Result.SUCCESS
    if call.command == 4:
        if not b:
            return Result.BAD_PARAMETERS
        got.a, got.b = divmod(a, b)
        return Result.SUCCESS
    if call.command not in (1, 2, 3):
        return Result.NOT_SUPPORTED
    value = {1: a + b, 2: a - b, 3: a * b}[call.command] & MASK
    got.a, got.b = value & MASK_32, value >> 32
    return Result.SUCCESS
    yield


def _counter(call: Invocation) -> Asking:
    state, (given, got) = call.session.state, call.parameters[:2]
    if call.command == 0:
        if not given.is_(VALUE, IN):
            return Result.BAD_PARAMETERS
        if given.a > _LIMIT - state[0]:
            return Result.EXCESS_DATA
        state[0] += given.a
        state[1] += 1
    elif call.command == 1:
        if not got.is_(VALUE, OUT):
            return Result.BAD_PARAMETERS
        got.a, got.b = state[0] & MASK_32, state[1] & MASK_32
    elif call.command == 2:
        state[:] = [0, 0]
    else:
        return Result.NOT_SUPPORTED
    return Result.SUCCESS
    yield


def _source(parameters: list[Parameter]) -> tuple[int, int] | None:
    """Offset and length of what of parameter 0 is meant; None if that is not to be had."""
    source, range_ = parameters[0], parameters[2]
    if not source.is_(MEMORY, IN):
        return None
    if not range_.kind:
        return 0, source.buffer.length
    if not range_.is_(VALUE, IN) or not inside(range_.a, range_.b, source.buffer.length):
        return None
    return range_.a, range_.b


def _buffers(call: Invocation) -> Asking:
    parameters, memory = call.parameters, call.memory
    if call.command > 2:
        return Result.NOT_SUPPORTED
    found = _source(parameters)
    if found is None:
        return Result.BAD_PARAMETERS
    (start, length), (source, target, _, place) = found, parameters
    if call.command == 2:
        if not target.is_(VALUE, OUT):
            return Result.BAD_PARAMETERS
        target.a, target.b = zlib.adler32(source.buffer.read(memory, start, length)), length & MASK_32
        return Result.SUCCESS
    if not target.is_(MEMORY, OUT) or (place.kind and not place.is_(VALUE, IN)):
        return Result.BAD_PARAMETERS
    target.size = place.a + length
    if not inside(place.a, length, target.buffer.length):
        return Result.SHORT_BUFFER
    if call.command == 0:
        _copy(memory, source.buffer, start, target.buffer, place.a, length)
        return Result.SUCCESS
    return (yield from _copy_borrowed(call, start, place.a, length))


def _copy(memory: SharedMemory, source: Buffer, start: int, target: Buffer, to: int, length: int) -> None:
    for done in range(0, length, _CHUNK):
        now = min(_CHUNK, length - done)
        target.write(memory, to + done, source.read(memory, start + done, now))


def _copy_borrowed(call: Invocation, start: int, to: int, length: int) -> Asking:
    source, target = (parameter.buffer for parameter in call.parameters[:2])
    if not length:
        return Result.SUCCESS
    if call.fast:
        return Result.NOT_SUPPORTED
    lent = yield RPC_ALLOCATE, length, 0
    address, cookie = lent.words[0] << 32 | lent.words[1], lent.words[3] << 32 | lent.words[4]
    if not address:
        return Result.OUT_OF_MEMORY
    result = Result.SUCCESS
    if not call.memory.is_normal(address, length):
        result = Result.OUT_OF_MEMORY
    elif lent.cancelled:
        result = Result.CANCELLED
    else:
        between = Buffer(address, length)
        _copy(call.memory, source, start, between, 0, length)
        _copy(call.memory, between, 0, target, to, length)
    yield RPC_FREE, cookie >> 32, cookie & MASK_32
    return result


INVOKED: dict[str, Callable[[Invocation], Asking]] = {
    "arithmetic": _arithmetic,
    "counter": _counter,
    "buffers": _buffers,
}
IN_REGISTERS = frozenset({"arithmetic", "counter"})
"""Services that both interfaces offer; the others take messages only."""


@cache
def by_uuid() -> dict[bytes, str]:
    """Names of the services by the sixteen bytes of their UUIDs."""
    return {service.uuid.bytes: service.name for service in load_trusted_services()}
