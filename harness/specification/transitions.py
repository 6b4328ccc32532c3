# SPDX-License-Identifier: BSD-2-Clause
"""Compares the state after an invocation with what it must have written: slots, tables, ASIDs and new objects.

Whatever else a call does to threads, queues and the victims' own memory is left out. Both states are
snapshots with some words changed, as two executions of the program, up to the call and with it, left them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from harness.kernel_state.memory import Ram
from harness.kernel_state.state import KernelState
from harness.programs.encodings import Decoded
from harness.protocol import PAGE, CallState
from harness.specification.answers import DONE, NotCoveredError
from harness.specification.consequences import consequences
from harness.specification.memory import Memory
from harness.specification.model import NODE, Fresh, Model
from harness.specification.oracle import AnswerOracle, Difference
from harness.specification.table import RULES, Expected, expected

Array = np.ndarray[Any, Any]

_TABLES = ("page_table_cap", "page_directory_cap", "page_upper_directory_cap", "page_global_directory_cap")
_SLOT_PARTS = ("capability", "capability", "mdbPrev", "mdbNext")


@dataclass(frozen=True)
class Changes:
    """Words that differ from the snapshot: `numbers` (sorted, counted from the start of secure RAM) and `values`."""

    numbers: Array
    values: Array

    @classmethod
    def of(cls, changed: Any, ram: Ram) -> Changes:
        """Of a memory as it is now; a copy. `changed`: the numbers."""
        numbers = np.sort(changed.astype(np.int64))
        return cls(numbers, ram.words[numbers].copy())

    @classmethod
    def none(cls) -> Changes:
        """Of the snapshot itself."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.uint64))

    def read(self, snapshot: Ram, numbers: Array) -> Array:
        """Words by number."""
        words: Array = snapshot.words[numbers].copy()
        if len(self.numbers):
            place = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
            known = self.numbers[place] == numbers
            words[known] = self.values[place[known]]
        return words


_WATCHED: WeakKeyDictionary[KernelState, tuple[Array, Array]] = WeakKeyDictionary()


def _watched(state: KernelState) -> tuple[Array, Array]:
    """First and end addresses, in order, of all slots, tables, ASID pools, and of the table of these."""
    known = _WATCHED.get(state)
    if known is None:
        layout, caps = state.layout, state.caps
        ranges = [(c.address, c.address + (c.slots << layout.slot_bits)) for c in state.containers]
        for kind in (*_TABLES, "asid_pool_cap"):
            ranges += [(base, base + PAGE) for base in set(caps.base[caps.of(kind)].tolist())]
        table = layout.variable("armKSASIDTable")
        ranges.append((layout.physical(table.address), layout.physical(table.address) + table.size))
        ranges.sort()
        starts, ends = (np.array(column, np.int64) for column in zip(*ranges, strict=True))
        known = _WATCHED[state] = starts, np.maximum.accumulate(ends)
    return known


class Comparison:
    """What differs between the memory that a call left and that of its model."""

    def __init__(self, model: Model, snapshot: Ram, before: Changes, after: Changes) -> None:
        self._model = model
        self._snapshot = snapshot
        self._before, self._after = before, after

    def _addresses(self, numbers: Array) -> Array:
        addresses: Array = self._snapshot.base + 8 * numbers
        return addresses

    def _word(self, address: int) -> int:
        return int(self._after.read(self._snapshot, np.array([(address - self._snapshot.base) >> 3], np.int64))[0])

    def wrong(self) -> str:
        """The first word that is not as it must be; empty if there is none."""
        for address, wanted in self._model.words.items():
            if not self._is_free(address) and (found := self._word(address)) != wanted:
                return self._says(address, found, wanted)
        return self._unasked() or next((text for new in self._model.fresh if (text := self._not_fresh(new))), "")

    def _is_free(self, address: int) -> bool:
        """Whether nothing is said about a word: it is nobody's, or a link that is not known."""
        model = self._model
        if any(first <= address < end for first, end in model.gone):
            return True
        if model.links_known:
            return False
        bytes_ = model.layout.slot_bytes
        slots = ((address - one.address, one.slots * bytes_) for one in model.state.containers)
        return any(0 <= place < size and place % bytes_ >= NODE for place, size in slots)

    def _unasked(self) -> str:
        """A change of what the call should leave alone."""
        numbers = np.union1d(self._before.numbers, self._after.numbers)
        old, new = (one.read(self._snapshot, numbers) for one in (self._before, self._after))
        numbers, old, new = (column[old != new] for column in (numbers, old, new))
        addresses = self._addresses(numbers)
        starts, ends = _watched(self._model.state)
        place = np.maximum(np.searchsorted(starts, addresses, side="right") - 1, 0)
        inside = (addresses >= starts[place]) & (addresses < ends[place])
        rows: Iterable[tuple[int, int, int]] = zip(
            *(column[inside].tolist() for column in (addresses, old, new)), strict=True
        )
        for address, was, found in rows:
            if address in self._model.words or self._is_free(address):
                continue
            if not (address in self._model.maybe and not found):
                return self._says(address, found, was)
        return ""

    def _not_fresh(self, new: Fresh) -> str:
        first = (new.start - self._snapshot.base) >> 3
        words = self._snapshot.words[first : (new.end - self._snapshot.base) >> 3].copy()
        numbers = self._after.numbers
        low, high = np.searchsorted(numbers, (first, first + len(words)))
        words[numbers[low:high] - first] = self._after.values[low:high]
        for address, (mask, wanted) in new.words.items():
            found = int(words[(address - new.start) >> 3])
            if found & mask != wanted:
                return f"the new object at {new.start:#x} holds {found:#x} at {address:#x}, not {wanted:#x}"
            words[(address - new.start) >> 3] = 0
        used = words.nonzero()[0]
        if not len(used):
            return ""
        return f"memory of an object at {new.start:#x} is not cleared: {new.start + 8 * int(used[0]):#x}"

    def _says(self, address: int, found: int, wanted: int) -> str:
        state = self._model.state
        bytes_ = state.layout.slot_bytes
        for container in state.containers:
            index, rest = divmod(address - container.address, bytes_)
            if 0 <= index < container.slots:
                where = f"{_SLOT_PARTS[rest >> 3]} of slot {index} of the {container.kind.name} {container.address:#x}"
                return f"{where} is {found:#x} and not {wanted:#x}"
        return f"the word at {address:#x} is {found:#x} and not {wanted:#x}"


def difference(
    oracle: AnswerOracle,
    index: int,
    call: Decoded,
    result: Any,
    states: tuple[KernelState, Ram],
    changes: tuple[Changes, Changes],
) -> Difference | None:
    """What a call has done otherwise than it must; None for nothing, or if that is not known.

    `result`: protocol.RESULT of the call; `states`: the state before it, and memory of the snapshot; `changes`: what
    differs from the snapshot before and after the call.
    """
    name = oracle.interface.calls[call.call].name
    victim = oracle.interface.population.victims[call.victim].name
    evidence = {"call": index, "name": name, "victim": victim, "words": [hex(word) for word in call.words]}
    try:
        wrong = oracle.wrong_access(call, result, states[0])
        if wrong is None:
            wrong = _wrong_writes(oracle, call, result, states, changes)
    except (NotCoveredError, KeyError, StopIteration):
        return None
    return Difference(f"call {index} ({victim}: {name}): {wrong}", name, evidence) if wrong else None


def _wrong_writes(
    oracle: AnswerOracle,
    call: Decoded,
    result: Any,
    states: tuple[KernelState, Ram],
    changes: tuple[Changes, Changes],
) -> str:
    """What an invocation has written otherwise than it must; empty for nothing. NotCoveredError."""
    state, snapshot = states
    if int(result["state"]) != CallState.DONE or int(result["error"]):
        return ""
    memory = Memory(state.layout, state.ram)
    invocation = oracle.invocation(call, memory)
    if isinstance(invocation, Expected):
        return ""
    label = oracle.label(call)
    if label not in RULES.get(invocation.cap.type, {}) or expected(invocation, label).answer != DONE:
        return ""
    model = Model(state, memory)
    consequences(model, invocation, label)
    wrong = Comparison(model, snapshot, *changes).wrong()
    told = tuple(int(word) for word in result["mr"][: len(model.told)])
    if not wrong and told != model.told:
        wrong = f"it told {list(map(hex, told))} and not {list(map(hex, model.told))}"
    return wrong
