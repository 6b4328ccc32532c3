# SPDX-License-Identifier: BSD-2-Clause
"""One invocation as the rules see it, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.kernel_state.lookup import SlotContent
from harness.specification.answers import TRUNCATED_MESSAGE, Answer, NotCoveredError
from harness.specification.lookups import cnode_slot
from harness.specification.memory import Memory, Slot


@dataclass(frozen=True)
class Invocation:
    """What the kernel has when it decodes an invocation.

    `thread`: physical address of the caller's object; `slot`: the invoked capability's; `length`: message words;
    `words`: those that are known; `extra`: slots of the extra capabilities.
    """

    memory: Memory
    thread: int
    slot: Slot
    cap: SlotContent
    length: int
    words: tuple[int, ...]
    extra: tuple[Slot, ...]

    def word(self, index: int) -> int:
        """A message word; NotCoveredError for one that lies in the IPC buffer from before."""
        if index >= len(self.words):
            raise NotCoveredError("a message word of which the program says nothing")
        return self.words[index]

    def given(self, index: int) -> SlotContent:
        """An extra capability."""
        return self.extra[index].cap

    def lookup(self, root: SlotContent, first: int, *, source: bool = False) -> Slot | Answer:
        """The slot that message words `first` (index) and `first` + 1 (depth) name under a root."""
        return cnode_slot(self.memory, root, self.word(first), self.word(first + 1), source=source)

    def found(self, root: SlotContent, first: int) -> Slot:
        """The same where an earlier rule has seen that the lookup succeeds."""
        slot = self.lookup(root, first)
        if isinstance(slot, Answer):
            raise NotCoveredError("a lookup that an earlier rule refuses")
        return slot

    def member(self, thread: int, name: str) -> int:
        """A word of a thread (physical address of its object)."""
        layout = self.memory.layout
        return self.memory.word(thread + layout.tcb_offset + layout.struct("tcb")[name].offset)

    @property
    def target_thread(self) -> int:
        """Physical address of the object of the thread that is invoked."""
        return thread_of(self.cap)


def thread_of(cap: SlotContent) -> int:
    """Physical address of the thread object of a thread capability."""
    return cap.layout.physical(cap.field("capTCBPtr")) & -(1 << cap.layout.tcb_bits)


Refusal = Callable[[Invocation], Answer | None]


@dataclass(frozen=True)
class Rule:
    """A rule of the manual: in words, and as a function that gives the error if it is broken."""

    text: str
    refusal: Refusal


Rules = tuple[Rule, ...]


def refuse(text: str, condition: Callable[[Invocation], bool], answer: Answer) -> Rule:
    """The rule that answers so where the condition holds."""
    return Rule(text, lambda call: answer if condition(call) else None)


def message(words: int, caps: int = 0) -> Rule:
    """The message has at least so many words and extra capabilities."""
    text = f"the message has at least {words} words and {caps} capabilities"
    return refuse(text, lambda call: call.length < words or len(call.extra) < caps, TRUNCATED_MESSAGE)


def lookup(text: str, root: Callable[[Invocation], SlotContent], first: int, *, source: bool = False) -> Rule:
    """Message words `first` and `first` + 1 name a slot under a root."""

    def refusal(call: Invocation) -> Answer | None:
        found = call.lookup(root(call), first, source=source)
        return found if isinstance(found, Answer) else None

    return Rule(text, refusal)
