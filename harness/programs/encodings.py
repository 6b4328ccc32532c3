# SPDX-License-Identifier: BSD-2-Clause
"""Programs as bytes, and what a victim makes of them.

A program is a row of records of 32 bytes; a trailing part of a record is ignored. Every byte
string is a program:

====== =======================================================================================
bytes  meaning
====== =======================================================================================
0      call: index in the call table, modulo its length
1      victim, modulo the number of victims; a call of the normal world has none
2-3    selector of the target
4-19   selectors of the arguments 0 to 7
20-27  one raw 64-bit value (little-endian) for selectors that ask for it
28-31  selectors of the arguments 8 and 9
====== =======================================================================================

A selector is two bytes, `lo` and `hi`. Of a slot, the low two bits of `lo` say how it is
chosen: 0 slot `hi`; 1 the destination of the call `hi` of this program (an earlier one; slot
0 if that call makes nothing); 2 the `hi`-th slot of type `lo >> 2`; 3 the raw value. Of any
other kind, `lo` chooses from the kind's pool, 0xff takes the raw value, and `hi` is ignored.
All indices wrap around. `decode` is the reference for the decoder that runs in the guest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np

from harness import protocol
from harness.programs.interfaces import CallType, Interface, Place
from harness.programs.pools import RAW_SELECTOR, Pool
from harness.programs.population import SLOT_TYPES

TARGET_OFFSET = 2
ARGUMENTS_OFFSET = 4
RAW_OFFSET = 20
MORE_ARGUMENTS_OFFSET = 28
_FIRST_ARGUMENTS = 8
_MASK = (1 << 64) - 1
_REMEMBERED = 1 << 15
"""Records whose decoded calls are kept."""
_FNV_OFFSET = 0xCBF29CE484222325
_FNV_PRIME = 0x100000001B3


class SlotMode(IntEnum):
    """The low two bits of a slot selector."""

    LITERAL = 0
    RESULT = 1
    TYPE = 2
    RAW = 3


def argument_offset(index: int) -> int:
    """Byte offset of an argument's selector in its record."""
    if index < _FIRST_ARGUMENTS:
        return ARGUMENTS_OFFSET + 2 * index
    return MORE_ARGUMENTS_OFFSET + 2 * (index - _FIRST_ARGUMENTS)


@lru_cache(maxsize=8)  # each of the judgements of a program asks for them
def records(program: bytes) -> Sequence[bytes]:
    """The whole records of a program, at most protocol.MAXIMUM_CALLS."""
    count = min(len(program) // protocol.CALL_BYTES, protocol.MAXIMUM_CALLS)
    return tuple([program[i * protocol.CALL_BYTES : (i + 1) * protocol.CALL_BYTES] for i in range(count)])


@dataclass(frozen=True)
class Decoded:
    """One call as the victim performs it; the normal world's number is that of the victims."""

    call: int
    victim: int
    syscall: int
    target: int
    info: int
    words: tuple[int, ...]
    caps: tuple[int, ...]


_Step = tuple[int, Pool | None, int, Place, int, int, int]
"""How a parameter is decoded: offset of its selector, pool (None: a slot), words, place, index, mask, shift."""


class Decoder:
    """Decodes programs with the tables of one build."""

    def __init__(self, interface: Interface) -> None:
        """Keep the tables that every decode needs."""
        self._interface = interface
        self._calls = interface.calls
        self._pools = interface.pools
        self._population = interface.population
        self._victims = len(interface.population.victims)
        self._slot_mask = interface.population.slots_per_victim - 1
        self._slots = [_slot_offsets(call) for call in interface.calls]
        self._plans = [[self._plan(call, number) for number in range(len(call.parameters))] for call in interface.calls]
        self._known: dict[bytes, Decoded] = {}
        self._rows: Sequence[bytes] = ()
        """The records of the program that was decoded last, and those of its calls that depend on earlier ones."""
        self._dependent: dict[int, Decoded] = {}

    def _plan(self, call: CallType, number: int) -> _Step:
        parameter = call.parameters[number]
        pool = None if parameter.kind == "slot" else self._pools[parameter.kind]
        mask = (1 << parameter.bits) - 1
        offset = argument_offset(number)
        return offset, pool, parameter.words, parameter.place, parameter.index, mask, parameter.shift

    def _slot(self, rows: Sequence[bytes], index: int, offset: int) -> int:
        while True:
            row = rows[index]
            low, high = row[offset], row[offset + 1]
            mode = low & 3
            if mode == SlotMode.LITERAL:
                return high & self._slot_mask
            if mode == SlotMode.RAW:
                return int.from_bytes(row[RAW_OFFSET : RAW_OFFSET + 8], "little")
            if mode == SlotMode.TYPE:
                slots = self._population.of_type(row[1] % self._victims, (low >> 2) % len(SLOT_TYPES))
                return slots[high % len(slots)] if slots else 0
            if index == 0:
                return 0
            index = high % index
            destination = self._calls[rows[index][0] % len(self._calls)].destination
            if destination is None:
                return 0
            offset = argument_offset(destination)

    def _value(self, rows: Sequence[bytes], index: int, offset: int, kind: str) -> int:
        if kind == "slot":
            return self._slot(rows, index, offset)
        row = rows[index]
        return self._pools[kind].value(row[offset], int.from_bytes(row[RAW_OFFSET : RAW_OFFSET + 8], "little"))

    def decode(self, program: bytes) -> list[Decoded]:
        """Every call of a program."""
        rows = records(program)
        return [self._decode(rows, index) for index in range(len(rows))]

    def decode_call(self, rows: Sequence[bytes], index: int) -> Decoded:
        """One call of a program, given as its records.

        What depends on its record alone is remembered: a campaign's programs share most of their records.
        """
        row = rows[index]
        known = self._known.get(row)
        if known is not None:
            return known
        if rows is not self._rows:
            self._rows = rows
            self._dependent.clear()
        elif index in self._dependent:
            return self._dependent[index]
        decoded = self._decode(rows, index)
        for offset in self._slots[decoded.call]:
            if row[offset] & 3 == SlotMode.RESULT:
                self._dependent[index] = decoded
                return decoded
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[row] = decoded
        return decoded

    def _decode(self, rows: Sequence[bytes], index: int) -> Decoded:
        row = rows[index]
        number = row[0] % len(self._calls)
        call: CallType = self._calls[number]
        words = [0] * call.words
        caps: list[int] = []
        info = call.info
        raw = int.from_bytes(row[RAW_OFFSET : RAW_OFFSET + 8], "little")
        for offset, pool, count, place, at, mask, shift in self._plans[number]:
            if count > 1 and pool is not None:  # from one selector, in steps of `hi` through the pool
                values, first, step = pool.values, row[offset], row[offset + 1]
                value = pool.value(first, raw)
                for i in range(count):
                    words[at + i] = value if first == RAW_SELECTOR else values[(first + i * step) % len(values)]
                continue
            value = self._slot(rows, index, offset) if pool is None else pool.value(row[offset], raw)
            if place is Place.CAP:
                caps.append(value)
            elif place is Place.INFO:
                info |= (value & mask) << shift
            else:
                words[at] |= (value & mask) << shift
        target = self._value(rows, index, TARGET_OFFSET, call.target) if call.target else 0
        performer = self._interface.performer(number, row[1])
        return Decoded(number, performer, call.syscall, target, info, tuple(words), tuple(caps))

    def decode_table(self, program: bytes) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """What a victim writes for a DECODE_ONLY command: protocol.DECODED[calls]."""
        calls = self.decode(program)
        table = np.zeros(len(calls), protocol.DECODED)
        for entry, call in zip(table, calls, strict=True):
            entry["call"], entry["victim"], entry["syscall"] = call.call, call.victim, call.syscall
            entry["target"], entry["info"] = call.target, call.info
            entry["cap"][: len(call.caps)] = call.caps
            entry["word0"] = call.words[0] if call.words else 0
            entry["digest"] = digest(call)
        return table


def _slot_offsets(call: CallType) -> tuple[int, ...]:
    """Where a call's record has selectors of slots."""
    target = (TARGET_OFFSET,) if call.target == "slot" else ()
    return target + tuple(argument_offset(i) for i, p in enumerate(call.parameters) if p.kind == "slot")


def digest(call: Decoded) -> int:
    """FNV-1a over message words and extra capabilities, 64 bits at a time."""
    value = _FNV_OFFSET
    for word in (*call.words, *call.caps):
        value = (value ^ word) * _FNV_PRIME & _MASK
    return value
