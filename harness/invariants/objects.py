# SPDX-License-Identifier: BSD-2-Clause
"""Objects in memory: where they lie, and that each is well formed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from harness.build.kernel import kernel_options
from harness.configs import MachineConfig
from harness.invariants.capabilities import judge_capabilities
from harness.invariants.definitions import MAXIMUM_VIOLATIONS, Context, Judgement, invariant
from harness.kernel_state.capabilities import FRAME_BITS, KERNEL_OBJECTS
from harness.kernel_state.layout import LARGE_PAGE_BITS
from harness.kernel_state.memory import contains
from harness.kernel_state.page_tables import translate
from harness.kernel_state.state import ContainerKind, KernelState
from harness.kernel_state.threads import IpcObjects

Array = np.ndarray[Any, Any]

FAMILY = "objects"
MAXIMUM_PLACES = 1 << 14
"""2 MiB blocks of large objects that are looked up in the kernel's window: more than it has, so that only objects that
overlap can be more."""
IPC_BUFFER_BYTES = 512
"""Alignment that checkValidIPCBuffer demands (BIT(9))."""
_LARGEST_BITS = FRAME_BITS[2]


def _usable(context: Context, names: tuple[str, ...]) -> Array:
    """Rows of capabilities of some types whose object can have the size that they say."""
    caps = context.state.caps
    rows = np.concatenate([caps.of(name) for name in names])
    usable: Array = rows[caps.bits[rows] <= _LARGEST_BITS]
    return usable


@invariant("pspace_aligned", family=FAMILY, reference="l4v Invariants_AI: pspace_aligned")
def pspace_aligned(context: Context) -> Judgement:
    """Every object lies at a multiple of its size."""
    state = context.state
    caps = state.caps
    rows = _usable(context, (*KERNEL_OBJECTS, "frame_cap"))
    judgement = Judgement(len(rows))
    bad = rows[caps.base[rows] & (caps.last[rows] - caps.base[rows]) != 0]
    for row in bad.tolist()[:MAXIMUM_VIOLATIONS]:
        base, size = int(caps.base[row]), 1 << int(caps.bits[row])
        judgement.fail_cap(caps, row, "object", hex(base), f"a multiple of its size, {size:#x}")
    threads = caps.of("thread_cap")
    pointers = caps.field("thread_cap", "capTCBPtr", threads) - np.uint64(state.layout.offset)
    wanted = caps.base[threads] + np.uint64(state.layout.tcb_offset)
    for row, found, expected in zip(threads.tolist(), pointers.tolist(), wanted.tolist(), strict=True):
        if found != expected:
            judgement.fail_cap(
                caps, row, "capTCBPtr", hex(found), f"{expected:#x}, where the tcb_t of a thread object lies"
            )
    return judgement


def _objects(context: Context) -> Iterator[tuple[int, int, str, dict[str, Any]]]:
    """First and last address, kind and description of objects that no capability needs to name."""
    state = context.state
    layout = state.layout
    idle = state.pointer("ksIdleThread") & -(1 << layout.tcb_bits)
    yield idle, idle + (1 << layout.tcb_bits) - 1, "idle thread", {"idle_thread": hex(idle)}
    for container in state.containers:
        if container.kind == ContainerKind.IRQ_NODE:
            end = container.address + (container.slots << layout.slot_bits)
            yield container.address, end - 1, "IRQ node", {"intStateIRQNode": hex(container.address)}


@invariant("pspace_distinct", family=FAMILY, reference="l4v Invariants_AI: pspace_distinct")
def pspace_distinct(context: Context) -> Judgement:
    """No two objects share memory."""
    state = context.state
    caps, layout = state.caps, state.layout
    rows = _usable(context, (*KERNEL_OBJECTS, "frame_cap"))
    kinds = caps.type[rows]
    # A zombie stands for what is left of a CNode or thread; that no other capability names it says zombies_final.
    kinds = np.where(kinds == layout.cap_types["zombie_cap"], layout.cap_types["cnode_cap"], kinds)
    threads = (kinds == layout.cap_types["cnode_cap"]) & contains(state.threads.address, caps.base[rows])
    kinds = np.where(
        threads & (caps.type[rows] == layout.cap_types["zombie_cap"]), layout.cap_types["thread_cap"], kinds
    )
    order = np.lexsort((kinds, caps.bits[rows], caps.base[rows]))
    rows, kinds = rows[order], kinds[order]
    base, bits = caps.base[rows], caps.bits[rows]
    new = np.ones(len(rows), np.bool_)
    new[1:] = (base[1:] != base[:-1]) | (bits[1:] != bits[:-1]) | (kinds[1:] != kinds[:-1])
    rows = rows[new]
    judgement = Judgement(len(rows))
    last = np.maximum.accumulate(caps.last[rows])
    for index in np.flatnonzero(caps.base[rows][1:] <= last[:-1]).tolist()[:MAXIMUM_VIOLATIONS]:
        row = int(rows[index + 1])
        # The object that reaches this far.
        other = int(rows[: index + 1][caps.last[rows[: index + 1]] >= caps.base[row]][0])
        found = f"{int(caps.base[row]):#x}..{int(caps.last[row]):#x}"
        named = caps.describe(other)
        judgement.fail_cap(
            caps,
            row,
            "memory of its object",
            found,
            f"apart from that of the {named['cap']} at {named['slot']}, "
            f"{int(caps.base[other]):#x}..{int(caps.last[other]):#x}",
            other=named,
        )
    return judgement


@invariant("pspace_in_kernel_window", family=FAMILY, reference="l4v ArchInvariants_AI: pspace_in_kernel_window")
def pspace_in_kernel_window(context: Context) -> Judgement:
    """The kernel's window maps every object and general-purpose frame, all of it, at its address."""
    state = context.state
    caps, layout = state.caps, state.layout
    rows = _usable(context, (*KERNEL_OBJECTS, "frame_cap"))
    rows = rows[~caps.device[rows]]
    _, first = np.unique(caps.base[rows] | caps.bits[rows], return_index=True)
    rows = rows[first]
    judgement = Judgement(len(rows))
    starts, ends = caps.base[rows], caps.last[rows]
    own = np.arange(len(rows))
    places, owners = [starts, ends], [own, own]
    left = MAXIMUM_PLACES
    for index in np.flatnonzero(caps.bits[rows] > LARGE_PAGE_BITS).tolist():
        left -= 1 << (int(caps.bits[rows[index]]) - LARGE_PAGE_BITS)
        if left < 0:
            break
        between = np.arange(int(starts[index]), int(ends[index]), 1 << LARGE_PAGE_BITS, dtype=np.uint64)
        places.append(between)
        owners.append(np.full(len(between), index))
    address = np.concatenate(places)
    owner = np.concatenate(owners)
    found, mapped = translate(state.ram, state.kernel_root, address + np.uint64(layout.offset))
    wrong = ~mapped | (found != address)
    for index in np.unique(owner[wrong]).tolist()[:MAXIMUM_VIOLATIONS]:
        row, at = int(rows[index]), np.flatnonzero(wrong & (owner == index))[0]
        has = hex(int(found[at])) if mapped[at] else "nothing"
        pointer = hex(layout.virtual(int(address[at])))
        judgement.fail_cap(
            caps, row, f"what the kernel's window maps at {pointer}", has, f"its object, {int(address[at]):#x}"
        )
    return judgement


@invariant("valid_global_refs", family=FAMILY, reference="l4v Invariants_AI: valid_global_refs")
def valid_global_refs(context: Context) -> Judgement:
    """No capability covers the kernel's image (with its global tables), the idle thread or the IRQ node."""
    state = context.state
    caps = state.caps
    rows = np.flatnonzero(caps.physical)
    judgement = Judgement(len(rows))
    first, end = state.layout.image
    places = [(first, end - 1, "kernel's image", {"image": hex(first)}), *_objects(context)]
    for low, high, name, described in places:
        covering = rows[(caps.base[rows] <= np.uint64(high)) & (caps.last[rows] >= np.uint64(low))]
        for row in covering.tolist()[:MAXIMUM_VIOLATIONS]:
            found = f"{int(caps.base[row]):#x}..{int(caps.last[row]):#x}"
            judgement.fail_cap(
                caps, row, "memory of its object", found, f"apart from the {name}, {low:#x}..{high:#x}", **described
            )
    replies = caps.of("reply_cap")
    idle = state.pointer("ksIdleThread")
    pointers = (caps.field("reply_cap", "capTCBPtr", replies) - np.uint64(state.layout.offset)).tolist()
    for row, pointer in zip(replies.tolist(), pointers, strict=True):
        if pointer == idle:
            judgement.fail_cap(caps, row, "capTCBPtr", hex(pointer), "another than the idle thread")
    return judgement


@invariant(
    "valid_objs", family=FAMILY, reference="l4v Invariants_AI: valid_objs, valid_cap, valid_tcb, valid_ep, valid_ntfn"
)
def valid_objs(context: Context) -> Judgement:
    """Every capability, thread, endpoint and notification is well formed."""
    state = context.state
    judgement = Judgement(len(state.caps) + len(state.threads) + len(state.endpoints) + len(state.notifications))
    judge_capabilities(state, judgement)
    _judge_threads(state, judgement)
    _judge_thread_slots(state, judgement)
    constant = state.layout.constant
    _judge_ipc(
        state.endpoints, {constant("EPState_Send"), constant("EPState_Recv")}, {constant("EPState_Idle")}, judgement
    )
    idle = {constant("NtfnState_Idle"), constant("NtfnState_Active")}
    _judge_ipc(state.notifications, {constant("NtfnState_Waiting")}, idle, judgement)
    _judge_bound(state, judgement)
    return judgement


def time_slice(config: MachineConfig) -> int:
    """Timer ticks that a thread has before the next one of its priority has its turn: CONFIG_TIME_SLICE."""
    return int(kernel_options(config, release=False)["TIME_SLICE"])


def _judge_threads(state: KernelState, judgement: Judgement) -> None:
    threads, layout = state.threads, state.layout
    states = [value for name, value in layout.types.constants.items() if name.startswith("ThreadState_")]
    for row in np.flatnonzero(~contains(np.array(sorted(states), np.uint64), threads.type)).tolist():
        judgement.fail_thread(threads, row, "tsType", threads.state_name(row), "a state of a thread")
    priorities, domains = state.ready_queues.head.shape[1], state.ready_queues.head.shape[0]
    for member, limit in (("tcbPriority", priorities), ("tcbMCP", priorities), ("tcbDomain", domains)):
        values = threads.member(member)
        for row in np.flatnonzero(values >= np.uint64(limit)).tolist():
            judgement.fail_thread(threads, row, member, int(values[row]), f"below {limit}")
    slices, limit = threads.member("tcbTimeSlice"), time_slice(state.config)
    idle = threads.tcb == np.uint64(state.pointer("ksIdleThread"))
    for row in np.flatnonzero(((slices == 0) | (slices > np.uint64(limit))) & ~idle).tolist():
        judgement.fail_thread(threads, row, "tcbTimeSlice", int(slices[row]), f"1 to {limit}")
    faults = layout.union("seL4_Fault")
    kinds = faults.tag.of_word(threads.member("tcbFault", faults.tag.word))
    for row in np.flatnonzero(~contains(np.array(sorted(faults.blocks), np.uint64), kinds)).tolist():
        judgement.fail_thread(threads, row, "tcbFault", int(kinds[row]), "a kind of fault")
    buffers = threads.member("tcbIPCBuffer")
    for row in np.flatnonzero(buffers % np.uint64(IPC_BUFFER_BYTES)).tolist():
        judgement.fail_thread(threads, row, "tcbIPCBuffer", hex(int(buffers[row])), f"a multiple of {IPC_BUFFER_BYTES}")


def _judge_thread_slots(state: KernelState, judgement: Judgement) -> None:
    """What a thread's own slots may hold (tcb_cap_cases); its master reply capability is valid_reply_masters'."""
    caps, threads = state.caps, state.threads
    null = state.layout.cap_types["null_cap"]
    for slot, name in (("tcbVTable", "page_global_directory_cap"), ("tcbCaller", "reply_cap")):
        rows = caps.rows_at(state.thread_slot(slot))
        for thread, row in enumerate(rows.tolist()):
            if row >= 0 and int(caps.type[row]) != null and caps.type_name(row) != name:
                judgement.fail_cap(
                    caps, row, slot, caps.type_name(row), f"{name} or null_cap", thread=threads.describe(thread)
                )
        if slot == "tcbCaller":
            waiting = threads.in_state("BlockedOnReceive") & (rows >= 0)
            for thread in np.flatnonzero(waiting).tolist():
                row = int(rows[thread])
                if int(caps.type[row]) != null:
                    judgement.fail_cap(
                        caps,
                        row,
                        slot,
                        caps.type_name(row),
                        "null_cap, as the thread is BlockedOnReceive",
                        thread=threads.describe(thread),
                    )


def _judge_ipc(objects: IpcObjects, with_queue: set[int], without: set[int], judgement: Judgement) -> None:
    for row, (state, head, tail) in enumerate(
        zip(objects.state.tolist(), objects.head.tolist(), objects.tail.tolist(), strict=True)
    ):
        if state in with_queue:
            if not head or not tail:
                judgement.fail_object(objects, row, "queue", "empty", f"a queue, as it is {objects.state_name(row)}")
        elif state in without:
            if head or tail:
                judgement.fail_object(
                    objects, row, "queue", f"{head:#x}..{tail:#x}", f"empty, as it is {objects.state_name(row)}"
                )
        else:
            judgement.fail_object(objects, row, "state", state, f"a state of a {objects.block.name}")


def _judge_bound(state: KernelState, judgement: Judgement) -> None:
    """Nobody else waits for a notification that is bound."""
    objects = state.notifications
    waiting = objects.state == np.uint64(state.layout.constant("NtfnState_Waiting"))
    for row in np.flatnonzero(waiting & (objects.bound != 0)).tolist():
        bound, head, tail = int(objects.bound[row]), int(objects.head[row]), int(objects.tail[row])
        if (head, tail) != (bound, bound):
            judgement.fail_object(
                objects, row, "queue", f"{head:#x}..{tail:#x}", f"the thread that it is bound to, {bound:#x}"
            )
