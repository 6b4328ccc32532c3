# SPDX-License-Identifier: BSD-2-Clause
"""Mutators that know what a program is: records of fixed width, arguments with kinds.

libFuzzer's own mutators change bytes anywhere; these insert, delete, move and join whole calls, and
change an argument into another of its kind. Both run in one campaign: typed ones reach deep states,
native ones reach what nobody thought of. Every byte string is a program, so neither can fail.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from enum import StrEnum

from fuzz.calls import (
    OF_TYPE,
    RESULT,
    VICTIM_OFFSET,
    CallMaker,
    CallShape,
    PoolShape,
    Shapes,
    SlotShape,
    slot_offsets,
    uses_of,
)
from fuzz.exchanges import ExchangeMaker
from harness.programs.encodings import RAW_OFFSET, TARGET_OFFSET, argument_offset
from harness.programs.pools import RAW_SELECTOR
from harness.protocol import CALL_BYTES


class Choice(StrEnum):
    """Which mutators a campaign uses."""

    NATIVE = "native"
    TYPED = "typed"
    BOTH = "both"


NATIVE_SHARE = 0.2
"""How often libFuzzer's own mutators are used where both kinds are."""
WHOLE_SHARE = 0.15
"""How often those get the whole program, and not one call."""
TAKING = ("CNode_Delete", "CNode_Revoke")
"""Calls that take away what a slot holds, or what was made from it."""
CONVERSATION = ("Recv", "Call", "Reply", "ReplyRecv")
"""Calls with which two victims talk to each other."""
STRANGER_SHARE = 1 / 16
"""So many of the new calls are of any victim, the others of that of their neighbour."""


class TypedMutator(CallMaker):
    """Mutates programs call by call; the sequence depends on the seed alone.

    `native` is `atheris.Mutate`: (bytes, maximum size) -> bytes. At most `maximum_calls` calls.
    """

    def __init__(
        self, shapes: Shapes, *, seed: int, maximum_calls: int, native: Callable[[bytes, int], bytes] | None = None
    ) -> None:
        super().__init__(shapes, random.Random(seed))
        self._maximum_calls = maximum_calls
        self._native = native
        self._seen: list[bytes] = []
        self._slot_offsets = tuple(slot_offsets(call) for call in shapes.calls)
        self._edits: tuple[Callable[[bytearray], None], ...] = (
            self._insert, self._insert, self._insert_pair, self._delete, self._replace, self._argument, self._argument,
            self._argument, self._argument, self._target, self._target, self._victim, self._move, self._repeat,
            self._splice, self._raw_word, self._alike, self._conversation, self._fit, self._fit, self._insert_pair,
            self._take_away,
            *((self._badged,) * (shapes.badged.weight if shapes.badged else 0)),
            *((self._exchange,) * (shapes.exchange.weight if shapes.exchange else 0)),
        )  # fmt: skip
        self._uses = uses_of(shapes)
        self._taking = [number for number, call in enumerate(shapes.calls) if call.name in TAKING and call.weight > 0]
        self._exchanges = ExchangeMaker(shapes.exchange, self, shapes, self._random) if shapes.exchange else None
        self._talk = {
            call.name: n for n, call in enumerate(shapes.calls) if call.name in CONVERSATION and call.weight > 0
        }

    def __call__(self, data: bytes, maximum_bytes: int, seed: int) -> bytes:
        """The form that Atheris calls; its seed is not used, the order of calls is repeatable by itself."""
        pick = self._random.random
        native = self._native
        if native is not None and (chance := pick()) < NATIVE_SHARE:
            if chance < NATIVE_SHARE * WHOLE_SHARE or len(data) < CALL_BYTES:
                return native(data, maximum_bytes)
            return self._native_record(data, native)
        self._remember(data)
        program = bytearray(data[: len(data) // CALL_BYTES * CALL_BYTES])
        limit = min(self._maximum_calls, maximum_bytes // CALL_BYTES) * CALL_BYTES
        if not program:
            program = self.program(1 + int(pick() * 4))
        edits = self._edits
        while True:
            edits[int(pick() * len(edits))](program)
            if pick() < 0.5:
                break
        if len(program) > limit:
            # The front is what later calls build on; but sometimes what was added at the end must win.
            program = program[:limit] if pick() < 0.7 else program[-limit:] if limit else bytearray()
        return bytes(program)

    def _native_record(self, data: bytes, native: Callable[[bytes, int], bytes]) -> bytes:
        """LibFuzzer's mutators on one call: in a whole program, a byte more or less changes every call behind it."""
        start = self._place(data) * CALL_BYTES
        record = native(data[start : start + CALL_BYTES], CALL_BYTES)
        return data[:start] + record[:CALL_BYTES].ljust(CALL_BYTES, b"\0") + data[start + CALL_BYTES :]

    def program(self, calls: int) -> bytearray:
        """A new program of that many typed calls."""
        data = bytearray()
        for index in range(calls):
            data += self.call(index, victim=self._neighbour(data, index), program=data)
        return data

    def _remember(self, data: bytes) -> None:
        """Keep some of the corpus' programs at hand, for joining."""
        if len(data) < CALL_BYTES:
            return
        if len(self._seen) < 64:
            self._seen.append(data)
        else:
            self._seen[int(self._random.random() * 64)] = data

    def _place(self, program: bytes | bytearray, extra: int = 0) -> int:
        """Index of a call; with `extra` one more, the end."""
        return int(self._random.random() * (len(program) // CALL_BYTES + extra))

    def _put(self, program: bytearray, index: int, record: bytearray) -> None:
        """Insert a record; calls behind it keep referring to the same results."""
        self._renumber(program, index, 1)
        program[index * CALL_BYTES : index * CALL_BYTES] = record

    def _renumber(self, program: bytearray, index: int, change: int) -> None:
        """Calls from `index` on are about to move by `change` places: adapt what refers to their results."""
        calls, slots = self._shapes.calls, self._slot_offsets
        lowest = index if change > 0 else index + 1  # what referred to a call that is gone stays as it is
        for start in range(index * CALL_BYTES, len(program), CALL_BYTES):
            for offset in slots[program[start] % len(calls)]:
                place = start + offset
                if program[place] & 3 == RESULT and lowest <= program[place + 1] < 0xFF:
                    program[place + 1] += change

    def _neighbour(self, program: bytearray, index: int) -> int | None:
        """The victim of the call before or behind an index, as a rule: a change of victim costs four calls' time."""
        if not program or self._random.random() < STRANGER_SHARE:
            return None
        return self._victim_at(program, index - 1 if index else 0)

    def _insert(self, program: bytearray) -> None:
        index = self._place(program, 1)
        self._put(program, index, self.call(index, victim=self._neighbour(program, index), program=program))

    def _insert_pair(self, program: bytearray) -> None:
        """A call and, right behind it, one that uses what it made, or else what it worked on."""
        index = self._place(program, 1)
        first = self.call(index, victim=self._neighbour(program, index), program=program)
        self._put(program, index, first)
        type_, thing = self.made(program, index), bytes((RESULT, min(index, 0xFF)))
        if type_ is None:
            shape = self._shapes.calls[first[0]]
            if not isinstance(shape.target, SlotShape) or first[TARGET_OFFSET] & 3 != OF_TYPE:
                return
            type_, thing = first[TARGET_OFFSET] >> 2, bytes(first[TARGET_OFFSET : TARGET_OFFSET + 2])
        if uses := self._uses.get(type_):
            selector, offset = uses[int(self._random.random() * len(uses))]
            second = self.call(index + 1, selector, first[VICTIM_OFFSET], program)
            second[VICTIM_OFFSET] = first[VICTIM_OFFSET]
            second[offset : offset + 2] = thing
            self._put(program, index + 1, second)

    def _take_away(self, program: bytearray) -> None:
        """Right behind a call, one that deletes or revokes what it worked on or was given."""
        if not program or not self._taking:
            self._insert(program)
            return
        index = self._place(program)
        start = index * CALL_BYTES
        offsets = self._slot_offsets[program[start] % len(self._shapes.calls)]
        if not offsets:
            return
        offset = offsets[int(self._random.random() * len(offsets))]
        thing = bytes(program[start + offset : start + offset + 2])
        selector = self._taking[int(self._random.random() * len(self._taking))]
        record = self.call(index + 1, selector, program[start + VICTIM_OFFSET], program)
        record[VICTIM_OFFSET] = program[start + VICTIM_OFFSET]
        place = argument_offset(0)
        record[place : place + 2] = thing
        self._put(program, index + 1, record)

    def _fit(self, program: bytearray) -> None:
        """Make all of a call go together, by another victim if its own lacks what that takes."""
        if program:
            start = self._place(program) * CALL_BYTES
            record = program[start : start + CALL_BYTES]
            self._settle(record)
            self.fit(record)
            program[start : start + CALL_BYTES] = record

    def _settle(self, record: bytearray) -> None:
        able = self.able(record[0] % len(self._shapes.calls))
        if record[VICTIM_OFFSET] % len(self._shapes.counts) not in able:
            record[VICTIM_OFFSET] = able[int(self._random.random() * len(able))]

    def _badged(self, program: bytearray) -> None:
        """A capability for one SMC function, of any owner, and a call through it: of that function, or of another."""
        badged = self._shapes.badged
        if badged is None:
            self._insert(program)
            return
        pick, index = self._random.random, self._place(program, 1)
        able = [each for each in self.victims if badged.whole[each]]
        victim = self._neighbour(program, index)
        if victim not in able:
            victim = able[int(pick() * len(able))]
        source = badged.whole[victim][0]
        function = self.function().to_bytes(8, "little")
        call = self.call(index, badged.call, victim, program)
        call[VICTIM_OFFSET] = victim
        if pick() < 0.7:
            mint = self.call(index, badged.mint, victim, program)
            mint[VICTIM_OFFSET] = victim
            self.fit(mint)
            place = argument_offset(badged.source)
            mint[place : place + 2] = source
            place = argument_offset(badged.badge)
            mint[place : place + 2] = bytes((RAW_SELECTOR, 0))
            mint[RAW_OFFSET : RAW_OFFSET + 8] = function
            self._put(program, index, mint)
            call[TARGET_OFFSET : TARGET_OFFSET + 2] = bytes((RESULT, min(index, 0xFF)))
            index += 1
            if pick() < 0.3:  # another function than the capability's
                self._put(program, index, call)
                return
        else:
            call[TARGET_OFFSET : TARGET_OFFSET + 2] = source
        place = argument_offset(badged.function)
        call[place : place + 2] = bytes((RAW_SELECTOR, 0))
        call[RAW_OFFSET : RAW_OFFSET + 8] = function
        self._put(program, index, call)

    def _exchange(self, program: bytearray) -> None:
        """A message to the Trusted OS and the SMC that brings it, or a whole session."""
        if self._exchanges is not None:
            index = self._place(program, 1)
            for record in reversed(self._exchanges.exchange()):
                self._put(program, index, record)

    def _delete(self, program: bytearray) -> None:
        if len(program) > CALL_BYTES:
            index = self._place(program)
            del program[index * CALL_BYTES : (index + 1) * CALL_BYTES]
            self._renumber(program, index, -1)

    def _replace(self, program: bytearray) -> None:
        if program:
            index = self._place(program)
            victim = self._neighbour(program, index)
            program[index * CALL_BYTES : (index + 1) * CALL_BYTES] = self.call(index, victim=victim, program=program)

    def _shape_at(self, program: bytearray, index: int) -> CallShape:
        calls = self._shapes.calls
        return calls[program[index * CALL_BYTES] % len(calls)]

    def _argument(self, program: bytearray) -> None:
        if not program:
            return
        index = self._place(program)
        shape = self._shape_at(program, index)
        if shape.arguments:
            number = int(self._random.random() * len(shape.arguments))
            place = index * CALL_BYTES + argument_offset(number)
            program[place : place + 2] = self.selector(
                shape.arguments[number], self._victim_at(program, index), index, program
            )

    def _target(self, program: bytearray) -> None:
        if not program:
            return
        index = self._place(program)
        target = self._shape_at(program, index).target
        if target is not None:
            place = index * CALL_BYTES + TARGET_OFFSET
            program[place : place + 2] = self.selector(target, self._victim_at(program, index), index, program)

    def _victim_at(self, program: bytearray, index: int) -> int:
        return program[index * CALL_BYTES + VICTIM_OFFSET] % len(self._shapes.counts)

    def _victim(self, program: bytearray) -> None:
        """Give a call, or as a rule all from there on, to another victim: those for which it has what they work on."""
        if program:
            victim = self.victims[int(self._random.random() * len(self.victims))]
            first = self._place(program) * CALL_BYTES
            end = first + 1 if self._random.random() < 0.25 else len(program)
            any_call = self._random.random() < STRANGER_SHARE
            for start in range(first, end, CALL_BYTES):
                if any_call or victim in self.able(program[start] % len(self._shapes.calls)):
                    program[start + VICTIM_OFFSET] = victim

    def _move(self, program: bytearray) -> None:
        if len(program) > CALL_BYTES:
            source = self._place(program) * CALL_BYTES
            record = program[source : source + CALL_BYTES]
            del program[source : source + CALL_BYTES]
            target = self._place(program, 1) * CALL_BYTES
            program[target:target] = record

    def _repeat(self, program: bytearray) -> None:
        if program:
            source = self._place(program) * CALL_BYTES
            target = self._place(program, 1) * CALL_BYTES
            program[target:target] = program[source : source + CALL_BYTES]

    def _splice(self, program: bytearray) -> None:
        if self._seen:
            other = self._seen[int(self._random.random() * len(self._seen))]
            start = self._place(other) * CALL_BYTES
            cut = self._place(program, 1) * CALL_BYTES
            end = len(other) // CALL_BYTES * CALL_BYTES
            if self._random.random() < 0.5:
                program[cut:] = other[start:end]
            else:
                program[cut:cut] = other[start:end]

    def _alike(self, program: bytearray) -> None:
        """One slot of a call becomes the same as another: onto itself, there and back, in its own place."""
        if not program:
            return
        index = self._place(program)
        offsets = self._slot_offsets[program[index * CALL_BYTES] % len(self._shapes.calls)]
        if len(offsets) > 1:
            into, source = (index * CALL_BYTES + offset for offset in self._random.sample(offsets, 2))
            program[into : into + 2] = program[source : source + 2]

    def _conversation(self, program: bytearray) -> None:
        """One victim waits for a message, another calls, the first answers; as a rule without arguments."""
        if len(self._talk) < len(CONVERSATION) or len(self._shapes.counts) < 2:
            self._insert(program)
            return
        pick, talk = self._random.random, self._talk
        server, client = self._random.sample(range(len(self._shapes.counts)), 2)
        answer = talk["Reply" if pick() < 0.3 else "ReplyRecv"]
        plain, index = pick() < 0.6, self._place(program, 1)
        meet = all(self._shapes.meeting) and len(self._shapes.meeting) > 0 and pick() < 0.7
        for selector, victim in ((talk["Recv"], server), (talk["Call"], client), (answer, server)):
            record = self.call(index, selector, victim, program)
            record[VICTIM_OFFSET] = victim
            if meet and self._shapes.calls[selector].target is not None:
                record[TARGET_OFFSET : TARGET_OFFSET + 2] = self._shapes.meeting[victim]
            if plain:
                for number, argument in enumerate(self._shapes.calls[selector].arguments):
                    if isinstance(argument, PoolShape):
                        place = argument_offset(number)
                        record[place : place + 2] = bytes(2)
            self._put(program, index, record)
            index += 1

    def _raw_word(self, program: bytearray) -> None:
        if program:
            place = self._place(program) * CALL_BYTES + RAW_OFFSET
            program[place : place + 8] = self.word()


Mutator = Callable[[bytes, int, int], bytes]
"""What Atheris calls: data, maximum size, seed."""


def restricted(change: Callable[..., bytes], shapes: Shapes) -> Mutator:
    """A mutator whose calls are all of positive weight: other selectors are replaced.

    `change` is another mutator or `atheris.Mutate`, which takes no seed.
    """
    allowed = [number for number, call in enumerate(shapes.calls) if call.weight > 0]
    count = len(shapes.calls)
    table = bytes(value if value % count in allowed else allowed[value % len(allowed)] for value in range(256))
    takes_seed = isinstance(change, TypedMutator)

    def restrict(data: bytes, maximum_bytes: int, seed: int) -> bytes:
        program = bytearray(change(data, maximum_bytes, seed) if takes_seed else change(data, maximum_bytes))
        program[::CALL_BYTES] = program[::CALL_BYTES].translate(table)
        return bytes(program)

    return restrict


def mix_of(programs: Sequence[bytes], change: Mutator | None = None) -> Mutator:
    """A mutator that gives these programs in turn, for measurements with a fixed mix of calls.

    `change` does its work on each of them, and what it makes is thrown away: the measurement
    includes what mutating costs.
    """
    position = 0

    def next_program(data: bytes, maximum_bytes: int, seed: int) -> bytes:
        nonlocal position
        position += 1
        program = programs[position % len(programs)]
        if change is not None:
            change(program, maximum_bytes, seed)
        return program

    return next_program
