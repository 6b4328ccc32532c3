# SPDX-License-Identifier: BSD-2-Clause
"""Typed mutators give programs whose parts fit, repeatably and quickly."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.calls import CallShape, PoolShape, Shapes, SlotShape
from fuzz.mutators import TypedMutator, mix_of, restricted
from harness.protocol import CALL_BYTES

FREE = 3
SHAPES = Shapes(
    calls=(
        CallShape("Page_Map", SlotShape((1,)), (SlotShape((2,)), PoolShape(10), PoolShape(4, first=0.8))),
        CallShape("Copy", SlotShape((0,)), (SlotShape((FREE,), sure=0.85), PoolShape(3), SlotShape())),
        CallShape("Yield", None, (), weight=0.25),
    ),
    counts=((1, 5, 2, 60), (1, 3, 0, 70)),
)


def mutator(seed: int = 1, maximum_calls: int = 16) -> TypedMutator:
    return TypedMutator(SHAPES, seed=seed, maximum_calls=maximum_calls)


@settings(max_examples=200)
@given(data=st.binary(max_size=600), seed=st.integers(1, 1 << 32), maximum=st.integers(0, 700))
def test_any_input_gives_whole_calls_within_the_limit(data: bytes, seed: int, maximum: int) -> None:
    result = mutator(seed)(data, maximum, 0)
    assert len(result) % CALL_BYTES == 0 and len(result) <= min(maximum, 16 * CALL_BYTES)


def test_one_seed_gives_one_sequence() -> None:
    runs = []
    for _ in range(2):
        change, program, steps = mutator(seed=7), b"", []
        for _ in range(300):
            program = change(program, 512, 0)
            steps.append(program)
        runs.append(steps)
    assert runs[0] == runs[1] and len(set(runs[0])) > 250


def test_arguments_fit_their_kinds_mostly() -> None:
    program = mutator().program(4000)
    calls = [program[start : start + CALL_BYTES] for start in range(0, len(program), CALL_BYTES)]
    seen = Counter(SHAPES.calls[call[0]].name for call in calls)
    assert seen["Yield"] < seen["Copy"] / 2
    maps = [call for call in calls if call[0] == 0]
    fitting = [call for call in maps if call[2] & 3 == 2 and call[2] >> 2 == 1 and call[3] < SHAPES.counts[call[1]][1]]
    assert len(fitting) > len(maps) / 2
    assert all(call[6] < 10 or call[6] == 0xFF for call in maps)
    usual = [call for call in maps if call[8] == 0]
    assert len(usual) > len(maps) * 0.8
    copies = [call for call in calls if call[0] == 1]
    free = [call for call in copies if call[4] & 3 == 2 and call[4] >> 2 == FREE]
    assert len(free) > len(copies) * 0.8


def test_an_exclusive_target_makes_no_other_calls() -> None:
    shapes = Shapes((SHAPES.calls[0], CallShape("never", None, (), weight=0.0), SHAPES.calls[2]), SHAPES.counts)
    typed = TypedMutator(shapes, seed=1, maximum_calls=16)
    assert 1 not in {typed.call(0)[0] for _ in range(300)}
    native = restricted(lambda data, maximum: bytes(range(256)) * 2, shapes)
    program = native(b"", 512, 0)
    assert {selector % 3 for selector in program[::CALL_BYTES]} <= {0, 2}
    assert program[1:CALL_BYTES] == bytes(range(1, CALL_BYTES))


def test_a_slot_can_become_the_same_as_another_one_of_its_call() -> None:
    change = mutator()
    record = change.call(0, 1)  # Copy: the target and two arguments are slots
    for _ in range(50):
        program = bytearray(record)
        change._alike(program)
        slots = [bytes(program[offset : offset + 2]) for offset in (2, 4, 8)]
        assert len(set(slots)) < 3
    program = change.call(0, 2)
    before = bytes(program)
    change._alike(program)  # Yield has none
    assert program == before


def test_victims_talk_to_each_other() -> None:
    names = ("Recv", "Call", "Reply", "ReplyRecv")
    calls = tuple(CallShape(name, SlotShape((0,)), (PoolShape(5),)) for name in names)
    change = TypedMutator(Shapes((*calls, *SHAPES.calls), SHAPES.counts), seed=1, maximum_calls=16)
    answers = Counter[str]()
    for _ in range(50):
        program = bytearray()
        change._conversation(program)
        assert len(program) == 3 * CALL_BYTES
        assert (program[0], program[CALL_BYTES]) == (0, 1)
        victims = [program[index * CALL_BYTES + 1] for index in range(3)]
        assert victims[0] == victims[2] != victims[1]
        answers[names[program[2 * CALL_BYTES]]] += 1
    assert answers["ReplyRecv"] > answers["Reply"] > 0
    silent = mutator()
    program = bytearray()
    silent._conversation(program)  # no such calls: some other one
    assert len(program) == CALL_BYTES


def test_inserting_and_deleting_keep_references_to_results() -> None:
    change = mutator()
    program = bytearray(4 * CALL_BYTES)
    program[3 * CALL_BYTES + 2 : 3 * CALL_BYTES + 4] = bytes((1, 2))  # call 3 uses the result of call 2
    change._put(program, 1, bytearray((2,)) + bytes(CALL_BYTES - 1))
    assert program[4 * CALL_BYTES + 3] == 3
    change._renumber(program, 2, -1)
    assert program[4 * CALL_BYTES + 3] == 2


def test_native_mutators_take_part_mostly_within_a_call() -> None:
    sizes: Counter[int] = Counter()

    def native(data: bytes, maximum: int) -> bytes:
        sizes[len(data)] += 1
        return data + b"more"

    change = TypedMutator(SHAPES, seed=1, maximum_calls=16, native=native)
    for _ in range(1000):
        result = change(bytes(64), 512, 0)
        assert len(result) % CALL_BYTES == 0 or result == bytes(64) + b"more"
    assert 100 < sizes[CALL_BYTES] < 300 and 5 < sizes[64] < 80


def test_a_mix_gives_its_programs_in_turn() -> None:
    asked: list[bytes] = []

    def work(data: bytes, maximum: int, seed: int) -> bytes:
        asked.append(data)
        return b""

    change = mix_of([b"a", b"b", b"c"], work)
    assert sorted(change(b"", 10, 0) for _ in range(3)) == [b"a", b"b", b"c"] == sorted(asked)
