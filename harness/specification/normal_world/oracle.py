# SPDX-License-Identifier: BSD-2-Clause
"""Compares a program's normal-world calls, and the memory that they leave, with the specification.

All calls before one are followed, so nothing has to run again. Where the specification cannot follow, because an
interrupt came in between or the program changes its own code, judgement ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import protocol
from harness.configs import MachineConfig, NormalWorld
from harness.kernel_state.memory import MemoryImage
from harness.programs.encodings import Decoded, Decoder, records
from harness.programs.interfaces import Action, Interface
from harness.programs.normal_registers import RESULTS
from harness.protocol import PAGE, CallState
from harness.specification.answers import NotCoveredError
from harness.specification.normal_world.memory import MASK, WORD, SharedMemory, extent
from harness.specification.normal_world.programs import (
    Change,
    Machine,
    Smc,
    State,
    given_number,
    note_message,
    note_session,
    resolve,
    smc_of,
    write_message,
    write_parameter,
)
from harness.specification.normal_world.trusted_os import RPC_FOREIGN_INTERRUPT, TrustedOS

SHARED_MEMORY = "shared memory"
"""What a difference concerns that is in no answer."""
_STATES = 16
"""Orders of events that are followed at once."""
_PERFORMED = (CallState.DONE, CallState.FAULTED)
_DOMAINS = "seL4_DomainSet"
"""The interface by whose calls the secure world may keep the Trusted OS from running."""


@dataclass
class Difference:
    """Something wrong: in words, what it concerns, and what was compared."""

    message: str
    label: str
    evidence: dict[str, Any]


@dataclass
class Comparison:
    """What was compared in a program: SMCs that were `judged`, and what is wrong."""

    judged: int = 0
    wrong: list[Difference] = field(default_factory=list)


class NormalOracle:
    """Judges programs of one machine; `snapshot` is the memory that each begins with."""

    def __init__(self, config: MachineConfig, normal: NormalWorld, interface: Interface, snapshot: MemoryImage) -> None:
        self._config, self._normal = config, normal
        self._interface = interface
        self._decoder = Decoder(interface)
        self._machine = Machine(config, normal)
        self.answered = self.judged = 0
        """SMCs of the normal world that returned in all programs so far, and those of them that were judged."""
        self._smc = interface.index["NormalSMC"]
        self._base, self._end = extent(normal)
        self._start = snapshot.read(self._base, self._end - self._base)
        count = len(interface.calls)
        self._normal_call = [index >= interface.first_normal_call for index in range(count)]
        self._domain_call = [interface.calls[index].interface == _DOMAINS for index in range(count)]

    def compare(self, memory: MemoryImage, observation: Any) -> Comparison:
        """Judge what a program's calls returned, and the shared pages as they are after it.

        Raises an ImageError where `memory` does not hold program or pages, a MachineError if the observation is over.
        """
        start = self._config.exchange.base + protocol.EXCHANGE_PROGRAM
        rows = records(memory.read(start, observation.calls * protocol.CALL_BYTES))
        numbers = [row[0] % len(self._normal_call) for row in rows]
        own = [index for index, number in enumerate(numbers) if self._normal_call[number]]
        comparison = Comparison()
        if not own:
            return comparison
        results = observation.results
        states = results["state"].tolist()
        shared = SharedMemory(self._normal, self._start)
        walk = _Walk(self._machine, [State(shared, TrustedOS(shared))], comparison)
        is_blocked = observation.status == "blocked" and not any(self._domain_call[number] for number in numbers)
        try:
            for index in own:
                if states[index] == CallState.NOT_REACHED:
                    break
                action = self._interface.calls[numbers[index]].action
                call = self._decoder.decode_call(rows, index)
                if states[index] == CallState.STARTED and is_blocked:
                    walk.judge_unanswered(index, call, action)
                if states[index] not in _PERFORMED or not walk.perform(index, call, action, results[index]):
                    break
            else:
                index = len(rows)
            if observation.status == "done" and (index == len(rows) or states[index] == CallState.NOT_REACHED):
                self._compare_memory(memory, observation, walk)
        except NotCoveredError:
            pass  # the rest is not judged
        self.answered += sum(numbers[index] == self._smc and states[index] == CallState.DONE for index in own)
        self.judged += comparison.judged
        return comparison

    def _compare_memory(self, memory: MemoryImage, observation: Any, walk: _Walk) -> None:
        base, end = self._base, self._end
        touched = {int(page) - base for page in observation.changed if base <= page < end}
        for state in walk.states:
            touched |= state.memory.pages.keys()
        pages = [(offset, bytes(memory.read(base + offset, PAGE))) for offset in sorted(touched)]
        found = [state.memory.differences(pages) for state in walk.states]
        if all(found):
            address, value, expected = min(found, key=len)[0]
            walk.comparison.wrong.append(
                Difference(
                    f"the word at {address:#x} of the memory shared with the Trusted OS is {value:#x}; it must be "
                    f"{expected:#x}",
                    SHARED_MEMORY,
                    {"address": hex(address), "found": hex(value), "expected": hex(expected)},
                )
            )


class _Walk:
    """One program."""

    def __init__(self, machine: Machine, states: list[State], comparison: Comparison) -> None:
        self._machine = machine
        self.states = states
        self.comparison = comparison
        self._given: dict[int, int] = {}
        self._answers: Sequence[int] = (0,) * RESULTS

    def perform(self, index: int, call: Decoded, action: Action, result: Any) -> bool:
        """Follow a call; whether the next one can be followed."""
        if action is Action.NORMAL_SMC:
            return self._smc(index, call, result)
        words = call.words
        if action is Action.NORMAL_REGISTER:
            self._given[given_number(words[0])] = self._value(words[1])
        elif action is Action.NORMAL_STORE:
            self._store(call, result)
        elif action is Action.NORMAL_CHANGE:
            self._change(call)
        else:
            for state in self.states:
                self._write(action, call, state)
        return True

    def _value(self, word: int) -> int:
        """What a value stands for, which must be the same in all states."""
        values = {resolve(word, state, self._answers) for state in self.states}
        if len(values) > 1:
            raise NotCoveredError("the number of a session that is not certain")
        return values.pop()

    def judge_unanswered(self, index: int, call: Decoded, action: Action) -> None:
        """A call that has not returned, with nothing left that runs: it must not be one that is answered."""
        if action is not Action.NORMAL_SMC:
            return
        for state in self.states:
            smc = smc_of(call, self._given, state, self._answers)
            expected = [answer for _, answer in self._machine.outcomes(state, smc)]
        name, must = self._machine.name(smc.function), ", ".join(map(hex, expected[0]))
        self.comparison.wrong.append(
            Difference(
                f"call {index} ({name}) was not answered; x0-x3 must be {must}",
                name,
                {"call": index, "function": hex(smc.function), "name": name, "expected": must},
            )
        )

    def _store(self, call: Decoded, result: Any) -> None:
        offset, width, value = call.words
        address = (call.target + offset) & MASK & -width
        if self._machine.is_refused(address) or int(result["state"]) != CallState.DONE:
            return
        data = (self._value(value) & (1 << 8 * width) - 1).to_bytes(width, "little")
        for state in self.states:
            self._machine.store(state, address, data)

    def _change(self, call: Decoded) -> None:
        offset, width, value, _ = call.words
        address = (call.target + offset) & MASK & -width
        data = (self._value(value) & (1 << 8 * width) - 1).to_bytes(width, "little")
        for state in self.states:
            if state.change is not None or not state.memory.is_shared(address, width):
                raise NotCoveredError("a change of memory that nobody can follow")
            state.change = Change(address, data)
            state.memory.watched = address & -WORD

    def _write(self, action: Action, call: Decoded, state: State) -> None:
        words, memory = call.words, state.memory
        if action is Action.NORMAL_WRITE:
            value = resolve(words[1], state, self._answers)
            for number in range(words[2]):
                memory.put(call.target + words[0] + WORD * number, value)
        elif action is Action.NORMAL_MESSAGE:
            values = [resolve(word, state, self._answers) for word in words]
            write_message(memory, call.target, words, values)
        elif action is Action.NORMAL_PARAMETER:
            resolved = [words[1], *(resolve(word, state, self._answers) for word in words[2:5])]
            write_parameter(memory, call.target, words[0], resolved)
            memory.put(call.target + 24, words[5] << 32)

    def _smc(self, index: int, call: Decoded, result: Any) -> bool:
        found = tuple(int(word) for word in result["mr"][:RESULTS])
        functions = self._machine.functions.number
        if found[0] == RPC_FOREIGN_INTERRUPT:
            return False
        kept: list[State] = []
        expected: list[tuple[int, ...]] = []
        smc = None
        for state in self.states:
            smc = smc_of(call, self._given, state, self._answers)
            brings = smc.function in (functions["optee_call_with_arg"], functions["optee_return_from_rpc"])
            note_message(state, smc, functions["optee_call_with_arg"])
            for outcome, answer in self._machine.outcomes(state, smc):
                expected.append(answer)
                if answer == found:
                    if brings:
                        note_session(outcome, found[0])
                    kept.append(outcome)
        self._given.clear()
        self._answers = found
        self.comparison.judged += 1
        assert smc is not None
        if not kept:
            self.comparison.wrong.append(self._wrong(index, smc, found, expected[0]))
            return False
        if len(kept) > _STATES:
            raise NotCoveredError("too many orders of events")
        self.states = kept
        return True

    def _wrong(self, index: int, smc: Smc, found: tuple[int, ...], expected: tuple[int, ...]) -> Difference:
        name = self._machine.name(smc.function)
        shown, must = (", ".join(map(hex, words)) for words in (found, expected))
        evidence = {
            "call": index,
            "function": hex(smc.function),
            "name": name,
            "registers": [hex(word) for word in smc.x],
            "found": shown,
            "expected": must,
        }
        return Difference(f"call {index} ({name}) was answered {shown} in x0-x3; it must be {must}", name, evidence)
