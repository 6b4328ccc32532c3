# SPDX-License-Identifier: BSD-2-Clause
"""Threads by state, what they wait for, and the queues that they stand in."""

from __future__ import annotations

from harness.kernel_state.state import KernelState
from harness.kernel_state.threads import IpcObjects, Queue, walk_queue
from harness.view.names import Names
from harness.view.nodes import Grower, Node, count_text

_WAITING = ("BlockedOnSend", "BlockedOnReceive", "BlockedOnNotification")
_MAXIMUM_NAMES = 32


class _View:
    def __init__(self, state: KernelState, names: Names) -> None:
        self._state, self._names = state, names
        self.root = Node("")
        self._grower = Grower(self.root)
        threads = state.threads
        self._links = {
            prefix: (threads.pointer(f"{prefix}Next").tolist(), threads.pointer(f"{prefix}Prev").tolist())
            for prefix in ("tcbSched", "tcbEP")
        }

    def _queue(self, head: int, tail: int, prefix: str) -> str:
        queue: Queue = walk_queue(self._state.threads, head, tail, self._links[prefix], prefix)
        shown = [self._names.thread(self._state, row) for row in queue.rows[:_MAXIMUM_NAMES]]
        text = ", ".join(shown) + (" ..." if len(queue.rows) > _MAXIMUM_NAMES else "")
        return text + (" BROKEN LINKS" if queue.problems else "")

    def _threads(self) -> str:
        state, threads, names = self._state, self._state.threads, self._names
        current = threads.row_of.get(state.layout.physical(state.global_word("ksCurThread")))
        by_state: dict[str, list[int]] = {}
        for row in range(len(threads)):
            by_state.setdefault(threads.state_name(row), []).append(row)
        priority = threads.member("tcbPriority").tolist()
        domain = threads.member("tcbDomain").tolist()
        queued = threads.state("tcbQueued").tolist()
        objects = threads.state("blockingObject").tolist()
        badges = threads.state("blockingIPCBadge").tolist()
        for name, rows in by_state.items():
            node = self._grower.add(self.root, f"{name}: {count_text(len(rows), 'thread')}")
            for row in sorted(rows, key=lambda row: (-priority[row], row)):
                if self._grower.full:
                    break
                known = names.object(int(threads.address[row]))
                parts = [f"{names.thread(state, row)}: priority {priority[row]}"]
                parts += [f"tcb {int(threads.tcb[row]):#x}"] if known else []
                parts += [f"domain {domain[row]}"] if domain[row] else []
                parts += ["current"] if row == current else []
                parts += ["queued"] if queued[row] else []
                if name in _WAITING:
                    address = state.layout.physical(objects[row])
                    parts.append(f"at {names.object(address) or hex(address)}")
                    parts += [f"badge {badges[row]:#x}"] if badges[row] and name == "BlockedOnSend" else []
                self._grower.add(node, ", ".join(parts), "bold" if row == current else "")
        return ", ".join(f"{len(rows)} {name}" for name, rows in by_state.items())

    def _objects(self, title: str, objects: IpcObjects) -> None:
        idle = []
        node = self._grower.add(self.root, f"{title}s: {len(objects)}")
        words = objects.field("ntfnMsgIdentifier").tolist() if title == "notification" else []
        bound = objects.bound.tolist() if title == "notification" else []
        for row in range(len(objects)):
            if self._grower.full:
                return
            address, state = int(objects.address[row]), objects.state_name(row).rpartition("_")[2]
            name = self._names.object(address) or hex(address)
            head, tail = int(objects.head[row]), int(objects.tail[row])
            tcb = self._state.threads.row_of.get(bound[row]) if bound else None
            if state == "Idle" and not head and not tail and tcb is None:
                idle.append(name)
                continue
            text = f"{name}: {state}"
            text += f" {words[row]:#x}" if state == "Active" else ""
            text += f": {self._queue(head, tail, 'tcbEP')}" if head or tail else ""
            text += f", bound to {self._names.thread(self._state, tcb)}" if tcb is not None else ""
            self._grower.add(node, text)
        if idle:
            self._grower.add(
                node, "idle: " + ", ".join(idle[:_MAXIMUM_NAMES]) + (" ..." if len(idle) > _MAXIMUM_NAMES else "")
            )

    def run(self) -> Node:
        state = self._state
        states = self._threads()
        self.root.text = f"threads: {len(state.threads)} ({states})"
        queues = state.ready_queues
        node = self._grower.add(self.root, f"ready queues: {len(queues.used)} in use")
        for domain, priority in queues.used:
            if self._grower.full:
                break
            text = self._queue(int(queues.head[domain, priority]), int(queues.end[domain, priority]), "tcbSched")
            self._grower.add(node, f"domain {domain} priority {priority}: {text}")
        self._objects("endpoint", state.endpoints)
        self._objects("notification", state.notifications)
        return self.root


def threads(state: KernelState, names: Names) -> Node:
    """All threads, ready queues, endpoints and notifications."""
    return _View(state, names).run()
