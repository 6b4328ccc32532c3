# SPDX-License-Identifier: BSD-2-Clause
"""What the normal world's calls of a program do, one after the other, as its guest performs them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.configs import MachineConfig, NormalWorld
from harness.programs.encodings import Decoded
from harness.programs.normal_calls import (
    ANSWER,
    FIRST_SESSION,
    LATEST_SESSION,
    SESSIONS,
    refused_ranges,
)
from harness.programs.normal_registers import GIVEN, RESULTS
from harness.programs.trusted_messages import META, Command, ParameterType, load_trusted_services
from harness.specification.answers import NotCoveredError
from harness.specification.normal_world import messages
from harness.specification.normal_world.memory import MASK, MASK_32, WORD, SharedMemory
from harness.specification.normal_world.monitor import Monitor
from harness.specification.normal_world.trusted_os import Functions, TrustedOS

_NO_RESULT = 0x4E574E57
_PAGE_MASK = 0xFFF
_IMMEDIATE = 8
"""Index of an SMC's immediate among its words."""
_CLIENT_MASK = 0xFFFF
_UUIDS = [service.words for service in load_trusted_services()]


@dataclass
class Change:
    """Bytes of shared memory that change at some time."""

    address: int
    data: bytes


@dataclass
class State:
    """What one order of events leads to: several are possible while a change of memory is to come."""

    memory: SharedMemory
    system: TrustedOS
    change: Change | None = None
    sessions: list[int] = field(default_factory=list)
    """Those that were opened, in order."""
    message: int = 0
    """Where the message of the last call lies."""

    def copy(self) -> State:
        """Another one that is the same; NotCoveredError while calls wait for the normal world."""
        if self.system.is_suspended():
            raise NotCoveredError("memory changes while calls are suspended")
        memory = self.memory.copy()
        system = TrustedOS(memory, copy.deepcopy(self.system.sessions), copy.deepcopy(self.system.registered))
        return State(memory, system, self.change, list(self.sessions), self.message)

    def apply_change(self) -> None:
        """The bytes change now."""
        assert self.change is not None
        self.memory.write(self.change.address, self.change.data)
        self.memory.watched, self.change = None, None


@dataclass
class Smc:
    """An SMC as the guest makes it: x0-x7, and what it is called."""

    x: list[int]
    immediate: int

    @property
    def function(self) -> int:
        """The identifier: 32 bits."""
        return self.x[0] & MASK_32


class Machine:
    """What calls do on one machine."""

    def __init__(self, config: MachineConfig, normal: NormalWorld) -> None:
        self.monitor = Monitor(config)
        self.functions = Functions((normal.shared.base, normal.shared.size))
        self._refused = refused_ranges(config, normal)

    def name(self, function: int) -> str:
        """What a function is called."""
        return self.monitor.name(function) or self.functions.names.get(function, "unknown function")

    def answer(self, state: State, smc: Smc) -> tuple[int, ...]:
        """x0-x3 after an SMC, which it carries out; NotCoveredError where that cannot be said."""
        x = smc.x
        if smc.immediate:
            return self.monitor.answer((MASK, *x[1:]))
        function = smc.function
        if not self.monitor.is_dispatched(function):
            return self.monitor.answer(x)
        client, w = x[7] & _CLIENT_MASK, [word & MASK_32 for word in x[1:7]]
        answer = self.functions.answer(state.system, function, client, w)
        if answer is not None:
            return answer
        number = self.functions.number
        if function == number["optee_call_with_arg"]:
            return messages.call(state.system, client, w)
        return messages.resume(state.system, client, w)

    def outcomes(self, state: State, smc: Smc) -> list[tuple[State, tuple[int, ...]]]:
        """What an SMC can lead to, memory that changes meanwhile included; NotCoveredError."""
        if state.change is None or not self.monitor.is_dispatched(smc.function) or smc.immediate:
            return [(state, self.answer(state, smc))]
        before, after, never = state.copy(), state.copy(), state.copy()
        before.apply_change()
        found = [(before, self.answer(before, smc))]
        answer = self.answer(after, smc)
        after.apply_change()
        # The change may have come before the call wrote there: then the call's own output stays.
        overwritten = never.copy()
        self.answer(overwritten, smc)
        overwritten.change = overwritten.memory.watched = None
        found += [(after, answer), (overwritten, answer), (never, self.answer(never, smc))]
        return found

    def store(self, state: State, address: int, data: bytes) -> None:
        """A store of the normal world itself."""
        if state.memory.is_shared(address, len(data)):
            state.memory.write(address, data)

    def is_refused(self, address: int) -> bool:
        """Whether the guest does not make accesses there."""
        return any(base <= address < end for base, end in self._refused)


def resolve(value: int, state: State, answers: Sequence[int]) -> int:
    """What a value stands for; `answers`: x0-x3 of the SMC before."""
    number, opened = value & 0xFF, state.sessions
    match value & ~0xFF:
        case kind if kind == LATEST_SESSION:
            return opened[-1 - number] if number < min(len(opened), SESSIONS) else 0
        case kind if kind == FIRST_SESSION:
            return opened[number] if number < len(opened) <= SESSIONS else 0
        case kind if kind == ANSWER:
            return answers[number] if number < RESULTS else 0
    return value


def smc_of(call: Decoded, given: dict[int, int], state: State, answers: Sequence[int]) -> Smc:
    """The SMC that a call makes; `given`: registers that earlier calls have chosen for it."""
    x = [given.get(n, resolve(call.words[n], state, answers)) for n in range(8)]
    return Smc(x, call.words[_IMMEDIATE])


def given_number(word: int) -> int:
    """The register that a NormalRegister chooses."""
    return word % GIVEN


def note_message(state: State, smc: Smc, call_with_arg: int) -> None:
    """What the guest remembers before an SMC that brings a message."""
    if smc.function == call_with_arg:
        state.message = (smc.x[1] << 32 | smc.x[2] & MASK_32) & MASK


def note_session(state: State, answer: int) -> None:
    """After such an SMC: a session that was opened shows its number in the message."""
    at = state.message
    if answer or at % WORD or not state.memory.is_shared(at, messages.HEADER):
        return
    header = [int.from_bytes(state.memory.read(at + 4 * n, 4), "little") for n in range(messages.HEADER // 4)]
    if header[0] == Command.OPEN_SESSION and not header[5]:
        state.sessions.append(header[2])
    state.message = 0


def write_parameter(memory: SharedMemory, at: int, index: int, words: Sequence[int]) -> None:
    """Type, a, b and c of a message's parameter."""
    for number, word in enumerate(words):
        memory.put(at + messages.HEADER + index * messages.ENTRY + WORD * number, word)


def _write_given(memory: SharedMemory, at: int, index: int, type_: int, a: int, b: int) -> None:
    base = type_ & 0xFF
    words = (type_, a, b, 0)
    if ParameterType.RMEM_INPUT <= base <= ParameterType.RMEM_INOUT:
        words = (type_, a & _PAGE_MASK, b, a & ~_PAGE_MASK)
    elif ParameterType.TMEM_INPUT <= base <= ParameterType.TMEM_INOUT:
        words = (type_, a, b, a & ~_PAGE_MASK)
    write_parameter(memory, at, index, words)


def write_message(memory: SharedMemory, at: int, words: Sequence[int], values: Sequence[int]) -> None:
    """What a NormalMessage writes; `words` as the program says them, `values`: what they stand for."""
    first, service = 0, words[3]
    if words[0] == Command.OPEN_SESSION:
        low, high = _UUIDS[service] if service < len(_UUIDS) else (service, ~service & MASK)
        write_parameter(memory, at, 0, (META | ParameterType.VALUE_INPUT, low, high, 0))
        write_parameter(memory, at, 1, (META | ParameterType.VALUE_INPUT, 0, 0, 0))
        first = 2
    _write_given(memory, at, first, words[4], values[5], values[6])
    _write_given(memory, at, first + 1, words[7], values[8], values[9])
    memory.put(at, words[0] & MASK_32 | words[1] << 32)
    memory.put(at + 8, values[2] & MASK_32)
    memory.put(at + 16, _NO_RESULT << 32)
    memory.put(at + 24, first + (2 if words[7] else 1 if words[4] else 0) << 32)
