# SPDX-License-Identifier: BSD-2-Clause
"""The last call of a program as one step: the state before it, what it does by the table, and the state after it.

Where the same victim made the call before, nothing comes between both states but this call, and all of them must
agree: threads, queues of endpoints and notifications, ready queues, who runs. Otherwise the victims have passed the
turn meanwhile: then what is not theirs must agree, and what they were told.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from harness.kernel_state.state import KernelState
from harness.programs.descriptions import Action
from harness.programs.encodings import Decoded, Decoder, records
from harness.protocol import PAGE, CallState
from harness.specification.answers import NotCoveredError
from harness.specification.lookups import resolve
from harness.specification.memory import Memory, Slot
from harness.specification.message_info import (
    ALL_CAPS,
    CAPS,
    CAPS_SHIFT,
    LABEL,
    LABEL_SHIFT,
    LENGTH,
    MAXIMUM_LENGTH,
    MESSAGE_REGISTERS,
)
from harness.specification.oracle import AnswerOracle, Difference
from harness.specification.steps.calls import Step, perform
from harness.specification.steps.interrupts import ACKNOWLEDGE, Line, deliver, interrupt
from harness.specification.steps.moves import (
    BADGE,
    FIRST_MESSAGE,
    INFO,
    Moves,
)
from harness.specification.steps.scene import NO_FAULT, ON_SIGNAL, RUNNING, UNCOMPARED, Scene, Thread
from harness.specification.steps.scheduler import Choice

_WORD_BITS = 64
_WORDS = 1
"""Word of an IPC buffer with the first one of the message, behind the message info."""
_BADGES = _WORDS + MAXIMUM_LENGTH + 1
"""Its word with the first badge: behind the message and a word of the user's."""
_OVER = (CallState.DONE, CallState.FAULTED, CallState.SKIPPED)
_MESSAGES = frozenset({"endpoint_cap", "notification_cap", "reply_cap"})
_TELLING = frozenset({Action.TRANSFER, Action.RECEIVE})
"""Calls of which the result shows a message."""
_ANSWERED = frozenset({"TCBReadRegisters", "ARMSMCCall"})
"""Invocations whose answer has words, and whose length is foretold."""


@dataclass(frozen=True)
class Told:
    """What a call's result says: message info, badge and words."""

    info: int
    badge: int
    words: tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """A program's last call, what its calls were told, and the state after it; the state before it is missing."""

    calls: tuple[Decoded, ...]
    told: tuple[Told, ...]
    after: Scene
    buffers: dict[int, tuple[int, ...]]
    """What the buffers of victims that lie in secure RAM hold, up to the last badge, by thread."""


class StepOracle:
    """Judges last calls for one snapshot. `time_slice`: ticks that a thread has, CONFIG_TIME_SLICE."""

    def __init__(
        self, snapshot: KernelState, answers: AnswerOracle, threads: Sequence[int], time_slice: int, decoder: Decoder
    ) -> None:
        self.interface = answers.interface
        self.answers = answers
        self.layout = snapshot.layout
        self.time_slice = time_slice
        self.objects = tuple(threads)
        self.victims = tuple(thread + snapshot.layout.tcb_offset for thread in threads)
        self._decoder = decoder
        self.labels = {call.label: call.label_name for call in self.interface.calls if call.action is Action.INVOKE}
        self._snapshot = snapshot

    @cached_property
    def start(self) -> Scene:
        """The state that programs start from."""
        return Scene.of(self._snapshot)

    @cached_property
    def helpers(self) -> frozenset[int]:
        """Threads that run only when a program lets them."""
        at_rest = {tcb for tcb, thread in self.start.threads.items() if not thread.runnable}
        return frozenset(at_rest - set(self.victims) - {self.start.idle})

    def name(self, call: Decoded) -> str:
        """Name of a call."""
        return self.interface.calls[call.call].name

    def action(self, call: Decoded) -> Action:
        """What a victim does for a call."""
        return self.interface.calls[call.call].action

    def question(self, program: bytes, results: Any, changed: Any, state: KernelState) -> Question | None:
        """What to ask about a program's last call; None if nothing can be said of it."""
        rows = records(program)
        if not rows or len(rows) > len(results):
            return None
        states = results["state"].tolist()[: len(rows)]
        if states[-1] != CallState.DONE or any(found not in _OVER for found in states):
            return None
        calls = tuple(self._decoder.decode_call(rows, index) for index in range(len(rows)))
        waits = [call for call in calls[:-1] if self.action(call) is Action.INTERRUPT and call.words[2]]
        words = frozenset(changed.tolist()) if changed is not None else None
        if waits or calls[-1].victim >= len(self.victims) or self.answers.disturbed(rows, states, words):
            return None
        try:
            after = Scene.of(state)
        except (KeyError, IndexError, ValueError, OverflowError):
            return None  # no state of the kernel's: other invariants say so
        if after.current != self.victims[calls[-1].victim]:
            return None
        columns = [results[name].tolist() for name in ("info", "badge", "mr")]
        told = tuple(Told(info, badge, tuple(mr)) for info, badge, mr in zip(*columns, strict=True))
        found = {tcb: self.buffer(number, state) for number, tcb in enumerate(self.victims)}
        buffers = {tcb: buffer for tcb, buffer in found.items() if buffer is not None}
        return Question(calls, told[: len(rows)], after, buffers)

    def buffer(self, victim: int, state: KernelState) -> tuple[int, ...] | None:
        """What a victim's own buffer holds, up to the last badge; None where it lies outside of secure RAM."""
        page, ram = self.answers.buffer_page(victim), state.ram
        if page is None or not ram.holds(page, PAGE):
            return None
        first = page - ram.base >> 3
        return tuple(ram.words[first : first + _BADGES + CAPS].tolist())

    def resolve(self, question: Question, before: KernelState) -> Difference | None:
        """Judge a call by the state right before it."""
        try:
            return _Comparison(self, question, before).difference()
        except (NotCoveredError, KeyError, IndexError, ValueError, OverflowError):
            return None  # nothing is said about it, or it names what no capability names any more


class _Comparison:
    """One question with its answer."""

    def __init__(self, oracle: StepOracle, question: Question, before: KernelState) -> None:
        self._oracle, self._question, self._before = oracle, question, before
        self._calls, self._call = question.calls, question.calls[-1]
        self._victim = oracle.victims[self._call.victim]
        self._start = Scene.of(before)
        own = all(call.victim == self._call.victim for call in self._calls[-2:])
        self._alone = own and self._start.current == self._victim
        """Whether nothing came between but the call."""
        self._moves = Moves(deepcopy(self._start), oracle.time_slice, layout=oracle.layout)
        self._reads_own_buffer: set[int] = set()

    def difference(self) -> Difference | None:
        """What is wrong after the call, or None. NotCoveredError where nothing is said."""
        if not self._alone:
            self._take_turn()
        moves, call, name = self._moves, self._call, self._oracle.name(self._call)
        caller = moves.thread(self._victim)
        if caller.fault != NO_FAULT or caller.state != RUNNING:
            raise NotCoveredError("a caller that has not answered for a fault")
        caller.registers[BADGE], caller.registers[INFO] = call.target, call.info
        words = (*call.words[:MESSAGE_REGISTERS], 0, 0, 0, 0)[:MESSAGE_REGISTERS]
        caller.registers[FIRST_MESSAGE : FIRST_MESSAGE + MESSAGE_REGISTERS] = words
        if self._oracle.action(call) is Action.RECEIVE:
            caller.registers[INFO] = 0
        memory = Memory(self._before.layout, self._before.ram)
        knows = self._oracle.answers.knows_buffer
        self._reads_own_buffer = {tcb for n, tcb in enumerate(self._oracle.victims) if knows(memory, n)}
        if self._victim in self._reads_own_buffer:
            moves.words[self._victim] = call.words
        if self._oracle.action(call) is Action.INTERRUPT:
            if not self._alone:
                raise NotCoveredError("an interrupt while the turn is passed")
            interrupt(moves, memory, self._oracle.interface, self._calls, self._slots)
            label = ""
        else:
            label = self._perform(memory, name)
        return self._compare(name, label)

    def _take_turn(self) -> None:
        """The victim's turn has come: it ran up to the call, and nobody else but victims and who passes the turn."""
        oracle, scene = self._oracle, self._moves.scene
        names = {oracle.name(call) for call in self._calls}
        if names & {"Interrupt", "DomainSet_Set", "Yield"}:
            raise NotCoveredError("interrupts, or domains, while the turn is passed")
        for tcb in oracle.helpers & scene.threads.keys():
            if scene.threads[tcb] != oracle.start.threads[tcb]:
                raise NotCoveredError("another thread may have run before the turn came")
        thread = self._moves.thread(self._victim)
        if thread.state == ON_SIGNAL:
            self._moves.cancel(self._victim)
        self._moves.become(self._victim, RUNNING)
        self._moves.unready(self._victim)
        scene.current = self._victim
        self._moves.next = Choice.GO_ON

    def _slots(self, memory: Memory, call: Decoded) -> tuple[Slot, ...]:
        """The slots that a call names: its target's, and those of its capabilities. NotCoveredError if one fails."""
        layout, found = memory.layout, []
        thread = self._oracle.objects[call.victim]
        root = memory.slot(thread + (layout.constant("tcbCTable") << layout.slot_bits)).cap
        for pointer in (call.target, *call.caps[: call.info >> CAPS_SHIFT & CAPS]):
            slot = resolve(memory, root, pointer, _WORD_BITS)
            if not isinstance(slot, tuple):
                raise NotCoveredError("a lookup that fails")
            found.append(slot[0])
        return tuple(found)

    def _perform(self, memory: Memory, name: str) -> str:
        """Make the call; the label of the invocation if it was one and succeeded."""
        oracle, call, label = self._oracle, self._call, ""
        slots = self._slots(memory, call) if oracle.interface.calls[call.call].target and name != "Load" else ()
        self._moves.given = tuple(slot.cap for slot in slots[1:])
        refused = False
        if name == "Call" or oracle.action(call) is Action.INVOKE:
            if slots[0].cap.type in _MESSAGES:
                name = "Call"
            else:
                name, label = "", oracle.labels.get(call.info >> LABEL_SHIFT & LABEL, "")
                refused = bool(self._question.told[-1].info >> LABEL_SHIFT & LABEL)
                if not label and not refused:
                    raise NotCoveredError("a label of which nothing is known")
        words = self._moves.words.get(self._victim, call.words[:MESSAGE_REGISTERS])
        perform(Step(memory, self._moves, self._victim, name, label, slots, words), refused=refused)
        if label == ACKNOWLEDGE and not refused:
            line = slots[0].cap.field("capIRQ")
            if Line(memory, oracle.interface, self._calls[:-1], self._slots, line).waits:
                deliver(self._moves, memory, line)
        return "refused" if refused else label

    # What was to come, and what has come

    def _compare(self, name: str, label: str) -> Difference | None:
        scene = self._moves.scene
        caller = scene.threads[self._victim]
        if not caller.runnable:
            raise NotCoveredError("a caller that waits")
        wrong = self._told(caller, label)
        ran = scene.current
        alone = self._alone and ran == self._victim
        if not wrong and ran != self._victim:
            wrong = self._has_not_run(ran)
        if not wrong:
            wrong = self._wrong_threads(alone, {ran} - {self._victim})
        if not wrong:
            wrong = self._wrong_queues(alone)
        if not wrong:
            return None
        index = len(self._calls) - 1
        victim = self._oracle.interface.population.victims[self._call.victim].name
        evidence = {"call": index, "name": name, "victim": victim, "words": [hex(word) for word in self._call.words]}
        return Difference(f"call {index} ({victim}: {name}): {wrong}", name, evidence)

    def _has_not_run(self, tcb: int) -> str:
        """A helper that comes before the caller has run when that goes on: it waits, or its registers are others."""
        after, scene = self._question.after, self._moves.scene
        if tcb not in self._oracle.helpers & after.threads.keys():
            return ""
        found, wanted = after.threads[tcb], scene.threads[tcb]
        stays = found.registers == wanted.registers and found.state == RUNNING
        return f"{_thread_name(tcb, scene)} has not run, which comes first" if stays else ""

    def _told(self, caller: Thread, label: str) -> str:
        """What the caller, or a victim that it let go, was told and is not what it must have been told."""
        oracle, calls = self._oracle, self._calls
        wrong = ""
        if (oracle.action(self._call) in _TELLING and label != "refused" and (not label or label in _ANSWERED)) or (
            oracle.action(self._call) is Action.INVOKE and label in _ANSWERED
        ):
            wrong = self._wrong_message(self._victim, caller, len(calls) - 1)
            if not wrong and label in _ANSWERED:
                wrong = self._wrong_rest(self._question.told[-1].info & LENGTH)
        for number, tcb in enumerate(oracle.victims):
            was, thread = self._start.threads.get(tcb), self._moves.scene.threads.get(tcb)
            if wrong or tcb == self._victim or was is None or thread is None:
                continue
            own = [index for index, call in enumerate(calls) if call.victim == number]
            let_go = was.state != thread.state == RUNNING and not was.runnable
            if let_go and own and oracle.action(calls[own[-1]]) in _TELLING:
                wrong = self._wrong_message(tcb, thread, own[-1])
        return wrong

    def _wrong_message(self, tcb: int, thread: Thread, index: int) -> str:
        told = self._question.told[index]
        mask = ~ALL_CAPS if thread.open_caps else -1
        what = f"call {index} was told"
        if told.badge != thread.registers[BADGE]:
            return f"{what} badge {told.badge:#x} and not {thread.registers[BADGE]:#x}"
        if told.info & mask != thread.registers[INFO] & mask:
            return f"{what} message info {told.info:#x} and not {thread.registers[INFO]:#x}"
        length = told.info & LENGTH
        words = thread.registers[FIRST_MESSAGE : FIRST_MESSAGE + min(length, MESSAGE_REGISTERS)]
        if tcb in self._reads_own_buffer:
            words += self._moves.words.get(tcb, ())[MESSAGE_REGISTERS:length]
        # A result has the first words of an answer, the buffer all the others.
        buffer = self._question.buffers.get(tcb, ())
        known = (*told.words, *buffer[_WORDS + len(told.words) : _WORDS + MAXIMUM_LENGTH])
        for number, (found, wanted) in enumerate(zip(known, words, strict=False)):
            if found != wanted and FIRST_MESSAGE + number not in thread.open_registers:
                return f"{what} word {number} {found:#x} and not {wanted:#x}"
        badges = self._moves.badges.get(tcb, ())
        found_badges = (buffer[_BADGES:] or badges)[: len(badges)]
        if tcb in self._reads_own_buffer and found_badges != badges:
            return f"{what} badges {list(map(hex, found_badges))} and not {list(map(hex, badges))}"
        return ""

    def _wrong_rest(self, length: int) -> str:
        """What is wrong with the words behind an answer in the caller's buffer: nobody has written them."""
        after = self._question.buffers.get(self._victim)
        before = self._oracle.buffer(self._call.victim, self._before)
        if not self._alone or after is None or before is None or self._victim not in self._reads_own_buffer:
            return ""
        for number in range(_WORDS + max(length, len(self._call.words)), _WORDS + MAXIMUM_LENGTH):
            if after[number] != before[number]:
                return f"word {number - _WORDS} of the caller's buffer, behind the answer, is {after[number]:#x}"
        return ""

    def _wrong_threads(self, alone: bool, left_out: set[int]) -> str:
        scene, after = self._moves.scene, self._question.after
        compared = scene.threads.keys() if alone else self._oracle.helpers
        for tcb in sorted((compared & scene.threads.keys() & after.threads.keys()) - left_out):
            wanted, found = scene.threads[tcb], after.threads[tcb]
            for field in fields(Thread):
                if field.name in UNCOMPARED:
                    continue
                one, other = getattr(found, field.name), getattr(wanted, field.name)
                if one != other:
                    return f"{_thread_name(tcb, scene)}: {field.name} is {_shown(one)} and not {_shown(other)}"
            for slot, words in wanted.slots.items():
                if slot not in wanted.open_slots and found.slots[slot] != words:
                    return f"{_thread_name(tcb, scene)}: {slot} holds another capability"
            if tcb in self._oracle.start.threads and tcb not in self._oracle.helpers:
                continue  # victims, and who passes the turn, know how long the program is
            for number, (is_, was) in enumerate(zip(found.registers, wanted.registers, strict=True)):
                mask = ~ALL_CAPS if number == INFO and wanted.open_caps else -1
                if is_ & mask != was & mask and number not in wanted.open_registers:
                    return f"{_thread_name(tcb, scene)}: register {number} is {is_:#x} and not {was:#x}"
        return ""

    def _wrong_queues(self, alone: bool) -> str:
        scene, after = self._moves.scene, self._question.after
        ran = scene.current
        for address in sorted(scene.endpoints.keys() & after.endpoints.keys()):
            one, other = after.endpoints[address], scene.endpoints[address]
            waiting = {*one.queue, *other.queue}
            if one != other and (alone or (ran not in waiting and self._oracle.helpers >= waiting)):
                return f"the endpoint at {address:#x} is {one} and not {other}"
        if not alone:
            return ""
        for address in sorted(scene.notifications.keys() & after.notifications.keys()):
            if (now := after.notifications[address]) != (then := scene.notifications[address]):
                return f"the notification at {address:#x} is {now} and not {then}"
        if after.ready != scene.ready:
            return f"the ready queues are {_queues(after)} and not {_queues(scene)}"
        return ""


def _thread_name(tcb: int, scene: Scene) -> str:
    name = scene.threads[tcb].name
    return f"tcb at {tcb:#x} ({name})" if name else f"tcb at {tcb:#x}"


def _shown(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) else str(value)


def _queues(scene: Scene) -> str:
    shown = [f"{priority}: {', '.join(map(hex, queue))}" for (_, priority), queue in sorted(scene.ready.items())]
    return "; ".join(shown) or "empty"
