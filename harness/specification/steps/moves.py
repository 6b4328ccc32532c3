# SPDX-License-Identifier: BSD-2-Clause
"""What calls are made of: threads wait and go on, messages and signals reach them."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.kernel_state.layout import Layout
from harness.kernel_state.lookup import SlotContent
from harness.specification.answers import NotCoveredError
from harness.specification.message_info import (
    ALL_CAPS,
    CAPS,
    CAPS_SHIFT,
    LABEL,
    LABEL_SHIFT,
    LENGTH,
    MAXIMUM_LENGTH,
    MESSAGE_REGISTERS,
    UNWRAPPED_SHIFT,
)
from harness.specification.steps.scene import (
    INACTIVE,
    NO_FAULT,
    ON_RECEIVE,
    ON_REPLY,
    ON_SEND,
    ON_SIGNAL,
    RESTART,
    RUNNING,
    Endpoint,
    Notification,
    Thread,
)
from harness.specification.steps.scheduler import NEXT, REPEATED, Scheduler

BADGE, INFO, FIRST_MESSAGE = 0, 1, 2
"""Registers with the badge, with the message info word, and with the first word of a message."""
STACK, STATUS, OWN_REGISTER = 31, 33, 35
"""Stack pointer, status, and the thread's own register (TPIDR_EL0), which holds the address of its buffer."""
FRAME_REGISTERS = (REPEATED, STACK, STATUS, *range(9), 16, 17, 18, 29, 30)
"""The registers of seL4_UserContext that a thread needs to go on, in their order; those behind them follow."""
OTHER_REGISTERS = (*range(9, 16), *range(19, 29))
SYSCALL_MESSAGE = (*range(8), REPEATED, STACK, NEXT, STATUS)
"""Registers in a message about an unknown system call, and in the answer to it."""
EXCEPTION_MESSAGE = (REPEATED, STACK, STATUS)
"""The same of another exception of the thread's."""
_FLAGS = 0xF0000000
"""The bits of the status register that a thread may choose."""
_COUNTED = CAPS << CAPS_SHIFT
"""The field that counts capabilities, in its place."""
_READ_ONLY, _READ_WRITE = 3, 1


@dataclass
class Moves(Scheduler):
    """Changes a scene as calls do.

    `words`: what is known of messages that threads send or get beyond the words in registers, by thread.
    """

    layout: Layout = field(kw_only=True)
    words: dict[int, tuple[int, ...]] = field(default_factory=dict)
    given: tuple[SlotContent, ...] = ()
    """The capabilities that the current thread's message names."""
    badges: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Badges that threads are told of in the place of capabilities."""

    # What a thread waits for

    def cancel(self, tcb: int) -> None:
        """A thread no longer waits for what it waited for; who waited for an answer has none to expect."""
        thread = self.thread(tcb)
        if thread.state in (ON_SEND, ON_RECEIVE):
            endpoint = self.scene.endpoints[thread.object]
            endpoint.queue.remove(tcb)
            endpoint.state = endpoint.state if endpoint.queue else "Idle"
            self.become(tcb, INACTIVE)
        elif thread.state == ON_SIGNAL:
            notification = self.scene.notifications[thread.object]
            notification.queue.remove(tcb)
            notification.state = notification.state if notification.queue else "Idle"
            self.become(tcb, INACTIVE)
        elif thread.state == ON_REPLY:
            thread.fault, thread.failure = NO_FAULT, (0, 0)
            self.forget_caller(tcb)

    def forget_caller(self, tcb: int) -> None:
        """The reply capability of a thread is gone."""
        for other in self.scene.threads.values():
            if other.caller == tcb:
                other.caller = 0

    def cancel_all(self, waited_for: Endpoint | Notification) -> None:
        """All who wait for an object make their calls once more."""
        if waited_for.queue:
            waiting, waited_for.queue, waited_for.state = waited_for.queue, [], "Idle"
            for tcb in waiting:
                self.become(tcb, RESTART)
                self.make_ready(tcb)
            self.choose_again()

    def suspend(self, tcb: int) -> None:
        """A thread stops."""
        self.cancel(tcb)
        self.become(tcb, INACTIVE)
        self.unready(tcb)

    def restart(self, tcb: int) -> None:
        """A thread that does not run makes its call once more."""
        if not self.thread(tcb).runnable:
            self.cancel(tcb)
            self.become(tcb, RESTART)
            self.let_go(tcb, at_once=False)

    # Signals

    def signal(self, address: int, badge: int) -> None:
        """The first thread that waits gets the badge, or the bound one while it waits for a message; or nobody yet."""
        notification = self.scene.notifications[address]
        bound = self.scene.threads.get(notification.bound)
        if notification.state == "Active":
            notification.badge |= badge
            return
        if notification.state == "Waiting":
            taker = notification.queue[0]
        elif bound is not None and bound.state == ON_RECEIVE:
            taker = notification.bound
        else:
            notification.state, notification.badge = "Active", badge
            return
        self.cancel(taker)
        self.become(taker, RUNNING)
        self.thread(taker).registers[BADGE] = badge
        self.let_go(taker, at_once=False)

    def take_signal(self, tcb: int, address: int, *, blocking: bool) -> None:
        """A thread gets the badge of an active notification, or waits."""
        notification, thread = self.scene.notifications[address], self.thread(tcb)
        if notification.state == "Active":
            thread.registers[BADGE] = notification.badge
            notification.state, notification.badge = "Idle", 0
        elif blocking:
            self.become(tcb, ON_SIGNAL)
            thread.object = address
            notification.state = "Waiting"
            notification.queue.append(tcb)
        else:
            thread.registers[BADGE] = 0

    # Messages

    def has_buffer(self, tcb: int, *, to_write: bool) -> bool:
        """Whether a thread has a buffer that may be used so."""
        cap = SlotContent(self.layout, *self.thread(tcb).slots["tcbBuffer"])
        rights = (_READ_WRITE,) if to_write else (_READ_WRITE, _READ_ONLY)
        return cap.type == "frame_cap" and cap.field("capFVMRights") in rights

    def transfer(self, sender: int, badge: int, grant: bool, receiver: int, through: int = 0) -> None:
        """A message reaches a thread: words that fit into registers, or all where both have buffers; or a fault.

        `through`: the endpoint; of capabilities to itself only the badges are told.
        """
        source, taker = self.thread(sender), self.thread(receiver)
        taker.registers[BADGE] = badge
        if source.fault != NO_FAULT:
            self._tell_fault(source, receiver)
            return
        info = source.registers[INFO]
        length = min(info & LENGTH, MAXIMUM_LENGTH)
        room, has = self.has_buffer(receiver, to_write=True), self.has_buffer(sender, to_write=False)
        if not (room and has):
            length = min(length, MESSAGE_REGISTERS)
        for register in range(FIRST_MESSAGE, FIRST_MESSAGE + min(length, MESSAGE_REGISTERS)):
            taker.registers[register] = source.registers[register]
        taker.registers[INFO] = info & ~(ALL_CAPS | LENGTH) | length
        taker.open_caps = bool(info & _COUNTED) and grant and room and has
        self.words[receiver] = self.words.get(sender, ())[:length]
        number = (info & _COUNTED) >> CAPS_SHIFT
        itself = [cap.type == "endpoint_cap" and cap.base == through for cap in self.given[:number]]
        if taker.open_caps and sender == self.scene.current and len(itself) == number and all(itself):
            taker.open_caps = False
            taker.registers[INFO] |= info & _COUNTED | ((1 << number) - 1) << UNWRAPPED_SHIFT
            self.badges[receiver] = tuple(cap.field("capEPBadge") for cap in self.given[:number])

    def _tell_fault(self, source: Thread, receiver: int) -> None:
        taker = self.thread(receiver)
        union = self.layout.union("seL4_Fault")
        kind = union.tag.get(source.fault)
        block = self.layout.block(union.blocks[kind])
        fault = {name: where.get(source.fault) for name, where in block.fields.items()}
        registers = source.registers
        name = union.blocks[kind]
        if name == "CapFault":
            words = [registers[REPEATED], fault["address"], fault["inReceivePhase"], *self._failure(source)]
        elif name == "UnknownSyscall":
            words = [*(registers[number] for number in SYSCALL_MESSAGE), fault["syscallNumber"]]
        elif name == "UserException":
            words = [*(registers[number] for number in EXCEPTION_MESSAGE), fault["number"], fault["code"]]
        else:
            words = [registers[REPEATED], fault["address"], fault["instructionFault"], fault["FSR"]]
        if not self.has_buffer(receiver, to_write=True):
            words = words[:MESSAGE_REGISTERS]
        taker.registers[INFO] = kind << LABEL_SHIFT | len(words)
        taker.open_caps = False
        for number, word in enumerate(words[:MESSAGE_REGISTERS]):
            taker.registers[FIRST_MESSAGE + number] = word
        self.words[receiver] = tuple(words)

    def _failure(self, source: Thread) -> list[int]:
        """How a lookup failed, in words: kind and details."""
        union = self.layout.union("lookup_fault")
        kind = union.tag.get(source.failure)
        fields = self.layout.block(union.blocks[kind]).fields
        order = ("bitsLeft", "guardFound", "bitsFound")
        return [kind + 1, *(fields[name].get(source.failure) for name in order if name in fields)]

    def send(self, sender: int, address: int, badge: int, *, grant: bool, is_call: bool, blocking: bool) -> None:
        """The first thread that waits to receive gets the message; otherwise the sender waits, if it is to."""
        endpoint, thread = self.scene.endpoints[address], self.thread(sender)
        if endpoint.state != "Recv":
            if blocking:
                self.become(sender, ON_SEND)
                thread.object, thread.badge = address, badge
                thread.may_grant, thread.is_call = int(grant), int(is_call)
                endpoint.state = "Send"
                endpoint.queue.append(sender)
            return
        taker = endpoint.queue.pop(0)
        endpoint.state = "Recv" if endpoint.queue else "Idle"
        self.transfer(sender, badge, grant, taker, address)
        self.become(taker, RUNNING)
        self.let_go(taker, at_once=True)
        if is_call or thread.fault != NO_FAULT:
            self._await_answer(sender, taker, grant=grant)

    def _await_answer(self, caller: int, taker: int, *, grant: bool) -> None:
        if not grant:
            self.become(caller, INACTIVE)
            return
        self.become(caller, ON_REPLY)
        self.thread(taker).caller = caller

    def receive(self, receiver: int, address: int, *, blocking: bool) -> None:
        """A signal of the bound notification comes first, then the first sender's message; otherwise it waits."""
        endpoint, thread = self.scene.endpoints[address], self.thread(receiver)
        bound = self.scene.notifications.get(thread.bound)
        if bound is not None and bound.state == "Active":
            self.take_signal(receiver, thread.bound, blocking=False)
        elif endpoint.state == "Send":
            sender = endpoint.queue.pop(0)
            endpoint.state = "Send" if endpoint.queue else "Idle"
            source = self.thread(sender)
            grant, is_call = bool(source.may_grant), bool(source.is_call)
            self.transfer(sender, source.badge, grant, receiver)
            if is_call or source.fault != NO_FAULT:
                self._await_answer(sender, receiver, grant=grant)
            else:
                self.become(sender, RUNNING)
                self.let_go(sender, at_once=False)
        elif blocking:
            self.become(receiver, ON_RECEIVE)
            thread.object = address
            endpoint.state = "Recv"
            endpoint.queue.append(receiver)
        else:
            thread.registers[BADGE] = 0

    def answer(self, sender: int, caller: int) -> None:
        """A thread that waits for an answer gets it; one that faulted goes on, or not if the answer has a label."""
        source, taker = self.thread(sender), self.thread(caller)
        if taker.state != ON_REPLY:
            raise NotCoveredError("an answer that nobody waits for")
        goes_on = True
        if taker.fault == NO_FAULT:
            self.transfer(sender, 0, True, caller)
            self.become(caller, RUNNING)
        else:
            union = self.layout.union("seL4_Fault")
            name = union.blocks[union.tag.get(taker.fault)]
            order = {"UnknownSyscall": SYSCALL_MESSAGE, "UserException": EXCEPTION_MESSAGE}.get(name, ())
            goes_on = not order or not source.registers[INFO] >> LABEL_SHIFT & LABEL
            self._set_registers(source, sender, taker, order[: source.registers[INFO] & LENGTH])
            taker.fault, taker.failure = NO_FAULT, (0, 0)
            self.become(caller, RESTART if goes_on else INACTIVE)
        self.forget_caller(caller)
        if goes_on:
            self.let_go(caller, at_once=True)

    def _set_registers(self, source: Thread, sender: int, taker: Thread, order: tuple[int, ...]) -> None:
        words = (*source.registers[FIRST_MESSAGE : FIRST_MESSAGE + MESSAGE_REGISTERS],)
        words += self.words.get(sender, ())[MESSAGE_REGISTERS:]
        for number, register in enumerate(order):
            if number >= len(words):
                taker.open_registers |= {register}
            else:
                self.write_register(taker, register, words[number])

    def write_register(self, thread: Thread, register: int, value: int) -> None:
        """A register as somebody else may set it: of the status only the flags."""
        if register == STATUS:
            value = (value & _FLAGS) | (thread.registers[STATUS] & ~_FLAGS)
        thread.registers[register] = value
