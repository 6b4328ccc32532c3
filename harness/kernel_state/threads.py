# SPDX-License-Identifier: BSD-2-Clause
"""Threads, and the queues they stand in: endpoints, notifications, ready queues."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harness.kernel_state.bitfields import Block
from harness.kernel_state.layout import Layout
from harness.kernel_state.memory import Ram, Words

Array = np.ndarray[Any, Any]

_THREAD_STATE = "ThreadState_"
_QUEUE_WORDS = 2
"""Words of a tcb_queue_t: head and end."""


def _gather(ram: Ram, address: Words, words: int) -> Words:
    """`words` words (u64[n, words]) from each physical address in the memory; its end repeats behind it."""
    first = ((address - np.uint64(ram.base)) >> np.uint64(3)).astype(np.int64)
    found: Words = ram.words.take(first[:, None] + np.arange(words), mode="clip")
    return found


@dataclass(frozen=True)
class Threads:
    """Thread objects; one row a thread. `address`: u64[n], physical address of the object (its slots come first)."""

    layout: Layout
    ram: Ram
    address: Words

    def __len__(self) -> int:
        return len(self.address)

    @cached_property
    def tcb(self) -> Words:
        """Physical address of each tcb_t."""
        return self.address + np.uint64(self.layout.tcb_offset)

    @cached_property
    def _first_word(self) -> int:
        """Word of tcb_t at which what is no register begins."""
        return self.layout.struct("tcb")["tcbState"].offset >> 3

    @cached_property
    def _words(self) -> Words:
        """Words of each tcb_t behind its registers."""
        first = self._first_word
        count = (self.layout.struct("tcb").size >> 3) - first
        return _gather(self.ram, self.tcb + np.uint64(8 * first), count)

    def member(self, name: str, word: int = 0) -> Words:
        """A member of tcb_t (u64 for each thread): word `word` of it."""
        index = (self.layout.struct("tcb")[name].offset >> 3) + word
        if index < self._first_word:
            found: Words = _gather(self.ram, self.tcb + np.uint64(8 * index), 1)[:, 0]
            return found
        column: Words = self._words[:, index - self._first_word]
        return column

    def pointer(self, name: str) -> Words:
        """A member of tcb_t that points to something: its physical address, 0 for a null pointer."""
        return physical(self.layout, self.member(name))

    def links(self, names: str) -> tuple[list[int], list[int]]:
        """Physical addresses of next and previous tcb_t of each thread, of `tcbSched` or `tcbEP`; 0 for none."""
        return self.pointer(f"{names}Next").tolist(), self.pointer(f"{names}Prev").tolist()

    def state(self, field: str) -> Words:
        """A field of thread_state_t, such as `tsType`, `tcbQueued` or `blockingObject`."""
        where = self.layout.block("thread_state")[field]
        return where.of_word(self.member("tcbState", where.word))

    @cached_property
    def type(self) -> Words:
        """The tsType of each thread."""
        return self.state("tsType")

    def in_state(self, *names: str) -> Array:
        """Whether each thread is in one of some states, such as `BlockedOnSend`."""
        wanted = [np.uint64(self.layout.constant(_THREAD_STATE + name)) for name in names]
        found: Array = self.type == wanted[0]
        for value in wanted[1:]:
            found = found | (self.type == value)
        return found

    @cached_property
    def runnable(self) -> Array:
        """Whether isRunnable accepts each thread."""
        return self.in_state("Running", "Restart")

    @cached_property
    def row_of(self) -> dict[int, int]:
        """Row of each thread by the physical address of its tcb_t."""
        return {address: row for row, address in enumerate(self.tcb.tolist())}

    def state_name(self, row: int) -> str:
        """Name of a thread's state, such as `BlockedOnSend`."""
        value = int(self.type[row])
        return self.layout.enumerator(_THREAD_STATE, value).removeprefix(_THREAD_STATE)

    def name(self, row: int) -> str:
        """The name that a debug kernel keeps for a thread; empty otherwise."""
        member = self.layout.struct("tcb").members.get("tcbName")
        if member is None:
            return ""
        start = int(self.tcb[row]) + member.offset - self.ram.base
        end = int(self.address[row]) + (1 << self.layout.tcb_bits) - self.ram.base
        text = self.ram.words.view(np.uint8)[start:end].tobytes().split(b"\0")[0]
        return text.decode(errors="replace")

    def describe(self, row: int) -> dict[str, Any]:
        """A thread for people and findings: address of its tcb_t, name, state, what the scheduler knows of it."""
        named = {"name": self.name(row)} if "tcbName" in self.layout.struct("tcb").members else {}
        return {
            "tcb": hex(int(self.tcb[row])),
            **named,
            "tsType": self.state_name(row),
            "blockingObject": hex(int(self.state("blockingObject")[row])),
            "tcbPriority": int(self.member("tcbPriority")[row]),
            "tcbDomain": int(self.member("tcbDomain")[row]),
            "tcbQueued": int(self.state("tcbQueued")[row]),
        }


def physical(layout: Layout, pointer: Words) -> Words:
    """Physical addresses behind kernel pointers; null stays 0."""
    return np.where(pointer == 0, pointer, pointer - np.uint64(layout.offset))


@dataclass(frozen=True)
class IpcObjects:
    """Endpoints, or notifications: one row an object. `address`: u64[n], physical; `words`: u64[n, words of it]."""

    layout: Layout
    block: Block
    address: Words
    words: Words
    head: Words
    tail: Words
    """Physical addresses of the first and last tcb_t of the queue; 0 for none."""

    def __len__(self) -> int:
        return len(self.address)

    def field(self, name: str) -> Words:
        """A field of each object, such as `state`."""
        return self.block[name].get_all(self.words)

    @cached_property
    def state(self) -> Words:
        """The state of each object (EPState or NtfnState)."""
        return self.field("state")

    @cached_property
    def row_of(self) -> dict[int, int]:
        """Row of each object by its physical address."""
        return {address: row for row, address in enumerate(self.address.tolist())}

    @cached_property
    def bound(self) -> Words:
        """Physical address of the tcb_t that each notification is bound to; 0 for none."""
        return physical(self.layout, self.field("ntfnBoundTCB"))

    def state_name(self, row: int) -> str:
        """Name of an object's state, such as `EPState_Send`."""
        prefix = "EPState_" if self.block.name == "endpoint" else "NtfnState_"
        return self.layout.enumerator(prefix, int(self.state[row]))

    def describe(self, row: int) -> dict[str, Any]:
        """An object for people and findings."""
        values = self.block.decode(self.words[row].tolist())
        shown = {name: hex(value) if value > 9 else value for name, value in values.items()}
        return {self.block.name: hex(int(self.address[row])), **shown, "state": self.state_name(row)}


def ipc_objects(layout: Layout, ram: Ram, kind: str, addresses: set[int]) -> IpcObjects:
    """The objects (`endpoint` or `notification`) at those of some physical addresses where one can lie."""
    block = layout.block(kind)
    size = 8 * block.words
    fitting = sorted(a for a in addresses if ram.holds(a, size) and not a & (size - 1))
    address = np.array(fitting, np.uint64)
    words = _gather(ram, address, block.words)
    prefix = "epQueue" if kind == "endpoint" else "ntfnQueue"
    head, tail = (physical(layout, block[f"{prefix}_{end}"].get_all(words)) for end in ("head", "tail"))
    return IpcObjects(layout, block, address, words, head, tail)


@dataclass(frozen=True)
class ReadyQueues:
    """The scheduler's queues, one a domain and priority, and the bitmaps that say which hold a thread.

    `head`, `end`: u64[domains, priorities], physical address of the first and last tcb_t, 0 for none; `l1`:
    u64[domains], ksReadyQueuesL1Bitmap; `l2`: u64[domains, words], ksReadyQueuesL2Bitmap.
    """

    head: Words
    end: Words
    l1: Words
    l2: Words

    @cached_property
    def used(self) -> list[tuple[int, int]]:
        """Domain and priority of each queue whose head or end is not null."""
        return [(int(d), int(p)) for d, p in zip(*np.nonzero(self.head | self.end), strict=True)]


def ready_queues(layout: Layout, queues: Words, l1: Words, l2: Words) -> ReadyQueues:
    """The ready queues from the words of ksReadyQueues and its two bitmaps."""
    table = queues.reshape(len(l1), -1, _QUEUE_WORDS)
    return ReadyQueues(physical(layout, table[..., 0]), physical(layout, table[..., 1]), l1, l2.reshape(len(l1), -1))


@dataclass(frozen=True)
class Queue:
    """A queue of threads as following its links finds it.

    `rows`: the threads in order; `problems`: (tcb row or -1 for the head, field, found, expected) of each link that
    is wrong. The walk ends at the first link that cannot be followed.
    """

    rows: list[int]
    problems: list[tuple[int, str, str, str]]


def walk_queue(threads: Threads, head: int, tail: int, links: tuple[list[int], list[int]], names: str) -> Queue:
    """Follow a queue from its head (physical addresses; 0 is null).

    `links`: next and previous of each thread by row; `names`: what these members begin with (`tcbSched`, `tcbEP`).
    Each thread is visited at most once.
    """
    following, before = links
    row_of = threads.row_of
    rows: list[int] = []
    seen: set[int] = set()
    problems: list[tuple[int, str, str, str]] = []
    last, at, previous = -1, head, 0
    while at:
        row = row_of.get(at)
        field = f"{names}Next" if last >= 0 else "head"
        if row is None:
            problems.append((last, field, hex(at), "a thread or null"))
            return Queue(rows, problems)
        if row in seen:
            problems.append(
                (last, field, hex(at), "null or a thread that is not in the queue yet: the queue is a loop")
            )
            return Queue(rows, problems)
        if before[row] != previous:
            problems.append((row, f"{names}Prev", hex(before[row]), hex(previous)))
        seen.add(row)
        rows.append(row)
        last, previous, at = row, at, following[row]
    if tail != previous:
        problems.append((-1, "tail", hex(tail), hex(previous)))
    return Queue(rows, problems)
