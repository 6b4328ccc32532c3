# SPDX-License-Identifier: BSD-2-Clause
"""Interrupts as steps: ticks of the timer, and lines whose handlers signal a notification.

A line that was delivered stays masked until somebody acknowledges it; what comes meanwhile waits until then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.programs.descriptions import Action
from harness.programs.encodings import Decoded
from harness.programs.interfaces import Interface
from harness.specification.answers import NotCoveredError
from harness.specification.memory import Memory, Slot
from harness.specification.steps.moves import Moves

ACKNOWLEDGE = "IRQAckIRQ"
Lookup = Callable[[Memory, Decoded], tuple[Slot, ...]]
"""The slots that a call names."""
_TABLE = "intStateIRQTable"


class Line:
    """A line after some calls: whether it is `masked`, and whether an interrupt `waits`.

    NotCoveredError where that is not known: somebody has taken it over after it had become pending.
    """

    def __init__(
        self, memory: Memory, interface: Interface, calls: Sequence[Decoded], slots: Lookup, number: int
    ) -> None:
        self.masked = self.waits = False
        for call in calls:
            type_ = interface.calls[call.call]
            if type_.action is Action.INTERRUPT and call.words[0] == number:
                self.waits, self.masked = self.masked, True
            elif type_.label_name == ACKNOWLEDGE:
                cap = slots(memory, call)[0].cap
                if cap.type == "irq_handler_cap" and cap.field("capIRQ") == number:
                    self.waits, self.masked = False, self.waits
            elif type_.interface == "seL4_IRQControl" and call.words[0] == number and self.masked:
                raise NotCoveredError("a line that somebody has taken over")


def deliver(moves: Moves, memory: Memory, line: int) -> None:
    """An interrupt signals the notification of its handler, if it has one."""
    layout = memory.layout
    node = layout.physical(memory.variable("intStateIRQNode"))
    cap = memory.slot(node + (line << layout.slot_bits)).cap
    if cap.type == "notification_cap" and cap.field("capNtfnCanSend"):
        moves.signal(cap.base, cap.field("capNtfnBadge"))
        moves.finish()


def interrupt(moves: Moves, memory: Memory, interface: Interface, calls: Sequence[Decoded], slots: Lookup) -> None:
    """The last call makes a line pending, so often as it says; it is delivered before the caller goes on."""
    layout = memory.layout
    line, count, next_call = calls[-1].words[:3]
    if next_call:
        return
    state = memory.variable(_TABLE, line) if line < memory.words_of(_TABLE) else None
    if state == layout.constant("IRQTimer"):
        caller = moves.scene.current
        for _ in range(count):
            if moves.scene.current != caller:
                raise NotCoveredError("others run between the ticks")
            moves.tick()
            moves.finish()
    elif state == layout.constant("IRQSignal") and not Line(memory, interface, calls[:-1], slots, line).masked:
        deliver(moves, memory, line)
