# SPDX-License-Identifier: BSD-2-Clause
"""Mutators that know what a program is: records of fixed width, arguments with kinds.

libFuzzer's own mutators change bytes anywhere; these insert, delete, move and join whole calls, and
change an argument into another of its kind. Both run in one campaign: typed ones reach deep states,
native ones reach what nobody thought of. Every byte string is a program, so neither can fail.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.programs.encodings import RAW_OFFSET, TARGET_OFFSET, SlotMode, argument_offset
from harness.programs.pools import RAW_SELECTOR
from harness.protocol import CALL_BYTES

VICTIM_OFFSET = 1
LITERAL, RESULT, OF_TYPE, RAW = (int(mode) for mode in (SlotMode.LITERAL, SlotMode.RESULT, SlotMode.TYPE, SlotMode.RAW))


class Choice(StrEnum):
    """Which mutators a campaign uses."""

    NATIVE = "native"
    TYPED = "typed"
    BOTH = "both"


@dataclass(frozen=True)
class SlotShape:
    """A slot argument: numbers of the slot types that make sense there (none: any).

    `sure`: how likely a slot of these types is chosen. `first`: how likely the first one of its
    type, which is the one that most calls succeed with.
    """

    types: tuple[int, ...] = ()
    sure: float = 0.66
    first: float = 0.2


@dataclass(frozen=True)
class PoolShape:
    """An argument from a pool of `size` values; `first`: how likely the first one, the usual value.

    `steps`: it fills many words, whose values step through the pool. `usual`: numbers of the values with which the
    call can succeed, if they are few; three in four are chosen from them.
    """

    size: int
    first: float = 0.0
    steps: bool = False
    usual: tuple[int, ...] = ()


@dataclass(frozen=True)
class CallShape:
    """What a call takes: `weight` is how often it is chosen, relative to the others; 0: never."""

    name: str
    target: SlotShape | PoolShape | None
    arguments: tuple[SlotShape | PoolShape, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Shapes:
    """All that a typed mutator knows of the interface and of the snapshot.

    `counts[v][t]`: how many slots of type number t victim v has. `shares[v]`: how often victim v is chosen, relative
    to the others; none given: all alike.
    """

    calls: tuple[CallShape, ...]
    counts: tuple[tuple[int, ...], ...]
    slots: int = 128
    shares: tuple[int, ...] = ()


NATIVE_SHARE = 0.2
"""How often libFuzzer's own mutators are used where both kinds are."""
WHOLE_SHARE = 0.15
"""How often those get the whole program, and not one call."""
INTERESTING_WORDS = (
    0, 1, 2, 3, 4, 8, 12, 21, 30, 39, 47, 48, 63, 64, 0xFFF, 0x1000, 0x1FFF, 0x200000, 0x40000000, 0x8000000000,
    0x0E000000, 0x0EE00000, 0x40200000, 0x0000FFFFFFFFFFFF, 0x0001000000000000, 0xFFFFFF8000000000,
    0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFF000, 0xFFFFFFFFFFFFFFFF,
)  # fmt: skip
"""Values of the raw word at which sizes, depths and addresses change meaning."""


USUAL_SHARE = 0.75
"""How often an argument is one of the values with which its call can succeed, where they are few."""
CONVERSATION = ("Recv", "Call", "Reply", "ReplyRecv")
"""Calls with which two victims talk to each other."""
STRANGER_SHARE = 1 / 16
"""So many of the new calls are of any victim, the others of that of their neighbour."""


class TypedMutator:
    """Mutates programs call by call; the sequence depends on the seed alone.

    `native` is `atheris.Mutate`: (bytes, maximum size) -> bytes. At most `maximum_calls` calls.
    """

    def __init__(
        self, shapes: Shapes, *, seed: int, maximum_calls: int, native: Callable[[bytes, int], bytes] | None = None
    ) -> None:
        self._shapes = shapes
        self._random = random.Random(seed)
        self._maximum_calls = maximum_calls
        self._native = native
        self._seen: list[bytes] = []
        self._slot_offsets = tuple(slot_offsets(call) for call in shapes.calls)
        shares = shapes.shares or (1,) * len(shapes.counts)
        self._victims = [victim for victim, share in enumerate(shares) for _ in range(share)]
        self._able = tuple(self._victims_with(call.target) for call in shapes.calls)
        # Choosing from a list with repetitions is cheaper than weights.
        finest = min(call.weight for call in shapes.calls if call.weight > 0)
        self._selectors = [n for n, call in enumerate(shapes.calls) for _ in range(round(call.weight / finest))]
        self._edits: tuple[Callable[[bytearray], None], ...] = (
            self._insert, self._insert, self._insert_pair, self._delete, self._replace, self._argument, self._argument,
            self._argument, self._argument, self._target, self._target, self._victim, self._move, self._repeat,
            self._splice, self._raw_word, self._alike, self._conversation,
        )  # fmt: skip
        self._talk = {
            call.name: n for n, call in enumerate(shapes.calls) if call.name in CONVERSATION and call.weight > 0
        }

    def _victims_with(self, target: SlotShape | PoolShape | None) -> list[int]:
        """Victims, as often as their shares say, that have a slot of the target's types."""
        if not isinstance(target, SlotShape) or not target.types:
            return self._victims
        counts = self._shapes.counts
        able = [victim for victim in self._victims if any(counts[victim][number] for number in target.types)]
        return able or self._victims

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
            data += self.call(index, victim=self._neighbour(data, index))
        return data

    def call(self, index: int, selector: int | None = None, victim: int | None = None) -> bytearray:
        """A new record, to stand at that index; of any victim if none is given."""
        pick = self._random.random
        if selector is None:
            selector = self._selectors[int(pick() * len(self._selectors))]
        shape = self._shapes.calls[selector]
        record = bytearray(CALL_BYTES)
        record[0] = selector
        able = self._able[selector]
        if victim is None or victim not in able:
            victim = able[int(pick() * len(able))]
        record[VICTIM_OFFSET] = victim
        if shape.target is not None:
            record[TARGET_OFFSET : TARGET_OFFSET + 2] = self._selector(shape.target, victim, index)
        for number, argument in enumerate(shape.arguments):
            place = argument_offset(number)
            record[place : place + 2] = self._selector(argument, victim, index)
        record[RAW_OFFSET : RAW_OFFSET + 8] = self._word()
        return record

    def _selector(self, shape: SlotShape | PoolShape, victim: int, index: int) -> bytes:
        if isinstance(shape, SlotShape):
            return self._slot(shape, victim, index)
        pick = self._random.random
        if shape.size == 0 or pick() < 0.02:
            return bytes((RAW_SELECTOR, 0))
        if pick() < shape.first:
            return bytes(2)
        if shape.usual and pick() < USUAL_SHARE:
            return bytes((shape.usual[int(pick() * len(shape.usual))], 0))
        return bytes((int(pick() * min(shape.size, RAW_SELECTOR)), int(pick() * shape.size) if shape.steps else 0))

    def _slot(self, shape: SlotShape, victim: int, index: int) -> bytes:
        """A slot selector: mostly of a fitting type, else the result of an earlier call, else anything."""
        pick = self._random.random
        chance = pick()
        counts = self._shapes.counts[victim]
        if chance >= shape.sure:
            if chance < 0.94 and index:
                # Recent calls are the likelier ones to have made what fits.
                back = 1 + int(pick() * pick() * index)
                return bytes((RESULT, min(index - back, 0xFF)))
            if chance >= 0.995:
                return bytes((RAW, 0))
            if chance >= 0.97:
                return bytes((LITERAL, int(pick() * self._shapes.slots)))
        types = shape.types or range(len(counts))
        number = types[int(pick() * len(types))]
        if not counts[number]:
            held = [each for each in types if counts[each]]
            if not held:
                return bytes((LITERAL, int(pick() * self._shapes.slots)))
            number = held[int(pick() * len(held))]
        which = 0 if pick() < shape.first else int(pick() * counts[number])
        return bytes((OF_TYPE | number << 2 & 0xFF, which))

    def _word(self) -> bytes:
        pick = self._random.random
        if pick() < 0.8:
            word = INTERESTING_WORDS[int(pick() * len(INTERESTING_WORDS))]
            if pick() < 0.2:
                word ^= 1 << int(pick() * 64)
        else:
            word = self._random.getrandbits(64)
        return word.to_bytes(8, "little")

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
        self._put(program, index, self.call(index, victim=self._neighbour(program, index)))

    def _insert_pair(self, program: bytearray) -> None:
        """A call and, right behind it, one that uses its result."""
        index = self._place(program, 1)
        victim = self._neighbour(program, index)
        first, second = self.call(index, victim=victim), self.call(index + 1, victim=victim)
        if self._shapes.calls[second[0]].target is not None:
            second[VICTIM_OFFSET] = first[VICTIM_OFFSET]
            second[TARGET_OFFSET : TARGET_OFFSET + 2] = bytes((RESULT, min(index, 0xFF)))
        self._put(program, index, first)
        self._put(program, index + 1, second)

    def _delete(self, program: bytearray) -> None:
        if len(program) > CALL_BYTES:
            index = self._place(program)
            del program[index * CALL_BYTES : (index + 1) * CALL_BYTES]
            self._renumber(program, index, -1)

    def _replace(self, program: bytearray) -> None:
        if program:
            index = self._place(program)
            victim = self._neighbour(program, index)
            program[index * CALL_BYTES : (index + 1) * CALL_BYTES] = self.call(index, victim=victim)

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
            program[place : place + 2] = self._selector(shape.arguments[number], self._victim_at(program, index), index)

    def _target(self, program: bytearray) -> None:
        if not program:
            return
        index = self._place(program)
        target = self._shape_at(program, index).target
        if target is not None:
            place = index * CALL_BYTES + TARGET_OFFSET
            program[place : place + 2] = self._selector(target, self._victim_at(program, index), index)

    def _victim_at(self, program: bytearray, index: int) -> int:
        return program[index * CALL_BYTES + VICTIM_OFFSET] % len(self._shapes.counts)

    def _victim(self, program: bytearray) -> None:
        """Give a call, or as a rule all from there on, to another victim."""
        if program:
            victim = self._victims[int(self._random.random() * len(self._victims))]
            place = self._place(program) * CALL_BYTES + VICTIM_OFFSET
            end = place + 1 if self._random.random() < 0.25 else len(program)
            for each in range(place, end, CALL_BYTES):
                program[each] = victim

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
        plain, index = pick() < 0.7, self._place(program, 1)
        for selector, victim in ((talk["Recv"], server), (talk["Call"], client), (answer, server)):
            record = self.call(index, selector, victim)
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
            program[place : place + 8] = self._word()


def slot_offsets(shape: CallShape) -> tuple[int, ...]:
    """Where a call's record holds slot selectors."""
    target = (TARGET_OFFSET,) if isinstance(shape.target, SlotShape) else ()
    arguments = tuple(
        argument_offset(number) for number, argument in enumerate(shape.arguments) if isinstance(argument, SlotShape)
    )
    return target + arguments


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
