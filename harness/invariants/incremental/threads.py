# SPDX-License-Identifier: BSD-2-Clause
"""Threads, the queues they stand in, and interrupts, around what changed.

Looked at are the threads whose words, slots or capabilities changed, the objects and ready queues that these stand in
or stood in, and whoever stood in those; this is repeated until nothing is added. A thread that is added and is as in
the snapshot must still stand where it stood. What is left over, and whatever it names, is as it was in the snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.invariants.incremental import snapshot as roles
from harness.invariants.incremental.decoding import NONE, Unclear, pointer, reader
from harness.invariants.incremental.delta import Delta
from harness.invariants.incremental.snapshot import WORD, SnapshotIndex
from harness.invariants.objects import IPC_BUFFER_BYTES, time_slice
from harness.invariants.threads import IDLE_PRIORITY
from harness.invariants.vspace import FPU_PATH
from harness.kernel_state.layout import Layout

_ENDPOINT, _NOTIFICATION = "endpoint_cap", "notification_cap"


@dataclass(frozen=True)
class Before:
    """A thread of the snapshot: its words, the objects that it waits for or is bound to, its ready queue."""

    words: list[int]
    places: list[int]
    queue: tuple[int, int] | None


class ThreadFields:
    """Where a kernel keeps what is looked at, taken from its layout once."""

    def __init__(self, index: SnapshotIndex) -> None:
        self.index = index
        layout, state = index.layout, index.state
        self.layout: Layout = layout
        members = layout.struct("tcb").members
        first = members["tcbState"].offset
        self.first = first // WORD
        names = (
            "tcbBoundNotification tcbFault tcbDomain tcbMCP tcbPriority tcbIPCBuffer tcbTimeSlice "
            "tcbSchedNext tcbSchedPrev tcbEPNext tcbEPPrev"
        ).split()
        at = {name: (members[name].offset - first) // WORD for name in names}
        self.count = max(*at.values(), 2) + 2
        self.bound, self.fault, self.domain, self.mcp, self.priority, self.buffer = (at[name] for name in names[:6])
        self.slice, self.time_slice = at["tcbTimeSlice"], time_slice(state.config)
        self.sched = (at["tcbSchedNext"], at["tcbSchedPrev"])
        self.waiting = (at["tcbEPNext"], at["tcbEPPrev"])
        block = layout.block("thread_state")
        self.type, self.queued = reader(block["tsType"]), reader(block["tcbQueued"])
        self.blocking = pointer(layout, block["blockingObject"])
        constant = layout.constant
        states = [(name, value) for name, value in layout.types.constants.items() if name.startswith("ThreadState_")]
        self.states = frozenset(value for _, value in states)
        self.runnable = frozenset(constant(f"ThreadState_{name}") for name in ("Running", "Restart"))
        self.inactive, self.idle = constant("ThreadState_Inactive"), constant("ThreadState_IdleThreadState")
        self.reply = constant("ThreadState_BlockedOnReply")
        self.receive = constant("ThreadState_BlockedOnReceive")
        self.blocked = {
            constant("ThreadState_BlockedOnSend"): _ENDPOINT,
            self.receive: _ENDPOINT,
            constant("ThreadState_BlockedOnNotification"): _NOTIFICATION,
        }
        faults = layout.union("seL4_Fault")
        self.fault_kind, self.faults = reader(faults.tag), frozenset(faults.blocks)
        self.queue_states = {
            _ENDPOINT: {
                constant("EPState_Idle"): None,
                constant("EPState_Send"): constant("ThreadState_BlockedOnSend"),
                constant("EPState_Recv"): self.receive,
            },
            _NOTIFICATION: {
                constant("NtfnState_Idle"): None,
                constant("NtfnState_Active"): None,
                constant("NtfnState_Waiting"): constant("ThreadState_BlockedOnNotification"),
            },
        }
        endpoint, notification = layout.block("endpoint"), layout.block("notification")
        self.sizes = {_ENDPOINT: endpoint.words, _NOTIFICATION: notification.words}
        self.ipc_state = {_ENDPOINT: reader(endpoint["state"]), _NOTIFICATION: reader(notification["state"])}
        self.ends = {
            _ENDPOINT: [pointer(layout, endpoint[f"epQueue_{end}"]) for end in ("head", "tail")],
            _NOTIFICATION: [pointer(layout, notification[f"ntfnQueue_{end}"]) for end in ("head", "tail")],
        }
        self.bound_tcb = pointer(layout, notification["ntfnBoundTCB"])
        self.slots = {name: constant(name) for name in ("tcbVTable", "tcbReply", "tcbCaller")}
        shape = state.ready_queues.head.shape
        self.domains, self.priorities = shape[0], shape[1]

        def word(name: str) -> int:
            return index.word_of(state.global_address(name))

        self.queues = word("ksReadyQueues")
        self.level1, self.level2 = word("ksReadyQueuesL1Bitmap"), word("ksReadyQueuesL2Bitmap")
        self.level2_words = state.ready_queues.l2.shape[1]
        self.action, self.domain_index = word("ksSchedulerAction"), word("ksDomScheduleIdx")
        self.current_domain, self.domain_time = word("ksCurDomain"), word("ksDomainTime")
        self.schedule = state.global_words("ksDomSchedule").reshape(-1, 2).tolist()
        self.fpu = word("ksActiveFPUState") if "ksActiveFPUState" in layout.types.variables else NONE
        self.fpu_offset = (
            sum(layout.struct(name)[member].offset for name, member in FPU_PATH) if self.fpu != NONE else 0
        )
        self.lines, self.signal = word("intStateIRQTable"), constant("IRQSignal")
        self.line_states = frozenset(constant(name) for name in ("IRQInactive", "IRQSignal", "IRQTimer", "IRQReserved"))
        node = index.container_at.get(state.pointer("intStateIRQNode"))
        self.line_slots = index.firsts[node] if node is not None else NONE
        # Who stands where in the snapshot.
        before = Threads(self, None)
        self.in_queue: dict[tuple[int, int], list[int]] = {}
        self.waiters: dict[int, list[int]] = {}
        self.before: dict[int, Before] = {}
        for tcb in index.tcbs:
            words = before.read(tcb)
            queue = (words[self.domain], words[self.priority]) if self.queued(words) else None
            self.before[tcb] = Before(words, before.places(words), queue)
            if queue is not None:
                self.in_queue.setdefault(queue, []).append(tcb)
            for place in self.before[tcb].places:
                self.waiters.setdefault(place, []).append(tcb)
        self.thread_slots = {
            first + slot: tcb
            for tcb in index.tcbs
            for first in [(tcb - layout.tcb_offset - index.base) >> layout.slot_bits]
            for slot in range(layout.tcb_slots)
        }
        """The thread that each slot of one belongs to, by its tcb_t."""


class Threads:
    """The threads of one state; without a Delta those of the snapshot, to be read only."""

    def __init__(self, fields: ThreadFields, delta: Delta | None) -> None:
        self._fields = fields
        self._index = fields.index
        self._delta = delta
        self._words = delta.ram.words if delta is not None else fields.index.words
        self._queues: dict[tuple[int, int], frozenset[int]] = {}
        self._objects: dict[int, frozenset[int]] = {}
        self._read: dict[int, list[int]] = {}
        self._different: set[int] = set()
        """Threads to which a capability changed, or in whose slots one did, or that became or were current."""
        self._same: list[int] = []
        """Threads that are as in the snapshot, where something changed for another one."""
        self._todo: list[int] = []
        self._seen: set[int] = set()

    def read(self, tcb: int) -> list[int]:
        """The words of a tcb_t from its state on."""
        words = self._read.get(tcb)
        if words is None:
            first = self._index.word_of(tcb) + self._fields.first
            words = self._read[tcb] = self._words[first : first + self._fields.count].tolist()
        return words

    def places(self, words: list[int]) -> list[int]:
        """Objects that a thread waits for or is bound to."""
        fields, physical = self._fields, self._fields.layout.physical
        found = []
        if fields.type(words) in fields.blocked:
            found.append(fields.blocking(words))
        if words[fields.bound]:
            found.append(physical(words[fields.bound]))
        return found

    # What is looked at

    def judge(self) -> None:
        """All that concerns threads and interrupts."""
        delta, index = self._delta, self._index
        assert delta is not None
        self._begin(delta)
        objects = {word >> 1 << 1 for word in delta.words.get(roles.ENDPOINT, ())}
        objects |= {word >> 2 << 2 for word in delta.words.get(roles.NOTIFICATION, ())}
        for word in objects:
            self._object(index.base + word * WORD)
        types = index.layout.cap_types
        lines = {word - self._fields.lines for word in delta.words.get(roles.LINE, ())}
        for key in delta.members:
            type_, place = key & 31, key >> 5
            if type_ in (types[_ENDPOINT], types[_NOTIFICATION]):
                self._object(place)
            elif type_ == types["irq_handler_cap"]:
                lines.add(place)
        pairs = set()
        for word in delta.words.get(roles.QUEUE, ()):
            pairs.add((word - self._fields.queues) >> 1)
        for pair in pairs:
            self._queue(divmod(pair, self._fields.priorities))
        while self._todo:
            self._thread(self._todo.pop())
        for tcb in self._same:
            self._still_stands(tcb)
        if roles.QUEUE in delta.words or roles.BITMAP in delta.words:
            self._bitmaps()
        self._scheduler(delta)
        self._interrupts(delta, lines)

    def _begin(self, delta: Delta) -> None:
        """Threads whose own words, slots or capabilities changed, and the current ones."""
        index, layout = self._index, self._index.layout
        offset = layout.tcb_offset
        size = (1 << layout.tcb_bits) // WORD
        for word in delta.words.get(roles.THREAD, ()):
            self._add(index.base + word // size * size * WORD + offset)
        types = layout.cap_types
        for key in delta.members:
            if key & 31 == types["thread_cap"]:
                self._different.add((key >> 5) + offset)
            elif key & 31 == types["reply_cap"]:
                self._different.add(key >> 5)
        thread_slots = self._fields.thread_slots
        for slot in delta.slots:
            if (tcb := thread_slots.get(slot)) is not None:
                self._different.add(tcb)
                if tcb == index.idle and delta.cap(slot) is not index.decoder.null:
                    raise Unclear("a capability in a slot of the idle thread")
        for address, new in delta.new.items():
            if new.slots == layout.tcb_slots:
                self._different.add(address + offset)
        for tcb in self._different:
            self._add(tcb)
        if delta.current != index.current:
            for tcb in (index.current, delta.current):
                self._different.add(tcb)
                self._add(tcb)

    def _add(self, tcb: int) -> None:
        if tcb not in self._seen:
            self._seen.add(tcb)
            self._todo.append(tcb)

    def _is_thread(self, tcb: int) -> bool:
        assert self._delta is not None
        return self._delta.is_thread(tcb)

    # One thread

    def _thread(self, tcb: int) -> None:
        fields, delta = self._fields, self._delta
        assert delta is not None
        before = fields.before.get(tcb)
        unchanged = before is not None and tcb not in self._different and self.read(tcb) == before.words
        if unchanged and delta.is_thread(tcb):
            self._same.append(tcb)
            return
        if before is not None:
            # Where it stood must know whether it still does.
            for place in before.places:
                self._object(place)
            if before.queue is not None:
                self._queue(before.queue)
        current = delta.current
        if not delta.is_thread(tcb):
            if tcb in (current, self._index.idle):
                raise Unclear("the current or the idle thread is gone")
            return
        words = self.read(tcb)
        type_, queued = fields.type(words), fields.queued(words)
        domain, priority = words[fields.domain], words[fields.priority]
        self._fields_of(words, type_)
        if (type_ == fields.idle) != (tcb == self._index.idle):
            raise Unclear("a thread in the state of the idle one, or reversed")
        runs = type_ in fields.runnable
        if queued and not (runs and tcb in self._queue((domain, priority))):
            raise Unclear("a thread that is marked as queued and is not")
        if runs and not queued and tcb != current:
            raise Unclear("a thread that can run and is in no queue")
        if type_ in fields.blocked:
            place = fields.blocking(words)
            if tcb not in self._object(place) or not self._is_named(fields.blocked[type_], place):
                raise Unclear("a thread that waits and is in no queue")
        bound = words[fields.bound]
        if bound:
            place = fields.layout.physical(bound)
            if not self._is_named(_NOTIFICATION, place) or self._bound(place) != tcb or tcb == self._index.idle:
                raise Unclear("a thread that is bound to what is not bound to it")
        self._thread_caps(tcb, type_, bool(bound))

    def _still_stands(self, tcb: int) -> None:
        """A thread that is as it was stands where it stood, as far as that was looked at."""
        fields, before = self._fields, self._fields.before[tcb]
        if before.queue is not None and tcb not in self._queues.get(before.queue, (tcb,)):
            raise Unclear("a thread that is marked as queued and is not")
        for place in before.places:
            if (waiting := self._objects.get(place)) is None:
                continue
            bound = self._physical(before.words[fields.bound]) == place
            if bound and not (self._is_named(_NOTIFICATION, place) and self._bound(place) == tcb):
                raise Unclear("a thread that is bound to what is not bound to it")
            name = fields.blocked.get(fields.type(before.words)) if fields.blocking(before.words) == place else None
            if name is not None and not (tcb in waiting and self._is_named(name, place)):
                raise Unclear("a thread that waits and is in no queue")

    def _fields_of(self, words: list[int], type_: int) -> None:
        fields = self._fields
        if (
            type_ not in fields.states
            or words[fields.priority] >= fields.priorities
            or words[fields.mcp] >= fields.priorities
            or words[fields.domain] >= fields.domains
            or fields.fault_kind(words[fields.fault :]) not in fields.faults
            or words[fields.buffer] % IPC_BUFFER_BYTES
            or (not 0 < words[fields.slice] <= fields.time_slice and type_ != fields.idle)
        ):
            raise Unclear("a thread with odd fields")

    def _is_named(self, name: str, address: int) -> bool:
        assert self._delta is not None
        return bool(self._delta.holders(self._index.decoder.key(name, address)))

    def _thread_caps(self, tcb: int, type_: int, bound: bool) -> None:
        """Capabilities to a thread, and in its slots."""
        fields, delta, index = self._fields, self._delta, self._index
        assert delta is not None
        decoder, layout = index.decoder, index.layout
        address = tcb - layout.tcb_offset
        halted = type_ in (fields.inactive, fields.idle)
        if (not halted or bound) and not delta.holders(decoder.key("thread_cap", address)):
            raise Unclear("a thread that is live and has no capability")
        first = (address - index.base) >> layout.slot_bits
        vspace = delta.cap(first + fields.slots["tcbVTable"])
        if vspace.name not in ("page_global_directory_cap", decoder.null.name):
            raise Unclear("an odd capability as address space")
        caller = delta.cap(first + fields.slots["tcbCaller"])
        if caller is not decoder.null and (caller.name != "reply_cap" or type_ == fields.receive):
            raise Unclear("an odd capability to reply to")
        home = first + fields.slots["tcbReply"]
        master = delta.cap(home)
        if master is decoder.null:
            if not halted:
                raise Unclear("a thread without a master reply capability")
        else:
            changed = delta.slots.get(home)
            key = decoder.key("reply_cap", tcb)
            if not master.master or master.key != key:
                raise Unclear("an odd capability in place of the master reply capability")
            if changed is not None and not (decoder.revocable(changed.node) and decoder.first_badged(changed.node)):
                raise Unclear("a master reply capability with odd flags")
        replies = delta.holders(decoder.key("reply_cap", tcb))
        others = [slot for slot in replies if slot != home]
        if others and (
            len(others) > 1 or type_ != fields.reply or delta.cap(others[0]).master or delta.links(others[0])[0] != home
        ):
            raise Unclear("an odd reply capability")

    # Queues

    def _queue(self, place: tuple[int, int]) -> frozenset[int]:
        """The threads of a ready queue."""
        found = self._queues.get(place)
        if found is None:
            fields = self._fields
            for tcb in fields.in_queue.get(place, ()):
                self._add(tcb)
            domain, priority = place
            at = fields.queues + 2 * (domain * fields.priorities + priority)
            head, end = (self._physical(word) for word in self._words[at : at + 2].tolist())
            members = self._walk(head, end, fields.sched)
            for tcb in members:
                words = self.read(tcb)
                if (
                    (words[fields.domain], words[fields.priority]) != place
                    or not fields.queued(words)
                    or fields.type(words) not in fields.runnable
                ):
                    raise Unclear("a thread in the wrong ready queue")
            found = self._queues[place] = frozenset(members)
        return found

    def _physical(self, pointer: int) -> int:
        return self._fields.layout.physical(pointer) if pointer else 0

    def _walk(self, head: int, end: int, links: tuple[int, int]) -> list[int]:
        """The threads of a doubly linked list."""
        following, before = links
        members: list[int] = []
        seen: set[int] = set()
        at, previous = head, 0
        while at:
            if at in seen or not self._is_thread(at):
                raise Unclear("a queue with what is no thread")
            words = self.read(at)
            if self._physical(words[before]) != previous:
                raise Unclear("a queue with a link that is not answered")
            seen.add(at)
            members.append(at)
            previous, at = at, self._physical(words[following])
        if end != previous:
            raise Unclear("a queue that ends elsewhere")
        return members

    def _bound(self, address: int) -> int:
        """The tcb_t that the notification at a physical address is bound to."""
        first = self._index.word_of(address)
        return self._fields.bound_tcb(self._words[first : first + self._fields.sizes[_NOTIFICATION]].tolist())

    def _object(self, address: int) -> frozenset[int]:
        """The threads that wait for an endpoint or notification; nobody where there is none."""
        found = self._objects.get(address)
        if found is None:
            # Whoever waited for it has to know whether it is still there.
            for tcb in self._fields.waiters.get(address, ()):
                self._add(tcb)
            named = [name for name in (_ENDPOINT, _NOTIFICATION) if self._is_named(name, address)]
            found = self._objects[address] = self._ipc(named[0], address) if named else frozenset()
        return found

    def _ipc(self, name: str, address: int) -> frozenset[int]:
        fields = self._fields
        first = self._index.word_of(address)
        words = self._words[first : first + fields.sizes[name]].tolist()
        head, tail = (end(words) for end in fields.ends[name])
        states = fields.queue_states[name]
        state = fields.ipc_state[name](words)
        if state not in states or (states[state] is not None) != bool(head) or bool(head) != bool(tail):
            raise Unclear("an endpoint or notification with odd fields")
        members = self._walk(head, tail, fields.waiting)
        for tcb in members:
            other = self.read(tcb)
            if fields.type(other) != states[state] or fields.blocking(other) != address:
                raise Unclear("a thread in the queue of what it does not wait for")
        if name == _NOTIFICATION and (bound := fields.bound_tcb(words)):
            if not self._is_thread(bound) or self._physical(self.read(bound)[fields.bound]) != address:
                raise Unclear("a notification that is bound to what is not bound to it")
            if members and members != [bound]:
                raise Unclear("a notification that is bound and waited for")
        return frozenset(members)

    def _bitmaps(self) -> None:
        """A bit for each queue with a thread, and one for each word of these bits."""
        fields, words = self._fields, self._words
        count = fields.domains * fields.priorities
        heads = words[fields.queues : fields.queues + 2 * count : 2].reshape(fields.domains, -1)
        size = fields.domains * fields.level2_words
        level2 = words[fields.level2 : fields.level2 + size].reshape(fields.domains, -1)
        used = np.packbits(heads != 0, axis=1, bitorder="little")
        expected = np.zeros((fields.domains, fields.level2_words * WORD), np.uint8)
        expected[:, : used.shape[1]] = used
        if not np.array_equal(expected.view(np.uint64), level2):
            raise Unclear("bitmaps of the ready queues that do not agree with them")
        level1 = words[fields.level1 : fields.level1 + fields.domains].tolist()
        if level1 != [sum(1 << at for at, word in enumerate(row) if word) for row in level2.tolist()]:
            raise Unclear("bitmaps of the ready queues that do not agree with each other")

    # The scheduler, interrupts

    def _scheduler(self, delta: Delta) -> None:
        """cur_tcb, and the owner of the FPU."""
        fields, words, index = self._fields, self._words, self._index
        current = delta.current
        if int(words[fields.action]):
            raise Unclear("a scheduler that has something left to do")
        at, domain = int(words[fields.domain_index]), int(words[fields.current_domain])
        if at >= len(fields.schedule) or fields.schedule[at][0] != domain:
            raise Unclear("an odd current domain")
        if not 0 < int(words[fields.domain_time]) <= fields.schedule[at][1]:
            raise Unclear("an odd time of the domain")
        own = self.read(current) if delta.is_thread(current) else None
        if own is None or fields.queued(own):
            raise Unclear("a current thread that waits for the processor")
        if current != index.idle and (fields.type(own) not in fields.runnable or own[fields.domain] != domain):
            raise Unclear("a current thread that cannot run")
        if current == index.idle:
            first = fields.queues + 2 * (domain * fields.priorities + IDLE_PRIORITY + 1)
            if words[first : fields.queues + 2 * (domain + 1) * fields.priorities].any():
                raise Unclear("an idle processor that threads wait for")
        owner = self._physical(int(words[fields.fpu])) if fields.fpu != NONE else 0
        if owner and not delta.is_thread(owner - fields.fpu_offset):
            raise Unclear("the FPU belongs to what is no thread")

    def _interrupts(self, delta: Delta, lines: set[int]) -> None:
        """valid_irq_node, valid_irq_handlers."""
        fields, index = self._fields, self._index
        decoder = index.decoder
        count = decoder.lines
        lines |= {slot - fields.line_slots for slot in delta.slots if 0 <= slot - fields.line_slots < count}
        for line in lines:
            state = int(self._words[fields.lines + line]) if 0 <= line < count else NONE
            if state not in fields.line_states:
                raise Unclear("an interrupt in an odd state")
            cap = delta.cap(fields.line_slots + line)
            if cap is not decoder.null and (cap.name != _NOTIFICATION or state != fields.signal):
                raise Unclear("an odd capability in the IRQ node")
            if (state == fields.signal) != bool(delta.holders(decoder.key("irq_handler_cap", line))):
                raise Unclear("an interrupt with capabilities to handle it and without being handed out, or reversed")
