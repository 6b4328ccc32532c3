# SPDX-License-Identifier: BSD-2-Clause
"""What a typed mutator knows of calls, and the records that it makes of it: arguments of their kinds, that fit."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from harness.build.smc_functions import CALL_64, FAST_CALL, OWNER_MASK, OWNER_SHIFT
from harness.programs.encodings import RAW_OFFSET, TARGET_OFFSET, SlotMode, argument_offset
from harness.programs.pools import RAW_SELECTOR
from harness.programs.population import OBJECT_TYPES
from harness.protocol import CALL_BYTES

VICTIM_OFFSET = 1
LITERAL, RESULT, OF_TYPE, RAW = (int(mode) for mode in (SlotMode.LITERAL, SlotMode.RESULT, SlotMode.TYPE, SlotMode.RAW))


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
class Fit:
    """Selectors of one call that go together: one of `target`, and one for each argument; none given: as usual."""

    target: tuple[bytes, ...] = ()
    arguments: tuple[tuple[bytes, ...], ...] = ()


@dataclass(frozen=True)
class CallShape:
    """What a call takes: `weight` is how often it is chosen, relative to the others; 0: never.

    `fits[v]`: what goes together when victim v makes it. `makes`: type number of what the call leaves in its
    destination; `like`: the argument that says so, a slot or an object type, if it is not always the same.
    """

    name: str
    target: SlotShape | PoolShape | None
    arguments: tuple[SlotShape | PoolShape, ...]
    weight: float = 1.0
    fits: tuple[tuple[Fit, ...], ...] = ()
    makes: int | None = None
    like: int | None = None


@dataclass(frozen=True)
class Badged:
    """How capabilities for one SMC function are made and used: call numbers of Mint and of the SMC, numbers of the
    arguments source, badge and function. `whole`: selectors of capabilities without a badge, by
    victim. `weight`: how often, as other edits are 1.
    """

    mint: int
    source: int
    badge: int
    call: int
    function: int
    whole: tuple[tuple[bytes, ...], ...]
    weight: int = 1


@dataclass(frozen=True)
class Exchange:
    """Numbers of the calls that an exchange is made of, and the selectors that its parts share.

    `pages`: of each page for messages, the selector as a message's target and as an SMC's argument. `commands`: of
    each command of a message; `bring` and `resume`: of the functions that bring a message and go on with its call.
    """

    message: int
    parameter: int
    smc: int
    interrupt: int
    change: int
    pages: tuple[tuple[bytes, bytes], ...]
    commands: Mapping[int, bytes]
    bring: bytes
    resume: bytes
    weight: int


@dataclass(frozen=True)
class Shapes:
    """All that a typed mutator knows of the interface and of the snapshot.

    `counts[v][t]`: how many slots of type number t victim v has. `shares[v]`: how often victim v is chosen, relative
    to the others; none given: all alike. `meeting[v]`: v's slot of an endpoint that all victims have, if they do.
    `exchange`: how a normal world talks to the Trusted OS, if there is one.
    """

    calls: tuple[CallShape, ...]
    counts: tuple[tuple[int, ...], ...]
    slots: int = 128
    shares: tuple[int, ...] = ()
    badged: Badged | None = None
    meeting: tuple[bytes, ...] = ()
    exchange: Exchange | None = None


INTERESTING_WORDS = (
    0, 1, 2, 3, 4, 8, 12, 21, 30, 39, 47, 48, 63, 64, 0xFFF, 0x1000, 0x1FFF, 0x200000, 0x40000000, 0x8000000000,
    0x0E000000, 0x0EE00000, 0x40200000, 0x0000FFFFFFFFFFFF, 0x0001000000000000, 0xFFFFFF8000000000,
    0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFF000, 0xFFFFFFFFFFFFFFFF,
)  # fmt: skip
"""Values of the raw word at which sizes, depths and addresses change meaning."""
USUAL_SHARE = 0.75
"""How often an argument is one of the values with which its call can succeed, where they are few."""
FIT_SHARE = 0.6
"""How often all of a new call goes together, where that is known."""


class CallMaker:
    """Makes records; what they are depends on the seed alone."""

    def __init__(self, shapes: Shapes, source: random.Random) -> None:
        self._shapes = shapes
        self._random = source
        shares = shapes.shares or (1,) * len(shapes.counts)
        self.victims = [victim for victim, share in enumerate(shares) for _ in range(share)]
        """Numbers of victims, as often as their shares say."""
        self._able = tuple(self._victims_with(call) for call in shapes.calls)
        # Choosing from a list with repetitions is cheaper than weights.
        finest = min(call.weight for call in shapes.calls if call.weight > 0)
        self._selectors = [n for n, call in enumerate(shapes.calls) for _ in range(round(call.weight / finest))]

    def _victims_with(self, call: CallShape) -> list[int]:
        """Victims, as often as their shares say, with which the call fits, or that have what it works on."""
        if able := [victim for victim in self.victims if call.fits and call.fits[victim]]:
            return able
        if not isinstance(call.target, SlotShape) or not call.target.types:
            return self.victims
        counts = self._shapes.counts
        able = [victim for victim in self.victims if any(counts[victim][number] for number in call.target.types)]
        return able or self.victims

    def able(self, selector: int) -> list[int]:
        """Victims that have what a call works on, as often as their shares say."""
        return self._able[selector]

    def call(
        self, index: int, selector: int | None = None, victim: int | None = None, program: bytes | bytearray = b""
    ) -> bytearray:
        """A new record, to stand at that index of a program; of any victim if none is given."""
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
            record[TARGET_OFFSET : TARGET_OFFSET + 2] = self.selector(shape.target, victim, index, program)
        for number, argument in enumerate(shape.arguments):
            place = argument_offset(number)
            record[place : place + 2] = self.selector(argument, victim, index, program)
        record[RAW_OFFSET : RAW_OFFSET + 8] = self.word()
        if shape.fits and pick() < FIT_SHARE:
            self.fit(record)
        return record

    def fit(self, record: bytearray) -> None:
        """Make all of a call go together, if it is known how for its victim."""
        pick = self._random.random
        shape = self._shapes.calls[record[0] % len(self._shapes.calls)]
        fits = shape.fits[record[VICTIM_OFFSET] % len(self._shapes.counts)] if shape.fits else ()
        if fits:
            self.apply(record, fits[int(pick() * len(fits))])

    def apply(self, record: bytearray, fit: Fit) -> None:
        """Make all of a call go together in one way."""
        pick = self._random.random
        if fit.target:
            record[TARGET_OFFSET : TARGET_OFFSET + 2] = fit.target[int(pick() * len(fit.target))]
        for number, choices in enumerate(fit.arguments):
            if choices:
                place = argument_offset(number)
                record[place : place + 2] = choices[int(pick() * len(choices))]

    def made(self, program: bytes | bytearray, index: int) -> int | None:
        """Type number of what a call of a program makes; None if it makes nothing, or nobody knows."""
        calls = self._shapes.calls
        while True:
            start = index * CALL_BYTES
            shape = calls[program[start] % len(calls)]
            if shape.makes is not None or shape.like is None:
                return shape.makes
            place = start + argument_offset(shape.like)
            low, high = program[place], program[place + 1]
            types = len(self._shapes.counts[0])
            if isinstance(shape.arguments[shape.like], PoolShape):
                return low if low < len(OBJECT_TYPES) else None
            if low & 3 == OF_TYPE:
                return (low >> 2) % types
            if low & 3 != RESULT or not index:
                return None
            index = high % index

    def selector(
        self, shape: SlotShape | PoolShape, victim: int, index: int, program: bytes | bytearray = b""
    ) -> bytes:
        """A selector for an argument of the call at that index of a program."""
        if isinstance(shape, SlotShape):
            return self._slot(shape, victim, index, program)
        pick = self._random.random
        if shape.size == 0 or pick() < 0.02:
            return bytes((RAW_SELECTOR, 0))
        if pick() < shape.first:
            return bytes(2)
        if shape.usual and pick() < USUAL_SHARE:
            return bytes((shape.usual[int(pick() * len(shape.usual))], 0))
        return bytes((int(pick() * min(shape.size, RAW_SELECTOR)), int(pick() * shape.size) if shape.steps else 0))

    def _slot(self, shape: SlotShape, victim: int, index: int, program: bytes | bytearray) -> bytes:
        """A slot selector: mostly of a fitting type, else the result of an earlier call, else anything."""
        pick = self._random.random
        chance = pick()
        counts = self._shapes.counts[victim]
        if chance >= shape.sure:
            if chance < 0.94 and index:
                # Recent calls are the likelier ones to have made what fits.
                for _ in range(4):
                    back = 1 + int(pick() * pick() * index)
                    if self._suits(program, index - back, victim, shape):
                        break
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

    def _suits(self, program: bytes | bytearray, index: int, victim: int, shape: SlotShape) -> bool:
        """Whether a call of a program is this victim's, and makes what a slot argument wants."""
        if (index + 1) * CALL_BYTES > len(program):
            return True
        if program[index * CALL_BYTES + VICTIM_OFFSET] % len(self._shapes.counts) != victim:
            return False
        made = self.made(program, index)
        return made is not None and (not shape.types or made in shape.types)

    def function(self) -> int:
        """An identifier of an SMC function: any owner, both widths, mostly a fast call with a small number."""
        pick = self._random.random
        number = int(pick() * 16) if pick() < 0.7 else self._random.getrandbits(16)
        fast = FAST_CALL if pick() < 0.7 else 0
        width = CALL_64 if pick() < 0.5 else 0
        upper = self._random.getrandbits(32) << 32 if pick() < 0.1 else 0
        return upper | fast | width | int(pick() * (OWNER_MASK + 1)) << OWNER_SHIFT | number

    def word(self) -> bytes:
        """A raw word, most often one at which something changes."""
        pick = self._random.random
        if pick() < 0.8:
            word = INTERESTING_WORDS[int(pick() * len(INTERESTING_WORDS))]
            if pick() < 0.2:
                word ^= 1 << int(pick() * 64)
        else:
            word = self._random.getrandbits(64)
        return word.to_bytes(8, "little")


def slot_offsets(shape: CallShape) -> tuple[int, ...]:
    """Where a call's record holds slot selectors."""
    target = (TARGET_OFFSET,) if isinstance(shape.target, SlotShape) else ()
    arguments = tuple(
        argument_offset(number) for number, argument in enumerate(shape.arguments) if isinstance(argument, SlotShape)
    )
    return target + arguments


def uses_of(shapes: Shapes) -> dict[int, list[tuple[int, int]]]:
    """For each slot type: (number of a call, offset of a selector) at which such a slot makes sense, by weight."""
    uses: dict[int, list[tuple[int, int]]] = {}
    finest = min(call.weight for call in shapes.calls if call.weight > 0)
    for number, call in enumerate(shapes.calls):
        slots = [(TARGET_OFFSET, call.target)]
        slots += [(argument_offset(n), argument) for n, argument in enumerate(call.arguments)]
        for offset, shape in slots:
            if isinstance(shape, SlotShape):
                for type_ in shape.types:
                    uses.setdefault(type_, []).extend([(number, offset)] * round(call.weight / finest))
    return uses
