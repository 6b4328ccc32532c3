# SPDX-License-Identifier: BSD-2-Clause
"""The trusted OS on the real machine: memory that the normal world names, and calls that it has to resume."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from harness.build.artefacts import Artefacts
from tests.system.trusted_os import (
    BAD_PARAMETERS,
    BAD_RESUME,
    BUFFERS,
    BUSY,
    CANCEL,
    CANCELLED,
    CLOSE,
    IN,
    INOUT,
    INVOKE,
    IS_BUSY,
    ITEM_NOT_FOUND,
    MEMORY,
    OK,
    OUT,
    OUT_OF_MEMORY,
    PAGE,
    PAGE_LIST,
    REGISTER,
    RPC_ALLOCATE,
    RPC_FOREIGN_INTERRUPT,
    RPC_FREE,
    SERVICE,
    SHARED,
    SHARED_END,
    SHORT_BUFFER,
    SUCCESS,
    TEE,
    THREAD_LIMIT,
    UNREGISTER,
    Script,
    Sent,
    perform,
    registered,
    temporary,
    value,
)  # fmt: skip

SOURCE, DESTINATION, LENT = SHARED + 0x1_0000, SHARED + 0x2_0000, SHARED + 0x3_0000
PATTERN = bytes(i * 7 % 251 + 1 for i in range(3 * PAGE))
COPY, COPY_BORROWED, CHECKSUM = range(3)


def prepared() -> Script:
    """A session with the service for buffers (number 1), and a pattern to copy."""
    script = Script()
    script.open(BUFFERS)
    script.write(SOURCE, PATTERN)
    return script


def test_copies_stay_in_their_buffers(two_worlds: Artefacts, tmp_path: Path) -> None:
    script = prepared()
    whole = script.invoke(1, COPY, [temporary(IN, SOURCE, 300), temporary(OUT, DESTINATION, 301)])
    aside, away = DESTINATION + 0x1000, DESTINATION + 0x2000
    source = temporary(IN, SOURCE, 300)
    part = script.invoke(1, COPY, [source, temporary(OUT, aside, 16), value(IN, 290, 10), value(IN, 6)])
    ranges = [value(IN, 290, 11), value(IN, 0xFFFF_FFFF, 2), value(OUT, 0, 8), temporary(IN, SOURCE, 8)]
    wrong = [script.invoke(1, COPY, [source, temporary(OUT, away, 300), range_]) for range_ in ranges]
    wrong.append(script.invoke(1, COPY, [temporary(OUT, SOURCE, 8), temporary(OUT, away, 8)]))
    short = script.invoke(1, COPY, [source, temporary(OUT, away, 299)])
    behind = script.invoke(1, COPY, [source, temporary(OUT, away, 8), value(IN, 0, 8), value(IN, 1 << 31)])
    only_read = script.invoke(1, COPY, [temporary(IN, SOURCE, 8), temporary(IN, away, 8)])
    nothing = script.invoke(1, COPY, [temporary(IN, 0, 0), temporary(OUT, 0, 0)])
    no_room = script.invoke(1, COPY, [temporary(IN, SOURCE, 8), temporary(OUT, 0, 0)])
    checksum = script.invoke(1, CHECKSUM, [temporary(IN, SOURCE + 3, 1000), value(OUT)])
    performed = perform(two_worlds, script, tmp_path)
    assert performed.result(whole) == (SUCCESS, SERVICE)
    assert performed.parameter(whole, 1) == temporary(OUT, DESTINATION, 300)
    assert performed.bytes(DESTINATION, 301) == PATTERN[:300] + b"\0"
    assert performed.result(part) == (SUCCESS, SERVICE)
    assert performed.bytes(aside, 17) == bytes(6) + PATTERN[290:300] + b"\0"
    assert [performed.result(message) for message in (*wrong, only_read)] == [(BAD_PARAMETERS, SERVICE)] * 6
    assert performed.result(short) == (SHORT_BUFFER, SERVICE)
    assert performed.parameter(short, 1)[2] == 300, "how much it would have needed"
    assert performed.result(behind) == performed.result(no_room) == (SHORT_BUFFER, SERVICE)
    assert performed.parameter(behind, 1)[2] == (1 << 31) + 8
    assert performed.result(nothing) == (SUCCESS, SERVICE)
    assert performed.bytes(away, 4 * PAGE) == bytes(4 * PAGE), "what failed has written nothing"
    assert performed.parameter(checksum, 1)[1:3] == (zlib.adler32(PATTERN[3:1003]), 1000)


def test_memory_that_is_not_the_normal_worlds(two_worlds: Artefacts, tmp_path: Path) -> None:
    script = prepared()
    places = [
        *(0x0E00_0000, 0x0EE0_0000, 0x8, 0x4020_0000, MEMORY - 8, SHARED_END - 8, SHARED_END, 0x0900_0000, 0x0800_0000),
        *((1 << 64) - 8, 0x1_4060_0000, 0x4060_0000 | 1 << 63, 0x7FFF_FFFF_F000, 0xFFFF_FF80_0E00_0000, 0x40_0000),
    ]
    sent = []
    for place in places:
        sent.append(script.invoke(1, COPY, [temporary(IN, place, 16), temporary(OUT, DESTINATION, 16)]))
        sent.append(script.invoke(1, COPY, [temporary(IN, SOURCE, 16), temporary(OUT, place, 16)]))
        sent.append(script.send(REGISTER, [temporary(IN, place, 16, cookie=place)]))
    for size in ((1 << 64) - 1, (1 << 64) - SOURCE, SHARED_END - SOURCE + 1):
        sent.append(script.invoke(1, COPY, [temporary(IN, SOURCE, size), temporary(OUT, DESTINATION, 16)]))
    last = script.invoke(1, COPY, [temporary(IN, SHARED_END - 8, 8), temporary(OUT, DESTINATION, 8)])
    performed = perform(two_worlds, script, tmp_path)
    assert [performed.result(message) for message in sent] == [(BAD_PARAMETERS, TEE)] * len(sent)
    assert performed.result(last) == (SUCCESS, SERVICE)


def page_list(*pages: int) -> bytes:
    return struct.pack(f"<{len(pages)}Q", *pages)


def test_registered_memory(two_worlds: Artefacts, tmp_path: Path) -> None:
    script = prepared()
    lists = SHARED + 0x8000
    # Three pages in another order, of which the buffer begins 0x800 into the first
    script.write(lists, page_list(SOURCE + 0x2000, SOURCE, SOURCE + 0x1000))
    scattered = script.send(REGISTER, [temporary(OUT, lists | 0x800, 0x2000, cookie=7, flags=PAGE_LIST)])
    plain = script.send(REGISTER, [temporary(INOUT, DESTINATION, 0x1000, cookie=8)])
    twice = script.send(REGISTER, [temporary(IN, DESTINATION, 0x1000, cookie=8)])
    other = script.send(REGISTER, [temporary(IN, DESTINATION, 0x1000, cookie=8)], client=1)
    script.write(lists, bytes(24))  # known by now
    copied = script.invoke(1, COPY, [registered(IN, 7, 0x7F0, 0x830), registered(OUT, 8, 0x10, 0x900)])
    outside = [(7, 0, 0x2001), (7, 0x2001, 0), (7, 0x2000, 1), (7, (1 << 64) - 1, 2), (9, 0, 1), (0, 0, 1)]
    wrong = [script.invoke(1, CHECKSUM, [registered(IN, c, at, n), value(OUT)]) for c, at, n in outside]
    no_memory = script.invoke(1, CHECKSUM, [registered(IN, 0, 0, 0), value(OUT)])
    foreign = script.send(UNREGISTER, [registered(IN, 7, 0, 0)], client=1)
    gone = [script.send(UNREGISTER, [registered(IN, cookie, 0, 0)]) for cookie in (8, 8, 9)]
    unused = script.invoke(1, CHECKSUM, [registered(IN, 8, 0, 1), value(OUT)])
    performed = perform(two_worlds, script, tmp_path)
    assert [performed.result(message) for message in (scattered, plain, other)] == [(SUCCESS, TEE)] * 3
    assert performed.result(twice) == (BAD_PARAMETERS, TEE)
    assert performed.result(copied) == (SUCCESS, SERVICE)
    buffer = PATTERN[0x2800:] + PATTERN[:0x2000]
    assert performed.bytes(DESTINATION, 0x1000) == bytes(0x10) + buffer[0x7F0:0x1020] + bytes(0x1000 - 0x840)
    assert performed.parameter(copied, 1)[2] == 0x830
    assert [performed.result(message) for message in wrong] == [(BAD_PARAMETERS, TEE)] * len(wrong)
    assert performed.result(no_memory) == (SUCCESS, SERVICE)
    assert performed.result(foreign) == (ITEM_NOT_FOUND, TEE)
    assert [performed.result(message)[0] for message in gone] == [SUCCESS, ITEM_NOT_FOUND, ITEM_NOT_FOUND]
    assert performed.result(unused) == (BAD_PARAMETERS, TEE)


def test_lists_and_registrations_that_are_wrong(two_worlds: Artefacts, tmp_path: Path) -> None:
    script = prepared()
    lists = SHARED + 0x8000
    bad = [(SOURCE, 0x0E00_0000), (SOURCE, SOURCE + 8), (SOURCE, SHARED_END), (SOURCE, 0), (1 << 63 | SOURCE, SOURCE)]
    sent = []
    for i, pages in enumerate(bad):
        script.write(lists + i * 16, bytes(16))
        script.write(lists + i * PAGE, page_list(*pages))
        sent.append(script.send(REGISTER, [temporary(IN, lists + i * PAGE, 0x2000, cookie=1, flags=PAGE_LIST)]))
        sent.append(script.invoke(1, CHECKSUM, [temporary(IN, lists + i * PAGE, 0x1001, flags=PAGE_LIST), value(OUT)]))
    for address, size in ((0x0E00_0000, 16), (SHARED_END, 16), (lists, 0)):
        sent.append(script.send(REGISTER, [temporary(IN, address, size, cookie=1, flags=PAGE_LIST)]))
    here = temporary(IN, SOURCE, 8)
    shapes = [[], [value(IN)], [registered(IN, 1, 0, 0)], [here, here], [temporary(0, SOURCE, 8)]]
    sent += [script.send(REGISTER, shape) for shape in shapes]
    sent += [script.send(UNREGISTER, shape) for shape in ([], [value(IN)], [temporary(IN, 0, 0, cookie=1)])]
    long = script.send(REGISTER, [temporary(IN, lists, 64 * PAGE + 1, cookie=1, flags=PAGE_LIST)])
    longest = script.send(REGISTER, [temporary(IN, lists, (1 << 64) - 1, cookie=1, flags=PAGE_LIST)])
    many = [script.send(REGISTER, [temporary(IN, SOURCE, 8, cookie=10 + i)]) for i in range(9)]
    performed = perform(two_worlds, script, tmp_path)
    assert [performed.result(message) for message in sent] == [(BAD_PARAMETERS, TEE)] * len(sent)
    assert performed.result(long) == performed.result(longest) == (OUT_OF_MEMORY, TEE)
    assert [performed.result(message)[0] for message in many] == [SUCCESS] * 8 + [OUT_OF_MEMORY]


def borrow(script: Script, *, client: int = 0, session: int = 1, cancel_id: int = 0, size: int = 200) -> Sent:
    """A call that asks for memory."""
    parameters = [temporary(IN, SOURCE, size), temporary(OUT, DESTINATION, size)]
    return script.invoke(session, COPY_BORROWED, parameters, client=client, cancel_id=cancel_id)


def test_a_call_that_borrows_memory(two_worlds: Artefacts, tmp_path: Path) -> None:
    script = prepared()
    sent = borrow(script)
    script.write(sent.message, bytes(32 + 64))  # the copy counts
    script.write(SHARED + 0x8000, b"unchanged")
    busy = [script.invoke(1, COPY, []), script.send(CLOSE, session=1)]
    cache = [script.call(0xB200000A), script.call(0xB200000B)]
    wrong = [script.resume(1), script.resume(3), script.resume(0xFFFF_FFFF), script.resume(0, client=1)]
    lent = script.resume(0, memory=LENT, cookie=0x1234_5678_9ABC)
    freed = script.resume(0)
    again = script.resume(0)
    performed = perform(two_worlds, script, tmp_path)
    assert performed.results[sent.step][:4] == [RPC_ALLOCATE, 200, 0, 0]
    assert [performed.result(message)[0] for message in busy] == [BUSY, BUSY]
    assert [performed.returned(call) for call in cache] == [IS_BUSY, IS_BUSY]
    assert [performed.returned(call) for call in wrong] == [BAD_RESUME] * len(wrong)
    assert performed.results[lent][:4] == [RPC_FREE, 0x1234, 0x5678_9ABC, 0]
    assert performed.results[freed][0] == OK
    assert performed.returned(again) == BAD_RESUME
    assert performed.bytes(LENT, 201) == performed.bytes(DESTINATION, 201) == PATTERN[:200] + b"\0"
    assert performed.result(Sent(freed, sent.message)) == (SUCCESS, SERVICE)


def test_memory_that_cannot_be_borrowed(two_worlds: Artefacts, tmp_path: Path) -> None:
    script = prepared()
    none = borrow(script)
    refused = script.resume(0, memory=0, cookie=5)
    ends = []
    for place in (0x0E00_0000, SHARED_END - 199, MEMORY - 1, 1 << 32 | LENT, 0xFFFF_FFFF_FFFF_FFF0):
        sent = borrow(script)
        ends.append((sent, script.resume(0, memory=place, cookie=6), script.resume(0)))
    performed = perform(two_worlds, script, tmp_path)
    assert performed.result(Sent(refused, none.message)) == (OUT_OF_MEMORY, SERVICE)
    for sent, freed, done in ends:
        assert performed.results[freed][:4] == [RPC_FREE, 0, 6, 0], "what was lent goes back"
        assert performed.result(Sent(done, sent.message)) == (OUT_OF_MEMORY, SERVICE)


def test_threads_are_few_and_calls_can_be_cancelled(two_worlds: Artefacts, tmp_path: Path) -> None:
    script = prepared()
    others = [script.open(BUFFERS), script.open(BUFFERS), script.open(BUFFERS, client=1)]
    first, second = borrow(script, session=1, cancel_id=11), borrow(script, session=2, cancel_id=12)
    missed = [script.send(CANCEL, session=session, cancel_id=id) for session, id in ((1, 12), (2, 11))]
    script.send(CANCEL, session=2, cancel_id=12)
    third = borrow(script, session=4, client=1)
    limit = borrow(script, session=3)
    freed = script.resume(1, memory=LENT, cookie=2)
    ended = script.resume(1)
    room = borrow(script, session=3)
    rest = [script.resume(thread, memory=LENT, cookie=3, client=client) for thread, client in ((0, 0), (1, 0), (2, 1))]
    last = [script.resume(thread, client=client) for thread, client in ((0, 0), (1, 0), (2, 1))]
    performed = perform(two_worlds, script, tmp_path)
    assert [performed.session(opened) for opened in others] == [2, 3, 4]
    assert [performed.results[sent.step][3] for sent in (first, second, third, room)] == [0, 1, 2, 1]
    assert [performed.result(message) for message in missed] == [(SUCCESS, TEE)] * 2
    assert performed.returned(limit) == THREAD_LIMIT
    assert performed.results[freed][:4] == [RPC_FREE, 0, 2, 1]
    assert performed.result(Sent(ended, second.message)) == (CANCELLED, SERVICE)
    assert [performed.returned(call) for call in rest] == [RPC_FREE] * 3
    for sent, call in zip((first, room, third), last, strict=True):
        assert performed.result(Sent(call, sent.message)) == (SUCCESS, SERVICE)


def test_memory_in_use_stays_registered(two_worlds: Artefacts, tmp_path: Path) -> None:
    script = prepared()
    script.send(REGISTER, [temporary(IN, SOURCE, 0x100, cookie=1)])
    script.send(REGISTER, [temporary(OUT, DESTINATION, 0x100, cookie=2)])
    sent = script.invoke(1, COPY_BORROWED, [registered(IN, 1, 0, 0x80), registered(OUT, 2, 0x40, 0x80)])
    early = [script.send(UNREGISTER, [registered(IN, cookie, 0, 0)]) for cookie in (1, 2)]
    script.resume(0, memory=LENT, cookie=9)
    done = script.resume(0)
    late = [script.send(UNREGISTER, [registered(IN, cookie, 0, 0)]) for cookie in (1, 2)]
    performed = perform(two_worlds, script, tmp_path)
    assert [performed.result(message)[0] for message in early] == [BUSY, BUSY]
    assert performed.result(Sent(done, sent.message)) == (SUCCESS, SERVICE)
    assert performed.bytes(DESTINATION, 0x100) == bytes(0x40) + PATTERN[:0x80] + bytes(0x40)
    assert [performed.result(message)[0] for message in late] == [SUCCESS, SUCCESS]


GICD, GICC, LINE = 0x0800_0000, 0x0801_0000, 49


def test_an_interrupt_of_the_normal_world_suspends_a_call(two_worlds: Artefacts, tmp_path: Path) -> None:
    """A pending line that the normal world does not take before the call: the call gives it the chance."""
    script = prepared()
    script.store(GICD, 1)
    script.store(GICD + 0x100 + LINE // 32 * 4, 1 << LINE % 32)
    script.store(GICC + 4, 0xFF)
    script.store(GICC, 1)
    script.store(GICD + 0x200 + LINE // 32 * 4, 1 << LINE % 32)
    fast = script.call(0xB200000F)
    parameters = [temporary(IN, SOURCE, len(PATTERN)), temporary(OUT, DESTINATION, len(PATTERN))]
    sent = script.invoke(1, COPY, parameters)
    wrong = script.resume(0, client=1)
    still = script.resume(0)
    taken = script.load(GICC + 0xC, 4)
    script.store(GICC + 0x10, LINE)
    done = script.resume(0)
    after = script.invoke(1, COPY, parameters)
    performed = perform(two_worlds, script, tmp_path)
    assert performed.results[fast][:2] == [OK, 3], "a fast call is not suspended"
    assert performed.results[sent.step][:4] == [RPC_FOREIGN_INTERRUPT, 0, 0, 0]
    assert performed.returned(wrong) == BAD_RESUME
    assert performed.results[still][:4] == [RPC_FOREIGN_INTERRUPT, 0, 0, 0], "it is still pending"
    assert performed.results[taken][0] == LINE
    assert performed.result(Sent(done, sent.message)) == (SUCCESS, SERVICE)
    assert performed.bytes(DESTINATION, len(PATTERN)) == PATTERN
    assert performed.result(after) == (SUCCESS, SERVICE)


def test_a_call_can_be_suspended_at_any_instruction(two_worlds: Artefacts, tmp_path: Path) -> None:
    """The normal world's timer expires in the middle of copies: each goes on where it was, and is complete."""
    script = prepared()
    length, timer = len(PATTERN), 30
    script.store(GICD, 1)
    script.store(GICD + 0x100, 1 << timer)
    script.store(GICC + 4, 0xFF)
    script.store(GICC, 1)
    message = SHARED + 0x8000
    script.put(INVOKE, [temporary(IN, SOURCE, length), temporary(OUT, DESTINATION, length)], at=message, session=1)
    copies = script.timed_copies(message, 50, 200, DESTINATION, length, GICC)
    performed = perform(two_worlds, script, tmp_path)
    wrong, interruptions, halfway = performed.results[copies][:3]
    assert not wrong
    assert interruptions > 0 and halfway > 0
