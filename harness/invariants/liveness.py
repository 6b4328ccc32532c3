# SPDX-License-Identifier: BSD-2-Clause
"""Which objects and slots must be within reach of a capability."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.invariants.definitions import MAXIMUM_VIOLATIONS, Context, Judgement, invariant
from harness.kernel_state.memory import contains
from harness.kernel_state.state import ContainerKind

Array = np.ndarray[Any, Any]

FAMILY = "liveness"


@invariant("if_live_then_nonz_cap", family=FAMILY, reference="l4v Invariants_AI: if_live_then_nonz_cap, live")
def if_live_then_nonz_cap(context: Context) -> Judgement:
    """A thread that runs, waits or is bound, and what threads wait for or are bound to, has a capability."""
    state = context.state
    caps, threads = state.caps, state.threads
    endpoints, notifications = state.endpoints, state.notifications
    judgement = Judgement(len(threads) + len(endpoints) + len(notifications))
    live = ~threads.in_state("Inactive", "IdleThreadState") | (threads.member("tcbBoundNotification") != 0)
    named = contains(np.sort(caps.base[caps.of("thread_cap")]), threads.address)
    for row in np.flatnonzero(live & ~named).tolist():
        judgement.fail_thread(
            threads, row, "thread_cap", "none", f"at least one, as the thread is {threads.state_name(row)}"
        )
    constant = state.layout.constant
    for objects, live in (
        (endpoints, endpoints.state != np.uint64(constant("EPState_Idle"))),
        (notifications, (notifications.state == np.uint64(constant("NtfnState_Waiting"))) | (notifications.bound != 0)),
    ):
        name = f"{objects.block.name}_cap"
        named = contains(np.sort(caps.base[caps.of(name)]), objects.address)
        for row in np.flatnonzero(live & ~named).tolist():
            judgement.fail_object(objects, row, name, "none", "at least one, as threads wait for it or are bound to it")
    return judgement


@invariant("if_unsafe_then_cap", family=FAMILY, reference="l4v Invariants_AI: if_unsafe_then_cap, ex_cte_cap_wp_to")
def if_unsafe_then_cap(context: Context) -> Judgement:
    """Each slot that holds a capability belongs to a CNode, thread, zombie or interrupt that a capability names."""
    state = context.state
    caps, layout = state.caps, state.layout
    judgement = Judgement(len(caps))
    reached = np.zeros(len(caps), np.bool_)
    slots = np.array([container.slots for container in state.containers], np.int64)
    address = np.array([container.address for container in state.containers], np.uint64)
    kind = np.array([int(container.kind) for container in state.containers], np.int64)
    rows = caps.of("cnode_cap")
    cnodes = set(
        zip(
            caps.base[rows].tolist(), (1 << (caps.bits[rows].astype(np.int64) - layout.slot_bits)).tolist(), strict=True
        )
    )
    threads = set(caps.base[caps.of("thread_cap")].tolist())
    zombies = {
        int(caps.base[row]): int(number)
        for row, number in zip(
            caps.of("zombie_cap").tolist(), caps.zombie_number(caps.of("zombie_cap")).tolist(), strict=True
        )
    }
    # How many slots of each container are reached: all of them, those that a zombie has left, or none.
    count = np.array(
        [
            c.slots
            if (c.address, c.slots) in cnodes or (c.kind == ContainerKind.THREAD and c.address in threads)
            else zombies.get(c.address, 0)
            for c in state.containers
        ],
        np.int64,
    )
    if len(caps):
        reached = caps.index < count[caps.container]
        in_irq_node = kind[caps.container] == int(ContainerKind.IRQ_NODE)
        lines = np.sort(caps.field("irq_handler_cap", "capIRQ"))
        reached |= in_irq_node & contains(lines, caps.index.astype(np.uint64))
        reached |= caps.type == layout.cap_types["null_cap"]
    for row in np.flatnonzero(~reached).tolist()[:MAXIMUM_VIOLATIONS]:
        owner = int(caps.container[row])
        held = f"{ContainerKind(kind[owner]).name} at {int(address[owner]):#x}"
        judgement.fail_cap(
            caps,
            row,
            "capability to its slot",
            "none",
            f"one that names the {held}",
            slot_number=int(caps.index[row]),
            slots=int(slots[owner]),
        )
    return judgement


@invariant("zombies_final", family=FAMILY, reference="l4v Invariants_AI: zombies_final")
def zombies_final(context: Context) -> Judgement:
    """A zombie is the only capability to its object."""
    state = context.state
    caps = state.caps
    rows = caps.of("zombie_cap")
    others = np.concatenate([caps.of(name) for name in ("cnode_cap", "thread_cap", "zombie_cap")])
    # Every place where there could be a zombie is one that was judged.
    judgement = Judgement(len(others))
    for row in rows.tolist()[:MAXIMUM_VIOLATIONS]:
        same = others[(caps.base[others] == caps.base[row]) & (others != row)]
        if len(same):
            named = caps.describe(int(same[0]))
            judgement.fail_cap(
                caps,
                row,
                "other capabilities to its object",
                f"the {named['cap']} at {named['slot']}",
                "none",
                other=named,
            )
    return judgement
