# SPDX-License-Identifier: BSD-2-Clause
"""What becomes of a message to the Trusted OS, by OP-TEE's public protocol.

A message is read once and served from what was read; outputs are the result and its origin, the number of a session
that was opened, and values and sizes of the output parameters if the service was asked.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.programs.trusted_messages import MESSAGE, META, NONCONTIGUOUS, PARAMETER, Command
from harness.protocol import PAGE
from harness.specification.normal_world.memory import MASK_32, WORD, Buffer, SharedMemory, inside
from harness.specification.normal_world.services import (
    IN,
    INVOKED,
    MEMORY,
    OUT,
    PARAMETERS,
    VALUE,
    Invocation,
    Parameter,
    Result,
    Resumed,
)
from harness.specification.normal_world.trusted_os import (
    BAD_RESUME,
    MESSAGES,
    OK,
    ORIGIN_SERVICE,
    ORIGIN_TEE,
    THREAD_LIMIT,
    Answers,
    Caller,
    Registered,
    Serving,
    Thread,
    TrustedOS,
)

BAD_ADDRESS, BAD_COMMAND = 4, 5
HEADER, ENTRY = MESSAGE.itemsize, PARAMETER.itemsize
_MAXIMUM = 127
_SERVED = PARAMETERS + 2
_KNOWN = 0xFF | NONCONTIGUOUS | 7 << 16
_VALUE, _REGISTERED, _TEMPORARY = range(3)
_LISTED_PAGES = 64
"""Pages that memory can have that is given as a list."""
_FIELDS = {name: int(entry[1]) for name, entry in (MESSAGE.fields or {}).items()}


Invoking = Generator[tuple[int, int, int], Resumed, tuple[Result, int]]


@dataclass
class Message:
    """A message as it was read. `first`: of its parameters that are the service's."""

    address: int
    header: dict[str, int]
    raw: list[tuple[int, int, int, int]]
    first: int = 0
    parameters: list[Parameter] = field(default_factory=list)
    used: list[Registered] = field(default_factory=list)


def _read(memory: SharedMemory, address: int) -> Message | None:
    if address % WORD or not memory.is_normal(address, HEADER):
        return None
    entry = np.frombuffer(memory.read(address, HEADER), MESSAGE)[0]
    header = {name: int(entry[name]) for name in _FIELDS}
    count = header["parameters"]
    if count > _MAXIMUM or not memory.is_normal(address + HEADER, count * ENTRY):
        return None
    raw = []
    if count <= _SERVED:
        data = np.frombuffer(memory.read(address + HEADER, count * ENTRY), np.uint64).reshape(-1, 4)
        raw = [(int(row[0]), int(row[1]), int(row[2]), int(row[3])) for row in data]
    return Message(address, header, raw)


def call(system: TrustedOS, client: int, w: Sequence[int]) -> Answers:
    """x0-x3 after CALL_WITH_ARG with the arguments w1-w6."""
    if None not in system.threads:
        return (THREAD_LIMIT, *w[:3])
    number = system.threads.index(None)
    thread = Thread(client, _serve(system, client, tuple(w), number))
    system.threads[number] = thread
    return _run(system, number, None)


def resume(system: TrustedOS, client: int, w: Sequence[int]) -> Answers:
    """x0-x3 after RETURN_FROM_RPC."""
    number = w[2]
    thread = system.threads[number] if number < len(system.threads) else None
    if thread is None or thread.client != client:
        return (BAD_RESUME, *w[:3])
    return _run(system, number, Resumed(tuple(w), thread.cancelled))


def _run(system: TrustedOS, number: int, resumed: Resumed | None) -> Answers:
    thread = system.threads[number]
    assert thread is not None
    try:
        asked = next(thread.serving) if resumed is None else thread.serving.send(resumed)
    except StopIteration as end:
        system.threads[number] = None
        answers: Answers = end.value
        return answers
    return (*asked, number)


def _serve(system: TrustedOS, client: int, w: tuple[int, ...], number: int) -> Serving:
    memory, caller = system.memory, Caller(MESSAGES, client)
    message = _read(memory, w[0] << 32 | w[1])
    if message is None:
        return (BAD_ADDRESS, *w[:3])
    header = message.header
    origin = ORIGIN_TEE
    match header["command"]:
        case Command.OPEN_SESSION:
            result, origin = _open(system, message, caller)
        case Command.INVOKE_COMMAND:
            result, origin = yield from _invoke(system, message, caller, number)
        case Command.CLOSE_SESSION:
            bad = bool(header["parameters"])
            result = Result.BAD_PARAMETERS if bad else system.close(caller, header["session"])
        case Command.CANCEL:
            result = _cancel(system, message, caller)
        case Command.REGISTER_SHM:
            result = _register(system, message, client)
        case Command.UNREGISTER_SHM:
            result = _unregister(system, message, client)
        case _:
            return (BAD_COMMAND, *w[:3])
    _write(memory, message, "result", result)
    _write(memory, message, "origin", origin)
    return OK, 0, 0, 0


def _write(memory: SharedMemory, message: Message, name: str, value: int) -> None:
    memory.write(message.address + _FIELDS[name], int(value).to_bytes(4, "little"))


def _open(system: TrustedOS, message: Message, caller: Caller) -> tuple[Result, int]:
    message.first = 2
    count = message.header["parameters"]
    if not 2 <= count <= _SERVED or any(entry[0] != META | IN for entry in message.raw[:2]):
        return Result.BAD_PARAMETERS, ORIGIN_TEE
    result = _take(system, message, caller.client)
    if result is not Result.SUCCESS:
        return result, ORIGIN_TEE
    uuid = message.raw[0][1].to_bytes(8, "little") + message.raw[0][2].to_bytes(8, "little")
    result, origin, number = system.open(caller, uuid, message.parameters)
    if result is Result.SUCCESS:
        _write(system.memory, message, "session", number)
    _give_back(system.memory, message, asked=origin == ORIGIN_SERVICE)
    return result, origin


def _invoke(system: TrustedOS, message: Message, caller: Caller, number: int) -> Invoking:
    result = _take(system, message, caller.client)
    if result is not Result.SUCCESS:
        return result, ORIGIN_TEE
    session = system.find_session(caller, message.header["session"])
    origin = ORIGIN_TEE
    if session is None:
        result = Result.BAD_PARAMETERS
    elif session.busy:
        result = Result.BUSY
    else:
        origin, session.busy = ORIGIN_SERVICE, True
        thread = system.threads[number]
        assert thread is not None
        thread.session, thread.cancel_id = message.header["session"], message.header["cancel_id"]
        thread.invoking = True
        invocation = Invocation(system.memory, session, message.header["function"], message.parameters)
        result = yield from INVOKED[session.service](invocation)
        session.busy = False
    _give_back(system.memory, message, asked=origin == ORIGIN_SERVICE)
    return result, origin


def _cancel(system: TrustedOS, message: Message, caller: Caller) -> Result:
    number, identifier = message.header["session"], message.header["cancel_id"]
    if message.header["parameters"] or system.find_session(caller, number) is None:
        return Result.BAD_PARAMETERS
    for thread in system.threads:
        if thread is not None and thread.client == caller.client and thread.invoking:
            thread.cancelled |= (thread.session, thread.cancel_id) == (number, identifier)
    return Result.SUCCESS


def _register(system: TrustedOS, message: Message, client: int) -> Result:
    if message.header["parameters"] != 1:
        return Result.BAD_PARAMETERS
    attributes, address, length, cookie = message.raw[0]
    if attributes & ~_KNOWN or attributes >> 2 & 63 != _TEMPORARY or not attributes & 3:
        return Result.BAD_PARAMETERS
    listed = attributes & NONCONTIGUOUS
    if not listed and (not length or not system.memory.is_normal(address, length)):
        return Result.BAD_PARAMETERS
    if system.find_memory(client, cookie) is not None:
        return Result.BAD_PARAMETERS
    if None not in system.registered:
        return Result.OUT_OF_MEMORY
    buffer: Buffer | Result = Buffer(address, length)
    if listed:
        buffer = _listed(system.memory, address, length)
    if isinstance(buffer, Result):
        return buffer
    system.registered[system.registered.index(None)] = Registered(client, cookie, buffer)
    return Result.SUCCESS


def _unregister(system: TrustedOS, message: Message, client: int) -> Result:
    if message.header["parameters"] != 1 or message.raw[0][0] >> 2 & 63 != _REGISTERED:
        return Result.BAD_PARAMETERS
    found = system.find_memory(client, message.raw[0][3])
    if found is None:
        return Result.ITEM_NOT_FOUND
    if found.references:
        return Result.BUSY
    system.registered[system.registered.index(found)] = None
    return Result.SUCCESS


def _listed(memory: SharedMemory, address: int, length: int) -> Buffer | Result:
    """Memory whose pages are listed at a place; where in the first one it begins say the address's lowest bits."""
    offset = address % PAGE
    address -= offset
    if not length:
        return Result.BAD_PARAMETERS
    if not inside(offset, length, _LISTED_PAGES * PAGE):
        return Result.OUT_OF_MEMORY
    count = -(-(offset + length) // PAGE)
    if not memory.is_normal(address, count * WORD):
        return Result.BAD_PARAMETERS
    pages = tuple(memory.word(address + WORD * number) for number in range(count))
    for page in pages:
        if page % PAGE or not memory.is_normal(page, PAGE):
            return Result.BAD_PARAMETERS
    return Buffer(0, length, offset, pages)


def _take(system: TrustedOS, message: Message, client: int) -> Result:
    """The parameters that are the service's."""
    message.parameters = [Parameter() for _ in range(PARAMETERS)]
    if message.header["parameters"] > message.first + PARAMETERS:
        return Result.BAD_PARAMETERS
    for place, raw in enumerate(message.raw[message.first :]):
        result = _parameter(system, message, message.parameters[place], raw, client)
        if result is not Result.SUCCESS:
            _release(message)
            return result
    return Result.SUCCESS


def _parameter(
    system: TrustedOS, message: Message, parameter: Parameter, raw: tuple[int, int, int, int], client: int
) -> Result:
    attributes, a, b, c = raw
    kind, listed = attributes >> 2 & 63, attributes & NONCONTIGUOUS
    parameter.direction = attributes & 3
    if attributes & ~_KNOWN or kind > _TEMPORARY or (listed and kind != _TEMPORARY):
        return Result.BAD_PARAMETERS
    if not parameter.direction:
        return Result.SUCCESS if kind == _VALUE else Result.BAD_PARAMETERS
    if kind == _VALUE:
        parameter.kind = VALUE
        if parameter.direction & IN:
            parameter.a, parameter.b = a & MASK_32, b & MASK_32
        return Result.SUCCESS
    parameter.kind = MEMORY
    if kind == _REGISTERED:
        if c or b:
            found = system.find_memory(client, c)
            if found is None or not inside(a, b, found.buffer.length):
                return Result.BAD_PARAMETERS
            parameter.buffer = found.buffer.part(a, b)
            found.references += 1
            message.used.append(found)
    elif a:
        if listed:
            made = _listed(system.memory, a, b)
            if isinstance(made, Result):
                return made
            parameter.buffer = made
        elif system.memory.is_normal(a, b):
            parameter.buffer = Buffer(a, b)
        else:
            return Result.BAD_PARAMETERS
    parameter.size = parameter.buffer.length
    return Result.SUCCESS


def _release(message: Message) -> None:
    for item in message.used:
        item.references -= 1
    message.used.clear()


def _give_back(memory: SharedMemory, message: Message, *, asked: bool) -> None:
    """Ends the use of the buffers, and writes values and sizes if the service was asked."""
    _release(message)
    if not asked:
        return
    for place in range(message.first, message.header["parameters"]):
        parameter = message.parameters[place - message.first]
        if not parameter.direction & OUT:
            continue
        at = message.address + HEADER + place * ENTRY + WORD
        if parameter.kind == VALUE:
            memory.write(at, parameter.a.to_bytes(8, "little") + parameter.b.to_bytes(8, "little"))
        else:
            memory.write(at + WORD, parameter.size.to_bytes(8, "little"))
