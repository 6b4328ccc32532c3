# SPDX-License-Identifier: BSD-2-Clause
"""Whoever receives a message receives one that somebody has sent: its label, its words, its capabilities.

A receiver is not told from whom a message comes, and who of several senders is served follows from queues that the end
of a program does not show. So each message that a victim received is looked for among all that were sent: by the
program's calls, by the threads that wait in the snapshot, and by the kernel about faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.kernel_state.layout import Layout
from harness.kernel_state.lookup import lookup_slot
from harness.kernel_state.memory import Ram
from harness.kernel_state.state import KernelState
from harness.programs.descriptions import Action
from harness.programs.encodings import Decoded, Decoder, records
from harness.programs.interfaces import Interface
from harness.protocol import CallState
from harness.specification.grants import Grants
from harness.specification.message_info import MAXIMUM_LENGTH, MESSAGE_REGISTERS

_INFO = "seL4_MessageInfo"
_SENDING = frozenset({Action.INVOKE, Action.SEND, Action.TRANSFER})
_DISTURBING = frozenset({Action.STORE, Action.JUMP, Action.UNKNOWN})
"""What may change a message on its way, or let a victim run other code."""
_DISTURBING_CALLS = frozenset(
    "TCB_WriteRegisters TCB_CopyRegisters TCB_Configure TCB_SetSpace TCB_SetIPCBuffer TCB_BindNotification".split()
)
"""After these a message may come from code that is no victim's, or from another buffer."""
_RETURNED = frozenset(map(int, (CallState.STARTED, CallState.DONE, CallState.FAULTED)))
_DONE = int(CallState.DONE)
_ALWAYS, _IF_TOLD = 1, 2
_RECEIVING = {"Recv": _ALWAYS, "Call": _ALWAYS, "NBRecv": _IF_TOLD}
"""Calls that return with what is a message of another thread, or is one if its message word is not zero."""


@dataclass(frozen=True)
class Message:
    """A message: its label, so many words, the first of them, and how many capabilities.

    `words` are those that are known: a sender's may be fewer than it sends.
    """

    label: int
    length: int
    words: tuple[int, ...]
    caps: int = 0
    unwrapped: int = 0
    """Received: one bit for each capability of which only the badge came."""

    def may_become(self, received: Message) -> bool:
        """Whether a receiver can get it as `received`: without buffers only what fits into registers comes."""
        if received.label != self.label or received.length not in (self.length, min(self.length, MESSAGE_REGISTERS)):
            return False
        known = min(received.length, len(self.words), len(received.words))
        return self.words[:known] == received.words[:known] and received.caps <= self.caps

    @property
    def caps_fit(self) -> bool:
        """Whether the capabilities can have come like this: one at most moves, of the others only badges come."""
        return not self.unwrapped >> self.caps and self.caps - self.unwrapped.bit_count() <= 1

    def __str__(self) -> str:
        words = ", ".join(f"{word:#x}" for word in self.words[: self.length])
        return f"label {self.label}, length {self.length}, words {words or 'none'}, {self.caps} capabilities"


class MessageOracle:
    """Judges the messages of programs for one snapshot. `threads`: physical addresses of the victims' threads."""

    def __init__(
        self, snapshot: KernelState, interface: Interface, threads: Sequence[int], decoder: Decoder | None = None
    ) -> None:
        self._interface = interface
        self._layout: Layout = snapshot.layout
        self._snapshot = snapshot
        self._threads = tuple(threads)
        self._decoder = decoder or Decoder(interface)
        self._receiving = [_RECEIVING.get(call.name, 0) for call in interface.calls]
        self._block = self._layout.block(_INFO)
        self._faults = frozenset(self._layout.union("seL4_Fault").values.values())
        self._waiting = self._sent_before(snapshot)

    def _sent_before(self, snapshot: KernelState) -> list[Message]:
        """What the threads that wait in the snapshot send, or have sent and would send again; faults left out."""
        threads = snapshot.threads
        faults = self._layout.union("seL4_Fault")
        fault = faults.tag.of_word(threads.member("tcbFault", faults.tag.word))
        waiting = threads.in_state("BlockedOnSend", "BlockedOnReply") & (fault == faults.values["NullFault"])
        info, *words = (threads.member("tcbArch", number)[waiting] for number in range(1, 2 + MESSAGE_REGISTERS))
        return [self._sent(int(row[0]), tuple(map(int, row[1:]))) for row in zip(info, *words, strict=True)]

    def _field(self, name: str, info: int) -> int:
        return self._block[name].get((info,))

    def _sent(self, info: int, words: tuple[int, ...]) -> Message:
        length = min(self._field("length", info), MAXIMUM_LENGTH)
        return Message(self._field("label", info), length, words, self._field("extraCaps", info))

    def _received(self, result: Any) -> Message:
        info, words = int(result["info"]), tuple(int(word) for word in result["mr"])
        caps, unwrapped = self._field("extraCaps", info), self._field("capsUnwrapped", info)
        return Message(self._field("label", info), self._field("length", info), words, caps, unwrapped)

    def compare(self, program: bytes, results: Any, changed: Any) -> tuple[int, dict[int, Message]]:
        """How many messages were compared, and those that nobody seems to have sent, by the call that received them.

        `changed`: numbers of the words of secure RAM that differ from the snapshot; None if that is not known.
        """
        rows, states, infos = records(program), results["state"].tolist(), results["info"].tolist()
        numbers = [row[0] % len(self._receiving) for row in rows[: len(states)]]
        receiving = [
            index
            for index, number in enumerate(numbers)
            # A notification leaves the word of the caller, zero; where nobody must have sent, neither does anybody.
            if (kind := self._receiving[number]) and states[index] == _DONE and (kind == _ALWAYS or infos[index])
        ]
        if not receiving:
            return 0, {}
        calls = [self._decoder.decode_call(rows, index) for index in range(len(numbers))]
        made = [index for index, state in enumerate(states[: len(calls)]) if state in _RETURNED]
        received = {index: self._received(results[index]) for index in receiving}
        if self._disturbed([calls[index] for index in made], received):
            return 0, {}
        words = frozenset(changed.tolist()) if changed is not None else None
        grants = Grants(self._snapshot, self._interface, self._threads, calls, made, words)
        senders = [index for index in made if self._interface.calls[calls[index].call].action in _SENDING]
        sent = {index: self._sent(calls[index].info, calls[index].words) for index in senders}
        strange = {}
        for index, message in received.items():
            name = self._interface.calls[calls[index].call].name
            if name == "Call":
                fits = self._is_answer(calls, sent, index, message, int(results[index]["badge"]), grants)
            else:
                fits = message.label in self._faults - {0} or self._is_sent(calls, sent, index, message, grants)
            if not (fits and message.caps_fit):
                strange[index] = message
        return len(received), strange

    def _is_sent(
        self, calls: Sequence[Decoded], sent: dict[int, Message], index: int, message: Message, grants: Grants
    ) -> bool:
        """Whether a call can have received what it did, with so many capabilities, from any of those who sent."""
        if any(one.may_become(message) for one in self._waiting):
            return True
        for sender, one in sent.items():
            if not one.may_become(message) or (message.caps and not grants.may_bring(calls[sender])):
                continue
            if message.caps or not grants.must_bring(calls[sender], index):
                return True
        return False

    def _is_answer(
        self,
        calls: Sequence[Decoded],
        sent: dict[int, Message],
        index: int,
        message: Message,
        badge: int,
        grants: Grants,
    ) -> bool:
        """Whether what a Call got may be an answer: it has no badge, and the capabilities that the answer must bring.

        The kernel may answer with an error, and where the endpoint may be gone when the call is made once more.
        """
        if badge:
            return False
        answers = [sender for sender, one in sent.items() if sender != index and one.may_become(message)]
        if not answers:
            return bool(message.label) or not grants.known
        return bool(message.caps) or not all(grants.must_bring(calls[s], index) for s in answers)

    def _disturbed(self, calls: list[Decoded], received: dict[int, Message]) -> bool:
        """Whether messages may have come from elsewhere, or through other buffers than the victims' own."""
        faults = any(message.label in self._faults - {0} for message in received.values())
        for call in calls:
            type_ = self._interface.calls[call.call]
            if type_.action in _DISTURBING or type_.name in _DISTURBING_CALLS:
                return True
            if (
                faults
                and type_.action in _SENDING
                and type_.action is not Action.INVOKE
                and self._sent(call.info, ()).length
            ):
                return True  # an answer to a fault may set registers
        return False

    def question(self, program: bytes, index: int, message: Message) -> dict[str, Any]:
        """All that `resolve` needs to judge a call later, as plain data."""
        call = self._decoder.decode_call(records(program), index)
        return {
            "name": self._interface.calls[call.call].name,
            "victim": self._interface.population.victims[call.victim].name,
            "target": hex(call.target),
            "thread": hex(self._threads[call.victim]),
            "received": str(message),
        }

    def resolve(self, question: dict[str, Any], ram: Ram) -> bool:
        """Whether a call received through an endpoint, and its thread had no notification that could wake it.

        A Call has no other way to get an answer.
        """
        thread, layout = int(question["thread"], 16), self._layout
        found = lookup_slot(layout, ram, thread, int(question["target"], 16))
        bound = thread + layout.tcb_offset + layout.struct("tcb")["tcbBoundNotification"].offset
        through = found is not None and found.type == "endpoint_cap"
        return through and (question["name"] == "Call" or not int(ram.word(bound)))
