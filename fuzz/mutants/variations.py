# SPDX-License-Identifier: BSD-2-Clause
"""Each argument of each invocation wrong in each way, one at a time, and each message too short: what errors answer.

Campaigns reach these one by one, and most of them once. As programs they are made in a moment from any program that
makes the call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.programs.descriptions import Action
from harness.programs.encodings import RAW_OFFSET, TARGET_OFFSET, SlotMode, argument_offset, records
from harness.programs.interfaces import CallType, Interface, Place
from harness.programs.population import SLOT_TYPES
from harness.protocol import CALL_BYTES

CALLS = 8
"""Calls in one program; most of them are refused, so that they leave the others alone."""
_VALUES = 16
"""Values that are taken of one pool."""
GENERAL = "Call"
"""The call of the harness that has any label, length and number of capabilities."""
_SLOT = "slot"
_BLOCKING = frozenset({"endpoint", "reply"})
"""Who invokes one of these waits for a thread, and makes no further call."""


def variations(interface: Interface, programs: Iterable[bytes]) -> dict[str, bytes]:
    """Programs of variations of a call of each kind, by name: the first that needs no result of another call."""
    found: dict[int, bytes] = {}
    for program in programs:
        for row in records(program):
            number = row[0] % len(interface.calls)
            if number not in found or (needs_result(interface, found[number]) and not needs_result(interface, row)):
                found[number] = row
    made = {}
    for number, row in sorted(found.items()):
        type_ = interface.calls[number]
        if type_.action is not Action.INVOKE:
            continue
        rows = list(dict.fromkeys([*_varied(interface, type_, row), *_shortened(interface, type_, row)]))
        for start in range(0, len(rows), CALLS):
            made[f"{type_.name} varied, from {start}"] = b"".join(rows[start : start + CALLS])
    return made


def _selectors(type_: CallType) -> list[tuple[int, str]]:
    """Where the selectors of a call stand in its record, and what kind of value each chooses."""
    target = [(TARGET_OFFSET, _SLOT)] if type_.target else []
    return target + [(argument_offset(index), parameter.kind) for index, parameter in enumerate(type_.parameters)]


def needs_result(interface: Interface, row: bytes) -> bool:
    """Whether a record chooses the result of another call."""
    places = _selectors(interface.calls[row[0] % len(interface.calls)])
    return any(kind == _SLOT and row[offset] & SlotMode.RAW == SlotMode.RESULT for offset, kind in places)


def _varied(interface: Interface, type_: CallType, row: bytes) -> Iterator[bytes]:
    """A record with each of its selectors replaced by others."""
    for offset, kind in _selectors(type_):
        if kind == _SLOT:
            left_out = _BLOCKING if offset == TARGET_OFFSET else frozenset[str]()
            values = [SlotMode.TYPE | index << 2 for index, name in enumerate(SLOT_TYPES) if name not in left_out]
        else:
            values = list(range(min(_VALUES, len(interface.pools[kind].values))))
        for value in values:
            yield row[:offset] + bytes((value, 0)) + row[offset + 2 :]


def _shortened(interface: Interface, type_: CallType, row: bytes) -> Iterator[bytes]:
    """A record as a Call with the same label, with fewer words and with fewer capabilities than the invocation has."""
    call = interface.call(GENERAL)
    place = {parameter.name: argument_offset(index) for index, parameter in enumerate(call.parameters)}
    caps = [offset for name, offset in place.items() if name.startswith("cap") and name != "caps"]
    given = [argument_offset(i) for i, parameter in enumerate(type_.parameters) if parameter.place is Place.CAP]
    lengths, labels = interface.pools["length"].values, interface.pools["label"].values
    if type_.label not in labels or len(given) > len(caps):
        return

    def changed(length: int, count: int) -> bytes:
        made = bytearray(row[: argument_offset(0)]) + bytes(CALL_BYTES - argument_offset(0))
        made[0] = interface.index[GENERAL]
        made[RAW_OFFSET : RAW_OFFSET + 8] = row[RAW_OFFSET : RAW_OFFSET + 8]
        made[place["label"]] = labels.index(type_.label)
        made[place["length"]] = lengths.index(length)
        made[place["caps"]] = count
        for to, offset in zip(caps, given, strict=False):
            made[to : to + 2] = row[offset : offset + 2]
        return bytes(made)

    for length in range(type_.words):
        if length in lengths:
            yield changed(length, len(given))
    if type_.words in lengths:
        for count in range(len(given)):
            yield changed(type_.words, count)
