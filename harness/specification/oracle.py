# SPDX-License-Identifier: BSD-2-Clause
"""Compares the answers of a program's calls with the table.

The state before a call is the snapshot's where nothing that the rules read has changed by the end of the program:
each answer is worked out with the words that it depends on, so that this costs a set operation a call. Other calls are
judged by the state right before them, which the program, run again up to there, shows; so is, before it is reported,
each answer that seems wrong.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import protocol
from harness.kernel_state.layout import Layout
from harness.kernel_state.memory import Ram
from harness.kernel_state.state import KernelState
from harness.programs.descriptions import Action
from harness.programs.encodings import Decoded, Decoder, records
from harness.programs.interfaces import Interface
from harness.protocol import CallState
from harness.specification.accesses import Access, wrong_access
from harness.specification.answers import CAP_FAULT, DONE, SUCCESS, Answer, LookupFailure, NotCoveredError
from harness.specification.effects import unmet
from harness.specification.invocations import Invocation, thread_of
from harness.specification.lookups import resolve, translate
from harness.specification.memory import Lookups, Memory, Slot
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
from harness.specification.table import Expected, expected
from harness.specification.waiting import wrong_wait

_WORD_BITS = 64
_READ_ONLY, _READ_WRITE = 3, 1
"""Rights of a frame (vm_rights_t) with which it can be an IPC buffer."""
_REMEMBERED = 1 << 16
_DONE, _FAULTED = int(CallState.DONE), int(CallState.FAULTED)
_FAULTS, _MEMORY_FAULT = "seL4_Fault", "VMFault"
_TRANSFERS = 0b1100
"""The flags of CopyRegisters that copy anything."""
# Invocations that an interrupt can stop, and that are then made once more in another state.
_PREEMPTIBLE = frozenset(
    "CNode_Revoke CNode_Delete CNode_CancelBadgedSends Untyped_Retype TCB_Configure TCB_SetSpace TCB_SetIPCBuffer "
    "IRQHandler_SetNotification IRQHandler_Clear".split()
)
_ACCESSES = frozenset({Action.LOAD, Action.STORE})
_OWN_BYTES = 1 << 20
"""From its code on, a victim's own memory and the harness's lies in so many bytes of its addresses."""
_WORD_MASK = (1 << _WORD_BITS) - 1
_MESSAGES = frozenset({Action.SEND, Action.TRANSFER})
_OVERTAKEN = _MESSAGES | {Action.RECEIVE}


@dataclass(frozen=True)
class Decision:
    """What a call must be answered, and the numbers of the words of secure RAM on which that depends.

    `expected` is None where the table does not say.
    """

    expected: Expected | None
    reads: frozenset[int]


@dataclass
class Comparison:
    """What a program's answers are worth.

    `answered`: calls that the kernel answered; `covered`: those that were compared, and `wrong` those of them that
    seem wrong; `open`: those that only the state right before them decides.
    """

    answered: int = 0
    covered: int = 0
    wrong: list[int] = field(default_factory=list)
    open: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Difference:
    """A wrong answer: to which call, in words, with all that was compared."""

    message: str
    label: str
    evidence: dict[str, Any]


class AnswerOracle:
    """Judges answers for one snapshot. `threads`: physical addresses of the victims' thread objects."""

    def __init__(
        self, snapshot: KernelState, interface: Interface, threads: Sequence[int], decoder: Decoder | None = None
    ) -> None:
        self.interface = interface
        self._layout: Layout = snapshot.layout
        self._snapshot = snapshot.ram
        self._threads = tuple(threads)
        self._decoder = decoder or Decoder(interface)
        self._labels = {call.label: call.label_name for call in interface.calls if call.action is Action.INVOKE}
        self._answers = [call.action is Action.INVOKE or call.name == "Call" for call in interface.calls]
        self._interrupts = [call.action is Action.INTERRUPT for call in interface.calls]
        self._disturbing = [
            call.action in _MESSAGES or call.name in ("TCB_WriteRegisters", "TCB_CopyRegisters")
            for call in interface.calls
        ]
        """For each call of the table whether it may let a thread run other code."""
        self._lookups: Lookups = {}
        self._judged: tuple[Sequence[bytes], list[int], frozenset[int] | None] | None = None
        self._was_disturbed = False
        """What `_disturbed` was asked last, and what it said."""
        self._decisions: dict[Decoded, Decision] = {}
        self._errors = {name: value for value, name in snapshot.layout.error_names.items()}
        faults = snapshot.layout.union(_FAULTS).values if _FAULTS in snapshot.layout.bitfields.unions else {}
        self._cap_fault, self._memory_fault = faults.get(CAP_FAULT, -1), faults.get(_MEMORY_FAULT, -1)
        self._pages = self._own_pages(snapshot)
        self.answered = self.covered = 0
        """Calls that the kernel answered in all programs so far, and those of them that were compared."""

    def _own_pages(self, snapshot: KernelState) -> list[tuple[int, int] | None]:
        """Of each victim, root of the address space and physical address of the page with its IPC buffer."""
        memory = Memory(self._layout, snapshot.ram)
        return [self._own_page(memory, thread) for thread in self._threads]

    def _own_page(self, memory: Memory, thread: int) -> tuple[int, int] | None:
        root = self._thread_slot(memory, thread, "tcbVTable").cap
        if root.type != "page_global_directory_cap":
            return None
        page = translate(memory, root.base, self.interface.population.addresses.state)
        return None if page is None else (root.base, page[0])

    def _thread_slot(self, memory: Memory, thread: int, name: str) -> Slot:
        return memory.slot(thread + (self._layout.constant(name) << self._layout.slot_bits))

    # One call

    def invocation(self, call: Decoded, memory: Memory) -> Invocation | Expected:
        """What the kernel decodes in a state; what it answers to a call that does not get so far. NotCoveredError."""
        thread = self._threads[call.victim]
        if self._own_page(memory, thread) != self._pages[call.victim]:
            raise NotCoveredError("the victim's address space is another one")
        target = self._lookup(memory, thread, call.target)
        if isinstance(target, Answer):
            return Expected(target, "the invoked capability is found")
        length = min(call.info & LENGTH, MAXIMUM_LENGTH)
        caps = call.info >> CAPS_SHIFT & CAPS
        extra: list[Slot] = []
        if (length > MESSAGE_REGISTERS or caps) and not self._has_buffer(memory, thread, call.victim):
            length, caps = min(length, MESSAGE_REGISTERS), 0
        if caps > len(call.caps):
            raise NotCoveredError("extra capabilities of which the program says nothing")
        for pointer in call.caps[:caps]:
            slot = self._lookup(memory, thread, pointer)
            if isinstance(slot, Answer):
                return Expected(slot, "the extra capabilities are found")
            extra.append(slot)
        return Invocation(memory, thread, target, target.cap, length, call.words, tuple(extra))

    def expected(self, call: Decoded, memory: Memory) -> Expected:
        """What a call must be answered in a state; NotCoveredError where the table does not say."""
        invocation = self.invocation(call, memory)
        if isinstance(invocation, Expected):
            return invocation
        wanted = expected(invocation, self.label(call))
        if wanted.answer is None or len(wanted.answer.details) <= MESSAGE_REGISTERS:
            return wanted
        if self._has_buffer(memory, invocation.thread, call.victim, rights=(_READ_WRITE,)):
            return wanted
        # What does not fit into registers is lost.
        return Expected(Answer(wanted.answer.error, wanted.answer.details[:MESSAGE_REGISTERS]), wanted.rule)

    def label(self, call: Decoded) -> str:
        """The name of a call's label in the kernel's XML files, or ""; NotCoveredError for one that is left out."""
        return self._label_name(call.info >> LABEL_SHIFT & LABEL)

    def _label_name(self, label: int) -> str:
        if label in self._labels:
            return self._labels[label]
        if 0 < label < max(self._labels):
            raise NotCoveredError("a label that the call table leaves out")
        return ""

    def _lookup(self, memory: Memory, thread: int, pointer: int) -> Slot | Answer:
        """The slot that a thread names, or the fault: pointer, sending, how the lookup failed."""
        found = resolve(memory, self._thread_slot(memory, thread, "tcbCTable").cap, pointer, _WORD_BITS)
        if isinstance(found, LookupFailure):
            return Answer(CAP_FAULT, (pointer, 0, found.words[0]))
        return found[0]

    def _has_buffer(
        self, memory: Memory, thread: int, victim: int, rights: Sequence[int] = (_READ_ONLY, _READ_WRITE)
    ) -> bool:
        """Whether the kernel finds an IPC buffer; NotCoveredError if it is not the one that the victim writes.

        For an answer it needs both `rights`.
        """
        cap = self._thread_slot(memory, thread, "tcbBuffer").cap
        if cap.type != "frame_cap" or cap.field("capFVMRights") not in rights:
            return False
        address = memory.word(thread + self._layout.tcb_offset + self._layout.struct("tcb")["tcbIPCBuffer"].offset)
        own = self._pages[victim]
        if cap.field("capFSize") or cap.field("capFVMRights") != _READ_WRITE or own is None:
            raise NotCoveredError("an IPC buffer that is not the victim's own")
        if cap.base + (address & (protocol.PAGE - 1)) != own[1]:
            raise NotCoveredError("an IPC buffer elsewhere")
        return True

    def _at_the_snapshot(self) -> Memory:
        """The snapshot, whose lookups are remembered."""
        return Memory(self._layout, self._snapshot, self._lookups)

    def buffer_page(self, victim: int) -> int | None:
        """Physical address of the page with a victim's own IPC buffer, at its beginning; None if that is not known."""
        own = self._pages[victim]
        return None if own is None else own[1]

    def knows_buffer(self, memory: Memory, victim: int) -> bool:
        """Whether the kernel uses the IPC buffer that a victim itself writes and reads."""
        try:
            thread = self._threads[victim]
            return self._own_page(memory, thread) == self._pages[victim] and self._has_buffer(memory, thread, victim)
        except NotCoveredError:
            return False

    def decide(self, call: Decoded, ram: Ram) -> Decision:
        """The same with what it depends on."""
        memory = self._at_the_snapshot() if ram is self._snapshot else Memory(self._layout, ram)
        try:
            answer = self.expected(call, memory)
        except NotCoveredError:
            return Decision(None, frozenset(memory.reads))
        return Decision(answer, frozenset(memory.reads))

    def _at_start(self, call: Decoded) -> Decision:
        known = self._decisions.get(call)
        if known is None:
            if len(self._decisions) >= _REMEMBERED:
                self._decisions.clear()
            known = self._decisions[call] = self.decide(call, self._snapshot)
        return known

    def _agrees(self, answer: Answer, state: int, error: int, info: int, words: Sequence[int]) -> bool:
        """Whether a call's result is an answer; the fields are those of protocol.RESULT, `words` its `mr`."""
        if answer.error == CAP_FAULT:
            told = tuple(words[1:MESSAGE_REGISTERS])
            return state == CallState.FAULTED and error == self._cap_fault and told == answer.details
        if state == CallState.FAULTED:
            return False
        if info >> LABEL_SHIFT & LABEL != self._errors[answer.error] or info & ALL_CAPS:
            return False
        if answer.error == SUCCESS:
            return True
        length = len(answer.details)
        return info & LENGTH == length and tuple(words[:length]) == answer.details

    # Programs

    def compare(self, program: bytes, results: Any, changed: Any) -> Comparison:
        """Judge a program's answers (protocol.RESULT[calls]) by the snapshot.

        `changed`: numbers of the words of secure RAM that differ from the snapshot; None if that is not known.
        Open calls are expected to be resolved, and count as covered unless that shows that they cannot be.
        """
        comparison, rows = Comparison(), records(program)
        states, errors, infos, registers = (results[name].tolist() for name in ("state", "error", "info", "mr"))
        words = frozenset(changed.tolist()) if changed is not None else None
        interrupts, disturbed = False, self.disturbed(rows, states, words)
        answers, count = self._answers, len(self._answers)
        for index, row in enumerate(rows[: len(states)]):
            number, state = row[0] % count, states[index]
            interrupts = interrupts or self._interrupts[number]
            if not answers[number] or not (state == _DONE or (state == _FAULTED and errors[index] == self._cap_fault)):
                continue
            call = self._decoder.decode_call(rows, index)
            decision = self._at_start(call)
            unchanged = words is not None and decision.reads.isdisjoint(words)
            if unchanged and decision.expected is not None and decision.expected.answer is None:
                continue  # a message to a thread
            comparison.answered += 1
            if disturbed:
                continue
            if unchanged and decision.expected is None:
                continue
            if unchanged and decision.expected is not None and decision.expected.answer is not None:
                answer = decision.expected.answer
                if self._agrees(answer, state, errors[index], infos[index], registers[index]):
                    comparison.covered += 1
                elif not (answer == DONE and self._repeated(rows, index)):
                    comparison.wrong.append(index)
            elif not (interrupts and self._overtakes(rows, index, states)):
                comparison.open.append(index)
        comparison.wrong = [i for i in comparison.wrong if not i or not self._overtakes(rows, i, states)]
        self.answered += comparison.answered
        self.covered += comparison.covered + len(comparison.wrong) + len(comparison.open)
        return comparison

    def disturbed(self, rows: Sequence[bytes], states: list[int], changed: frozenset[int] | None) -> bool:
        """Whether another thread may have run a victim's code, or a victim other code: results mean little then.

        Who copies a victim's registers to another thread has two that go on from there and write one victim's results.
        """
        asked = (rows, states, changed)
        if self._judged != asked:  # by one oracle after the other
            self._judged, self._was_disturbed = asked, self._is_disturbed(rows, states, changed)
        return self._was_disturbed

    def _is_disturbed(self, rows: Sequence[bytes], states: list[int], changed: frozenset[int] | None) -> bool:
        code = range(self.interface.population.addresses.code, self.interface.population.addresses.exchange)
        for index, row in enumerate(rows[: len(states)]):
            number = row[0] % len(self._answers)
            if not self._disturbing[number] or states[index] not in (CallState.STARTED, CallState.DONE):
                continue
            type_ = self.interface.calls[number]
            if type_.name in ("TCB_WriteRegisters", "TCB_CopyRegisters"):
                call = self._decoder.decode_call(rows, index)
                start = self._at_start(call)
                refused = start.expected is not None and start.expected.answer not in (None, DONE)
                if refused and changed is not None and start.reads.isdisjoint(changed):
                    continue  # whatever the result says: it may be another thread's
                if type_.name == "TCB_CopyRegisters" and not call.words[0] & _TRANSFERS:
                    continue
                if self._may_be_victims(call, changed) or any(word in code for word in call.words):
                    return True
            elif type_.action in _MESSAGES and any(w in code for w in self._decoder.decode_call(rows, index).words):
                return True  # an answer to a fault sets registers
        return False

    def _may_be_victims(self, call: Decoded, changed: frozenset[int] | None) -> bool:
        """Whether one of the threads that a call is about may be a victim, for all that the snapshot tells."""
        memory = self._at_the_snapshot()
        try:
            slots = [self._lookup(memory, self._threads[call.victim], pointer) for pointer in (call.target, *call.caps)]
            caps = [slot.cap for slot in slots if isinstance(slot, Slot)]
            found = {thread_of(cap) for cap in caps if cap.type == "thread_cap"}
        except NotCoveredError:
            return True
        return changed is None or not memory.reads.isdisjoint(changed) or not found.isdisjoint(self._threads)

    def _overtakes(self, rows: Sequence[bytes], index: int, states: list[int]) -> bool:
        """Whether a call may have been made before an earlier one of another victim was over."""
        victims = len(self._threads)
        if index and rows[index - 1][1] % victims != rows[index][1] % victims:
            before = self.interface.calls[rows[index - 1][0] % len(self._answers)]
            if before.action in _OVERTAKEN:
                return True
        return any(state == CallState.STARTED for state in states[:index])

    def question(self, program: bytes, results: Any, index: int) -> dict[str, Any]:
        """All that `resolve` needs to judge a call later, as plain data."""
        result = results[index]
        return {
            "record": program[: (index + 1) * protocol.CALL_BYTES].hex(),
            **{name: int(result[name]) for name in ("state", "error", "info")},
            "mr": [int(word) for word in result["mr"]],
        }

    def resolve(self, index: int, question: dict[str, Any], ram: Ram) -> Difference | None:
        """Judge a call by the state right before it; None if its answer is right, or nothing is said about it."""
        rows = records(bytes.fromhex(question["record"]))
        call = self._decoder.decode_call(rows, index)
        answer = self.decide(call, ram).expected
        if answer is None or answer.answer is None:
            self.covered -= 1
            self.answered -= answer is not None
            return None
        if self._agrees(answer.answer, *(question[name] for name in ("state", "error", "info", "mr"))):
            return None
        if answer.answer == DONE and self._repeated(rows, index):
            self.covered -= 1
            return None
        return self._difference(index, call, answer, question)

    def effect(self, program: bytes, results: Any, changed: Any, ram: Ram) -> Difference | None:
        """What the last call that a program made has not done, judged by the state that it left.

        None if all is as it must be, or if nothing is said about that call.
        """
        rows, states = records(program), results["state"].tolist()
        index = max((i for i, state in enumerate(states[: len(rows)]) if state != CallState.NOT_REACHED), default=-1)
        if index < 0 or states[index] not in (CallState.STARTED, CallState.DONE) or int(results["error"][index]):
            return None
        words = frozenset(changed.tolist()) if changed is not None else None
        call = self._decoder.decode_call(rows, index)
        type_, started = self.interface.calls[call.call], states[index] == CallState.STARTED
        if type_.action not in (_OVERTAKEN if started else (Action.INVOKE,)) or self.disturbed(rows, states, words):
            return None
        memory, thread = Memory(self._layout, ram), self._threads[call.victim]
        victim = self.interface.population.victims[call.victim].name
        evidence = {"call": index, "name": type_.name, "victim": victim, "words": [hex(word) for word in call.words]}
        if started:
            wrong = "" if self._unordered(rows, index, states) else self._wait(call, type_.name, memory, thread)
            text = f"call {index} ({victim}: {type_.name}) has not returned, and {wrong}"
            return Difference(text, type_.name, evidence) if wrong else None
        try:
            slots = [self._lookup(memory, thread, pointer) for pointer in (call.target, *call.caps)]
            found = [slot for slot in slots if isinstance(slot, Slot)]
            if len(found) < len(slots):
                return None
            length = call.info & LENGTH
            invocation = Invocation(memory, thread, found[0], found[0].cap, length, call.words, tuple(found[1:]))
            wrong = unmet(self._labels.get(call.info >> LABEL_SHIFT & LABEL, ""), invocation)
        except (NotCoveredError, KeyError):
            return None  # the way to what it was about is gone with the call, or leads elsewhere
        if not wrong:
            return None
        return Difference(f"call {index} ({victim}: {type_.name}) succeeded, and {wrong}", type_.name, evidence)

    def looked_at(self, program: bytes, results: Any, changed: Any, labels: Container[str]) -> list[int]:
        """The calls of a program of which the states before and after tell what they did.

        Invocations that succeeded with one of some labels (names in the kernel's XML files); loads and stores.
        """
        rows, states = records(program), results["state"].tolist()
        words = frozenset(changed.tolist()) if changed is not None else None
        if self.disturbed(rows, states, words):
            return []
        return [
            index
            for index, row in enumerate(rows[: len(states)])
            if self._is_looked_at(rows, index, results, labels) and not self._unordered(rows, index, states)
        ]

    def _is_looked_at(self, rows: Sequence[bytes], index: int, results: Any, labels: Container[str]) -> bool:
        number, state = rows[index][0] % len(self._answers), int(results["state"][index])
        if self.interface.calls[number].action in _ACCESSES:
            return state in (CallState.DONE, CallState.FAULTED)
        if not self._answers[number] or state != CallState.DONE or int(results["error"][index]):
            return False
        info = self._decoder.decode_call(rows, index).info
        return self._labels.get(info >> LABEL_SHIFT & LABEL, "") in labels

    def writes(self, call: Decoded) -> bool:
        """Whether a call writes slots and tables, so that the state after it tells what it did."""
        return self.interface.calls[call.call].action not in _ACCESSES

    def wrong_access(self, call: Decoded, result: Any, state: KernelState) -> str | None:
        """What is wrong with the result of a load or store in the state before it; None for another call.

        NotCoveredError where the result is not known.
        """
        action = self.interface.calls[call.call].action
        if action not in _ACCESSES:
            return None
        memory, own = Memory(self._layout, state.ram), self._pages[call.victim]
        if own is None or self._own_page(memory, self._threads[call.victim]) != own:
            raise NotCoveredError("the victim's address space is another one")
        store = action is Action.STORE
        address = (call.target + call.words[0] & _WORD_MASK & -8) if store else call.target
        first = self.interface.population.addresses.code
        if first <= address < first + _OWN_BYTES:
            raise NotCoveredError("code, stack, buffer and results of the victim")
        return wrong_access(state, own[0], Access(address, store), result, self._memory_fault)

    def decoded(self, record: bytes, index: int) -> Decoded:
        """A call of a program."""
        return self._decoder.decode_call(records(record), index)

    def _wait(self, call: Decoded, name: str, memory: Memory, thread: int) -> str:
        """What is wrong with the state in which a call that has not returned left its caller; empty for nothing.

        Nothing is said about a caller that may have faulted, here or on its way back, where nobody takes its faults.
        """
        try:
            layout = self._layout
            handler = memory.word(thread + layout.tcb_offset + layout.struct("tcb")["tcbFaultHandler"].offset)
            if self._own_page(memory, thread) != self._pages[call.victim]:
                return ""
            given = call.caps[: call.info >> CAPS_SHIFT & CAPS]
            target, taker, *_ = slots = [self._lookup(memory, thread, to) for to in (call.target, handler, *given)]
            if not all(isinstance(slot, Slot) for slot in slots):
                return ""
            assert isinstance(target, Slot)
            assert isinstance(taker, Slot)
            if taker.cap.type != "endpoint_cap" or not all(map(taker.cap.field, ("capCanSend", "capCanGrant"))):
                return ""
            return wrong_wait(name, target.cap, memory, thread)
        except (NotCoveredError, KeyError):
            return ""

    def _unordered(self, rows: Sequence[bytes], index: int, states: list[int]) -> bool:
        """Whether another victim's call, or a later one, may have been made after a call and have changed its caller.

        Messages with a label may be invocations, which a victim can have left to be made until then.
        """
        if self._overtakes(rows, index, states):
            return True
        for call in (self._decoder.decode_call(rows, before) for before in range(index)):
            action = self.interface.calls[call.call].action
            other = rows[index][1] % len(self._threads) != call.victim
            if action is Action.INTERRUPT or (other and action in _MESSAGES and call.info >> LABEL_SHIFT):
                return True
        return False

    def _repeated(self, rows: Sequence[bytes], index: int) -> bool:
        """Whether an interrupt may have stopped a call that breaks no rule, which was then made in another state."""
        calls = [self.interface.calls[row[0] % len(self._answers)] for row in rows[: index + 1]]
        return calls[index].name in _PREEMPTIBLE and any(call.action is Action.INTERRUPT for call in calls)

    def _difference(self, index: int, call: Decoded, wanted: Expected, result: dict[str, Any]) -> Difference:
        type_ = self.interface.calls[call.call]
        names = {value: name for name, value in self._errors.items()}
        label = result["info"] >> LABEL_SHIFT & LABEL
        if result["state"] == CallState.FAULTED:
            found = Answer(CAP_FAULT, tuple(result["mr"][1:MESSAGE_REGISTERS]))
        else:
            length = min(result["info"] & LENGTH, len(result["mr"])) if label else 0
            found = Answer(names.get(label, str(label)), tuple(result["mr"][:length]))
        victim = self.interface.population.victims[call.victim].name
        target = self.interface.population.slot_name(call.victim, call.target) or hex(call.target)
        evidence = {
            "call": index,
            "name": type_.name,
            "victim": victim,
            "target": target,
            "words": [hex(word) for word in call.words],
            "caps": [hex(pointer) for pointer in call.caps],
            "found": str(found),
            "expected": str(wanted.answer),
            "rule": wanted.rule,
        }
        text = f"call {index} ({victim}: {type_.name} on {target}) was answered {found}; it must be {wanted.answer}"
        return Difference(f"{text}: {wanted.rule}", type_.name, evidence)
