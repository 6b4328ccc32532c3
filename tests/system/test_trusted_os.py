# SPDX-License-Identifier: BSD-2-Clause
"""The trusted OS on the real machine: who it says it is, sessions, services."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

from harness.build.artefacts import Artefacts
from tests.system.trusted_os import (
    ARITHMETIC,
    BAD_ADDRESS,
    BAD_COMMAND,
    BAD_PARAMETERS,
    BUFFERS,
    CALL_WITH_ARG,
    CANCEL,
    CLOSE,
    COUNTER,
    EXCESS_DATA,
    IN,
    INOUT,
    INVOKE,
    ITEM_NOT_FOUND,
    MEMORY,
    META,
    NOT_AVAILABLE,
    NOT_IMPLEMENTED,
    NOT_SUPPORTED,
    OK,
    OPEN,
    OUT,
    OUT_OF_MEMORY,
    PAGE,
    SERVICE,
    SHARED,
    SHARED_END,
    SUCCESS,
    TEE,
    Script,
    Sent,
    perform,
    value,
)  # fmt: skip

DIRECT_OPEN, DIRECT_INVOKE, DIRECT_CLOSE = 0xB0000001, 0xB0000002, 0xB0000003


def registers(identity: uuid.UUID) -> tuple[int, ...]:
    """A UUID as four registers."""
    return struct.unpack(">4I", identity.bytes)


def test_what_the_trusted_os_says_about_itself(two_worlds: Artefacts, tmp_path: Path) -> None:
    script = Script()
    uid, revision, os_uuid = (script.call(function) for function in (0xBF00FF01, 0xBF00FF03, 0xB2000000))
    capabilities, refused = script.call(0xB2000009, 1), script.call(0xB2000009, 2)
    memory, disable, enable = (script.call(function) for function in (0xB2000007, 0xB200000A, 0xB200000B))
    threads = script.call(0xB200000F)
    performed = perform(two_worlds, script, tmp_path)
    assert performed.results[uid][:4] == [0x384FB3E0, 0xE7F811E3, 0xAF630002, 0xA5D5C51B]
    assert performed.results[revision][:2] == [2, 0]
    assert performed.results[os_uuid][:4] != performed.results[uid][:4]
    assert performed.results[capabilities][:3] == [OK, 0b10111, 0]
    assert performed.results[refused][:2] == [NOT_AVAILABLE, 0b10111]
    assert performed.results[memory][:4] == [OK, SHARED, SHARED_END - SHARED, 1]
    assert performed.returned(disable) == NOT_AVAILABLE
    assert performed.returned(enable) == OK
    assert performed.results[threads][:2] == [OK, 3]


def test_functions_that_nobody_has(two_worlds: Artefacts, tmp_path: Path) -> None:
    """Unknown numbers, the 64-bit form of known ones, owners without a TEE, the dispatcher's own interface."""
    script = Script()
    functions = [0xB2000002, 0xB2001007, 0xF2000007, 0x72000004, 0x32000005, 0xBE000001, 0x83000001, 0xB1000001]
    calls = [script.call(function, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, client=7) for function in functions]
    performed = perform(two_worlds, script, tmp_path)
    for call in calls:
        assert performed.results[call] == [NOT_SUPPORTED, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 7]


def test_arithmetic(two_worlds: Artefacts, tmp_path: Path) -> None:
    script = Script()
    opened = script.open(ARITHMETIC)
    big = 0xFFFF_FFFF
    cases = [
        (0, 5, 6, (5, 6)),
        (1, big, 2, (1, 1)),
        (2, 1, 2, (big, big)),
        (3, big, big, (1, big - 1)),
        (4, 17, 5, (3, 2)),
        (0, 1 << 32 | 3, 4 << 40 | 9, (3, 9)),
    ]
    sent = [script.invoke(1, command, [value(IN, a, b, 77), value(OUT, 1, 2, 3)]) for command, a, b, _ in cases]
    by_zero = script.invoke(1, 4, [value(IN, 1, 0), value(OUT)])
    unknown = script.invoke(1, 5, [value(IN, 1, 0), value(OUT)])
    shapes = [[value(OUT), value(OUT)], [value(IN), value(IN)], [value(INOUT)], []]
    wrong = [script.invoke(1, 0, shape) for shape in shapes]
    both = script.invoke(1, 0, [value(INOUT, 8, 9), value(INOUT, 0, 0, 5)])
    performed = perform(two_worlds, script, tmp_path)
    assert performed.result(opened) == (SUCCESS, SERVICE)
    assert performed.session(opened) == 1
    for (_, a, b, expected), message in zip(cases, sent, strict=True):
        assert performed.result(message) == (SUCCESS, SERVICE)
        assert performed.parameter(message, 0) == value(IN, a, b, 77), "input stays as it is"
        assert performed.parameter(message, 1) == value(OUT, *expected, 3)
    assert performed.result(by_zero) == (BAD_PARAMETERS, SERVICE)
    assert performed.result(unknown) == (NOT_IMPLEMENTED, SERVICE)
    assert [performed.result(message) for message in wrong] == [(BAD_PARAMETERS, SERVICE)] * len(wrong)
    assert performed.parameter(both, 1) == value(INOUT, 8, 9, 5)


def test_a_counter_belongs_to_its_session_and_a_session_to_its_client(two_worlds: Artefacts, tmp_path: Path) -> None:
    script = Script()
    first, second = script.open(COUNTER), script.open(COUNTER, [value(IN, 100)], client=1)

    def read(session: int, client: int) -> Sent:
        return script.invoke(session, 1, [value(IN), value(OUT)], client=client)

    script.invoke(1, 0, [value(IN, 5)])
    script.invoke(1, 0, [value(IN, 6)])
    script.invoke(2, 0, [value(IN, 1)], client=1)
    foreign = [script.invoke(2, 0, [value(IN, 50)]), script.invoke(1, 2, client=1), read(2, 0), read(1, 0xABCD_0000)]
    foreign_close, foreign_cancel = script.send(CLOSE, session=2), script.send(CANCEL, session=2)
    too_much = script.invoke(1, 0, [value(IN, 0xFFFF_FFFF)])
    counts = read(1, 0), read(2, 1)
    closed, closed_again = script.send(CLOSE, session=1), script.send(CLOSE, session=1)
    gone = read(1, 0)
    again = script.open(COUNTER)
    fresh = read(1, 0)
    performed = perform(two_worlds, script, tmp_path)
    assert [performed.session(opened) for opened in (first, second, again)] == [1, 2, 1]
    assert [performed.result(message) for message in foreign[:3]] == [(BAD_PARAMETERS, TEE)] * 3
    assert performed.result(foreign[3]) == (SUCCESS, SERVICE), "only the lowest 16 bits of w7 are the client's"
    assert performed.result(foreign_close) == (ITEM_NOT_FOUND, TEE)
    assert performed.result(foreign_cancel) == (BAD_PARAMETERS, TEE)
    assert performed.result(too_much) == (EXCESS_DATA, SERVICE)
    assert [performed.parameter(message, 1)[1:3] for message in counts] == [(11, 2), (101, 1)]
    assert performed.result(closed) == (SUCCESS, TEE)
    assert performed.result(closed_again) == (ITEM_NOT_FOUND, TEE)
    assert performed.result(gone) == (BAD_PARAMETERS, TEE)
    assert performed.parameter(fresh, 1)[1:3] == (0, 0)


def test_opening_sessions(two_worlds: Artefacts, tmp_path: Path) -> None:
    script = Script()
    identity = value(META | IN, *struct.unpack("<QQ", ARITHMETIC.bytes))
    unknown = script.open(uuid.UUID(int=1))
    shapes = [
        [identity],
        [identity, value(IN)],
        [value(IN, *identity[1:3]), value(META | IN)],
        [identity, value(META | INOUT)],
        [identity, value(META | IN), value(META | IN)],
        [identity, value(META | IN), *[value(IN)] * 5],
        [identity, value(META | IN), (4, 0, 0, 0)],
        [identity, value(META | IN), (0xD, 0, 0, 0)],
        [identity, value(META | IN), (1 << 20 | IN, 0, 0, 0)],
    ]
    wrong = [script.send(OPEN, shape) for shape in shapes]
    opened = [script.open(ARITHMETIC, [value(IN)] * 4, client=i) for i in range(9)]
    performed = perform(two_worlds, script, tmp_path)
    assert performed.result(unknown) == (ITEM_NOT_FOUND, TEE)
    assert [performed.result(message) for message in wrong] == [(BAD_PARAMETERS, TEE)] * len(wrong)
    assert [performed.result(message) for message in opened] == [(SUCCESS, SERVICE)] * 8 + [(OUT_OF_MEMORY, TEE)]
    assert [performed.session(message) for message in opened[:8]] == [*range(1, 9)]


def test_messages_that_are_none(two_worlds: Artefacts, tmp_path: Path) -> None:
    """A message lies in the normal world's memory, all of it, or there is none; and its command is known."""
    script = Script()
    bad = [
        *(0, 8, 0x0E00_0000, 0x0EE0_0000, 0x4020_0000, MEMORY - 16, SHARED_END, SHARED_END - 24),
        *(0x0900_0000, 1 << 32 | SHARED, (1 << 64) - 8, SHARED + 1, SHARED + 4, 0xFFFF_FFFF_F000),
    ]
    refused = [script.call(CALL_WITH_ARG, at >> 32, at & 0xFFFF_FFFF, 5, 6, 7, 8, client=9) for at in bad]
    for at, count in ((SHARED, 128), (SHARED, 0xFFFF_FFFF), (SHARED_END - 32, 1), (SHARED_END - 2 * PAGE, 127)):
        script.put(INVOKE, at=at, count=count)
        refused.append(script.call(CALL_WITH_ARG, 0, at))
    much = refused.pop()
    across, last = script.send(CANCEL, at=SHARED - 16), script.send(CANCEL, at=SHARED_END - 32)
    unknown = script.send(99, at=SHARED + PAGE)
    performed = perform(two_worlds, script, tmp_path)
    assert performed.results[refused[0]] == [BAD_ADDRESS, 0, 0, 5, 6, 7, 8, 9]
    assert [performed.returned(call) for call in refused] == [BAD_ADDRESS] * len(refused)
    assert performed.returned(much) == OK, "as many parameters as the protocol allows"
    assert performed.result(across) == performed.result(last) == (BAD_PARAMETERS, TEE)
    assert performed.returned(unknown) == BAD_COMMAND
    assert performed.bytes(unknown.message + 20, 8) == struct.pack("<II", 0xDEAD, 0xDEAD), "nothing is written"


def test_a_second_interface_has_sessions_of_its_own(two_worlds: Artefacts, tmp_path: Path) -> None:
    """In registers, by another owner: the same services, but for those that need memory."""
    script = Script()
    count, uid, revision = (script.call(0xB000FF00 | query) for query in (0, 1, 3))
    arithmetic = script.call(DIRECT_OPEN, *registers(ARITHMETIC), client=3)
    counter = script.call(DIRECT_OPEN, *registers(COUNTER), client=3)
    buffers = script.call(DIRECT_OPEN, *registers(BUFFERS), client=3)
    total = script.call(DIRECT_INVOKE, 1, 1, 40, 2, client=3)
    script.call(DIRECT_INVOKE, 2, 0, 9, client=3)
    number = script.call(DIRECT_INVOKE, 2, 1, client=3)
    other_client = script.call(DIRECT_INVOKE, 2, 1, client=4)
    other_interface = script.invoke(2, 1, [value(IN), value(OUT)], client=3)
    opened = script.open(COUNTER, client=3)
    back = script.call(DIRECT_INVOKE, 3, 1, client=3)
    closed = [script.call(DIRECT_CLOSE, session, client=3) for session in (1, 1, 3)]
    performed = perform(two_worlds, script, tmp_path)
    assert performed.results[count][0] == 6
    assert performed.results[revision][:2] == [1, 0]
    assert performed.results[uid][0] != performed.results[uid][1]
    assert [performed.results[call][:2] for call in (arithmetic, counter)] == [[SUCCESS, 1], [SUCCESS, 2]]
    assert performed.returned(buffers) == ITEM_NOT_FOUND
    assert performed.results[total][:4] == [SUCCESS, 42, 0, 0]
    assert performed.results[number][:3] == [SUCCESS, 9, 1]
    assert performed.returned(other_client) == BAD_PARAMETERS
    assert performed.result(other_interface) == (BAD_PARAMETERS, TEE)
    assert performed.session(opened) == 3
    assert performed.returned(back) == BAD_PARAMETERS
    assert [performed.returned(call) for call in closed] == [SUCCESS, ITEM_NOT_FOUND, ITEM_NOT_FOUND]
