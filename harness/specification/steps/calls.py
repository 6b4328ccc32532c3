# SPDX-License-Identifier: BSD-2-Clause
"""What each call does to threads, in the moves of `moves.py`: a table by label, and the system calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.kernel_state.lookup import SlotContent
from harness.specification.answers import Answer, NotCoveredError
from harness.specification.lookups import cnode_slot
from harness.specification.memory import Memory, Slot
from harness.specification.message_info import MESSAGE_REGISTERS
from harness.specification.steps.moves import (
    BADGE,
    FIRST_MESSAGE,
    FRAME_REGISTERS,
    INFO,
    OTHER_REGISTERS,
    OWN_REGISTER,
    Moves,
)
from harness.specification.steps.scheduler import NEXT, REPEATED
from harness.specification.threads import MCP_SHIFT, PRIORITY_MASK

_SUSPEND, _RESUME, _FRAME, _INTEGER = 1, 2, 4, 8
"""Flags of CopyRegisters; of Read- and WriteRegisters the first one suspends, or resumes."""

_WITHOUT_EFFECT_ON_THREADS = ("ARM", "Untyped", "IRQIssue")
"""How the labels begin of what does nothing to threads, beside those that the table names."""
SMC_REGISTERS = 8
_RECEIVING = frozenset({"Recv", "NBRecv", "ReplyRecv"})
_SILENT = frozenset({"Load", "Store"})
"""What the kernel has no part in."""


@dataclass
class Step:
    """One call: who makes it, with which message, and which capabilities it names.

    `caller`: the thread (tcb_t); `name`: of the call; `label`: of the invocation, if it is one; `caps`: slots that are
    named, the target's first; `words`: of the message, as far as they are known.
    """

    memory: Memory
    moves: Moves
    caller: int
    name: str
    label: str
    caps: tuple[Slot, ...]
    words: tuple[int, ...]

    def word(self, index: int) -> int:
        """A word of the message; NotCoveredError if it is not known."""
        if index >= len(self.words):
            raise NotCoveredError("a message word of which nothing is known")
        return self.words[index]

    def given(self, index: int) -> SlotContent:
        """An extra capability; NotCoveredError without it."""
        if index + 1 >= len(self.caps):
            raise NotCoveredError("a capability that is not there")
        return self.caps[index + 1].cap

    @property
    def cap(self) -> SlotContent:
        """The capability that is invoked."""
        return self.caps[0].cap

    @property
    def target(self) -> int:
        """The thread that is invoked."""
        return _thread(self.cap)


def _thread(cap: SlotContent) -> int:
    if cap.type != "thread_cap":
        raise NotCoveredError("no thread")
    return cap.layout.physical(cap.field("capTCBPtr"))


Effect = Callable[[Step], None]


# Invocations of threads


def _read_registers(step: Step) -> None:
    if step.word(0) & _SUSPEND:
        step.moves.suspend(step.target)
    registers, caller = step.moves.thread(step.target).registers, step.moves.thread(step.caller)
    read = [registers[number] for number in (*FRAME_REGISTERS, *OTHER_REGISTERS)[: step.word(1)]]
    caller.registers[FIRST_MESSAGE : FIRST_MESSAGE + min(len(read), MESSAGE_REGISTERS)] = read[:MESSAGE_REGISTERS]
    if not step.moves.has_buffer(step.caller, to_write=True):
        read = read[:MESSAGE_REGISTERS]
    caller.registers[INFO] = len(read)
    step.moves.words[step.caller] = tuple(read)


def _write_registers(step: Step) -> None:
    thread = step.moves.thread(step.target)
    for number, register in enumerate((*FRAME_REGISTERS, *OTHER_REGISTERS)[: step.word(1)]):
        step.moves.write_register(thread, register, step.word(2 + number))
    thread.registers[NEXT] = thread.registers[REPEATED]
    if step.word(0) & _SUSPEND:
        step.moves.restart(step.target)


def _copy_registers(step: Step) -> None:
    flags, source = step.word(0), _thread(step.given(0))
    if step.caller in (source, step.target):
        raise NotCoveredError("the caller's own registers")
    if flags & _SUSPEND:
        step.moves.suspend(source)
    if flags & _RESUME:
        step.moves.restart(step.target)
    taken, thread = step.moves.thread(source).registers, step.moves.thread(step.target)
    if flags & _FRAME:
        for register in FRAME_REGISTERS:
            thread.registers[register] = taken[register]
        thread.registers[NEXT] = thread.registers[REPEATED]
    if flags & _INTEGER:
        for register in OTHER_REGISTERS:
            thread.registers[register] = taken[register]


def _replaced(step: Step, *names: str) -> None:
    """The thread's slots hold other capabilities; deleting the last one to an object may have any effect."""
    _last_space(step, step.target)
    step.moves.thread(step.target).open_slots |= set(names)


def _last_space(step: Step, tcb: int) -> None:
    """NotCoveredError if a thread's capability space, or what else lies there, goes with its slot."""
    memory = step.memory
    for name in ("tcbCTable", "tcbVTable"):
        slot = memory.slot(
            (tcb & -(1 << memory.layout.tcb_bits)) + (memory.layout.constant(name) << memory.layout.slot_bits)
        )
        if slot.cap.type in ("cnode_cap", "thread_cap", "zombie_cap") and slot.is_final():
            raise NotCoveredError("an object that goes with its last capability")


def _set_space(step: Step, handler: int) -> None:
    _replaced(step, "tcbCTable", "tcbVTable")
    step.moves.thread(step.target).handler = handler


def _set_buffer(step: Step, address: int) -> None:
    _replaced(step, "tcbBuffer")
    thread = step.moves.thread(step.target)
    thread.buffer = thread.registers[OWN_REGISTER] = address


def _configure(step: Step) -> None:
    thread, both = step.moves.thread(step.target), step.word(1)
    thread.maximum_priority = both >> MCP_SHIFT & PRIORITY_MASK
    step.moves.prioritise(step.target, priority=both & PRIORITY_MASK)
    _set_space(step, step.word(0))
    _set_buffer(step, step.word(4))


def _set_maximum_priority(step: Step) -> None:
    step.moves.thread(step.target).maximum_priority = step.word(0)


def _bind(step: Step) -> None:
    notification = step.given(0).base
    step.moves.thread(step.target).bound = notification
    step.moves.scene.notifications[notification].bound = step.target


def _unbind(step: Step) -> None:
    thread = step.moves.thread(step.target)
    step.moves.scene.notifications[thread.bound].bound = thread.bound = 0


# Other invocations


def _save_caller(step: Step) -> None:
    step.moves.thread(step.caller).caller = 0


def _cancel_sends(step: Step) -> None:
    found = cnode_slot(step.memory, step.cap, step.word(0), step.word(1))
    if isinstance(found, Answer):
        raise NotCoveredError("a lookup that fails")
    scene, cap = step.moves.scene, found.cap
    if cap.type != "endpoint_cap":
        raise NotCoveredError("no endpoint")
    endpoint, badge = scene.endpoints[cap.base], cap.field("capEPBadge")
    if not badge or endpoint.state != "Send":
        return
    for tcb in [tcb for tcb in endpoint.queue if scene.threads[tcb].badge == badge]:
        endpoint.queue.remove(tcb)
        step.moves.become(tcb, "Restart")
        step.moves.make_ready(tcb)
    endpoint.state = "Send" if endpoint.queue else "Idle"
    step.moves.choose_again()


def _delete(step: Step) -> None:
    """With the last capability to it, an object lets go whoever waits for it; a thread stops."""
    found = cnode_slot(step.memory, step.cap, step.word(0), step.word(1))
    if isinstance(found, Answer):
        raise NotCoveredError("a lookup that fails")
    cap, moves = found.cap, step.moves
    if cap.type in ("cnode_cap", "zombie_cap", "irq_handler_cap", "untyped_cap") or cap.type == "unknown":
        raise NotCoveredError("what may hold others")
    if not found.is_final():
        return
    if cap.type == "endpoint_cap":
        moves.cancel_all(moves.scene.endpoints[cap.base])
    elif cap.type == "notification_cap":
        notification = moves.scene.notifications[cap.base]
        if notification.bound:
            moves.thread(notification.bound).bound = notification.bound = 0
        moves.cancel_all(notification)
    elif cap.type == "thread_cap":
        tcb = _thread(cap)
        _last_space(step, tcb)
        bound = moves.thread(tcb).bound
        if bound:
            moves.scene.notifications[bound].bound = 0
        moves.suspend(tcb)
        moves.forget_caller(tcb)
        del moves.scene.threads[tcb]


def _interrupt_silenced(step: Step) -> None:
    """The capability to its notification goes; if it is the last one, so does the notification."""
    layout = step.memory.layout
    node = layout.physical(step.memory.variable("intStateIRQNode"))
    slot = step.memory.slot(node + (step.cap.field("capIRQ") << layout.slot_bits))
    if slot.cap.type != "null_cap" and slot.is_final():
        raise NotCoveredError("a notification that goes with its last capability")


def _call_monitor(step: Step) -> None:
    """The answer has all registers of the monitor's, or those that fit into the caller's; smc_results knows them."""
    caller, whole = step.moves.thread(step.caller), step.moves.has_buffer(step.caller, to_write=True)
    caller.registers[INFO] = SMC_REGISTERS if whole else MESSAGE_REGISTERS
    caller.open_registers |= set(range(FIRST_MESSAGE, FIRST_MESSAGE + MESSAGE_REGISTERS))
    step.moves.words[step.caller] = ()


def _nothing(_: Step) -> None:
    pass


INVOCATIONS: Mapping[str, Effect] = {
    "TCBReadRegisters": _read_registers,
    "TCBWriteRegisters": _write_registers,
    "TCBCopyRegisters": _copy_registers,
    "TCBConfigure": _configure,
    "TCBSetPriority": lambda step: step.moves.prioritise(step.target, priority=step.word(0)),
    "TCBSetMCPriority": _set_maximum_priority,
    "TCBSetIPCBuffer": lambda step: _set_buffer(step, step.word(0)),
    "TCBSetSpace": lambda step: _set_space(step, step.word(0)),
    "TCBSuspend": lambda step: step.moves.suspend(step.target),
    "TCBResume": lambda step: step.moves.restart(step.target),
    "TCBBindNotification": _bind,
    "TCBUnbindNotification": _unbind,
    "DomainSetSet": lambda step: step.moves.prioritise(_thread(step.given(0)), domain=step.word(0)),
    "CNodeCopy": _nothing,
    "CNodeMint": _nothing,
    "CNodeMove": _nothing,
    "CNodeMutate": _nothing,
    "CNodeRotate": _nothing,
    "CNodeDelete": _delete,
    "CNodeSaveCaller": _save_caller,
    "CNodeCancelBadgedSends": _cancel_sends,
    "ARMSMCCall": _call_monitor,
    "IRQAckIRQ": _nothing,
    "IRQSetIRQHandler": _interrupt_silenced,
    "IRQClearIRQHandler": _interrupt_silenced,
}


# System calls


def _send(step: Step) -> None:
    """A message to an endpoint, a signal, or an answer through a reply capability."""
    cap, moves = step.cap, step.moves
    is_call, blocking = step.name == "Call", step.name != "NBSend"
    if cap.type == "endpoint_cap":
        if cap.field("capCanSend"):
            grant = bool(cap.field("capCanGrant"))
            badge = cap.field("capEPBadge")
            moves.send(step.caller, cap.base, badge, grant=grant, is_call=is_call, blocking=blocking)
            return
    elif cap.type == "notification_cap":
        if cap.field("capNtfnCanSend"):
            moves.signal(cap.base, cap.field("capNtfnBadge"))
            _done(step)
            return
    elif cap.type == "reply_cap":
        moves.answer(step.caller, cap.layout.physical(cap.field("capTCBPtr")))
        _done(step)
        return
    raise NotCoveredError("a message to the kernel, or a refused one")


def _done(step: Step) -> None:
    """Who calls gets an empty answer from the kernel."""
    if step.name == "Call":
        registers = step.moves.thread(step.caller).registers
        registers[BADGE] = registers[INFO] = 0


def _reply(step: Step) -> None:
    caller = step.moves.thread(step.caller).caller
    if caller:
        step.moves.answer(step.caller, caller)


def _receive(step: Step) -> None:
    cap, moves, blocking = step.cap, step.moves, step.name != "NBRecv"
    if cap.type == "endpoint_cap" and cap.field("capCanReceive"):
        moves.thread(step.caller).caller = 0
        moves.receive(step.caller, cap.base, blocking=blocking)
    elif cap.type == "notification_cap" and cap.field("capNtfnCanReceive"):
        moves.take_signal(step.caller, cap.base, blocking=blocking)
    else:
        raise NotCoveredError("a fault")


def _yield(step: Step) -> None:
    step.moves.give_way(step.caller)
    step.moves.choose_again()


def perform(step: Step, *, refused: bool) -> None:
    """Change the scene as a call does, up to who runs next. `refused`: the kernel answered an error.

    NotCoveredError for a call of which the table says nothing.
    """
    name = step.name
    if name in ("Send", "NBSend", "Call"):
        _send(step)
    elif name == "Reply":
        _reply(step)
    elif name in _RECEIVING:
        if name == "ReplyRecv":
            _reply(step)
        _receive(step)
    elif name == "Yield":
        _yield(step)
    elif step.label and not refused:
        effect = INVOCATIONS.get(step.label)
        if effect is None and not step.label.startswith(_WITHOUT_EFFECT_ON_THREADS):
            raise NotCoveredError("an invocation of which nothing is said")
        registers = step.moves.thread(step.caller).registers
        registers[BADGE] = registers[INFO] = 0
        (effect or _nothing)(step)
    elif not step.label and name not in _SILENT:
        raise NotCoveredError("a call of which nothing is said")
    step.moves.finish()
