# SPDX-License-Identifier: BSD-2-Clause
"""Interrupts: the IRQ node, the table of their states, and the capabilities to handle them."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.invariants.definitions import MAXIMUM_VIOLATIONS, Context, Judgement, invariant
from harness.kernel_state.memory import contains
from harness.kernel_state.state import ContainerKind

Array = np.ndarray[Any, Any]

FAMILY = "irq"
_STATES = ("IRQInactive", "IRQSignal", "IRQTimer", "IRQReserved")


@invariant(
    "valid_irq_node",
    family=FAMILY,
    reference="l4v Invariants_AI: valid_irq_node; Refine Invariants_H: irqs_masked', valid_irq_states",
)
def valid_irq_node(context: Context) -> Judgement:
    """Each slot of the IRQ node is empty or holds the notification of an interrupt that was handed out."""
    state = context.state
    caps, layout = state.caps, state.layout
    table = state.global_words("intStateIRQTable")
    judgement = Judgement(len(table))
    if not any(container.kind == ContainerKind.IRQ_NODE for container in state.containers):
        node = layout.physical(state.global_word("intStateIRQNode"))
        judgement.fail_field("interrupts", "IRQ node", "intStateIRQNode", hex(node), f"a CNode of {len(table)} slots")
        return judgement
    names = {layout.constant(name): name for name in _STATES}
    for line in np.flatnonzero(~contains(np.array(sorted(names), np.uint64), table)).tolist()[:MAXIMUM_VIOLATIONS]:
        judgement.fail_field(
            f"interrupt {line}", "IRQ state", "intStateIRQTable", int(table[line]), "a state of an interrupt", irq=line
        )
    owner = [container.kind == ContainerKind.IRQ_NODE for container in state.containers]
    rows = np.flatnonzero(np.array(owner, np.bool_)[caps.container] & (caps.type != layout.cap_types["null_cap"]))
    signal = layout.constant("IRQSignal")
    for row in rows.tolist()[:MAXIMUM_VIOLATIONS]:
        line = int(caps.index[row])
        if caps.type_name(row) != "notification_cap":
            judgement.fail_cap(
                caps, row, f"slot {line} of the IRQ node", caps.type_name(row), "notification_cap or null_cap", irq=line
            )
        elif int(table[line]) != signal:
            found = names.get(int(table[line]), str(int(table[line])))
            judgement.fail_cap(
                caps,
                row,
                f"intStateIRQTable[{line}]",
                found,
                "IRQSignal, as its slot in the IRQ node is used",
                irq=line,
            )
    return judgement


@invariant("valid_irq_handlers", family=FAMILY, reference="l4v Invariants_AI: valid_irq_handlers")
def valid_irq_handlers(context: Context) -> Judgement:
    """An interrupt has capabilities to handle it if, and only if, its state says that it was handed out."""
    state = context.state
    caps = state.caps
    table = state.global_words("intStateIRQTable")
    rows = caps.of("irq_handler_cap")
    judgement = Judgement(len(table) + len(rows))
    signal = np.uint64(state.layout.constant("IRQSignal"))
    lines = caps.field("irq_handler_cap", "capIRQ", rows).astype(np.int64)
    issued = np.zeros(len(table), np.bool_)
    for row, line in zip(rows.tolist(), lines.tolist(), strict=True):
        if line < len(table):
            issued[line] = True
            if table[line] != signal:
                judgement.fail_cap(
                    caps,
                    row,
                    f"intStateIRQTable[{line}]",
                    int(table[line]),
                    "IRQSignal, as there is a capability to handle it",
                    irq=line,
                )
    for line in np.flatnonzero((table == signal) & ~issued).tolist()[:MAXIMUM_VIOLATIONS]:
        judgement.fail_field(
            f"interrupt {line}",
            "IRQ state",
            "intStateIRQTable",
            "IRQSignal",
            "IRQInactive, as no capability handles it",
            irq=line,
        )
    return judgement
