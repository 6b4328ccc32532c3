# SPDX-License-Identifier: BSD-2-Clause
"""Who runs next.

The rules, of the manual where it states them and otherwise of seL4 5.0.0: the first thread of the highest priority of
the current domain runs. Who becomes ready goes before the others of its priority; who has used up its time, or yields,
behind them. Who is given a message while it waits for it, or an answer, runs at once if its priority is not below that
of the current thread; whoever else is let go, only if its priority is above.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from harness.specification.answers import NotCoveredError
from harness.specification.steps.scene import ON_SEND, QUEUED, RESTART, RUNNING, Scene, Thread

NEXT, REPEATED = 32, 34
"""Registers: address of the next instruction, and of the one that a thread in state Restart repeats."""


class Choice(Enum):
    """What the scheduler is to do when the call is over, unless it is to switch to one thread."""

    GO_ON = auto()
    CHOOSE = auto()


@dataclass
class Scheduler:
    """Changes a scene as the scheduler does. `time_slice`: ticks of the timer that a thread has."""

    scene: Scene
    time_slice: int
    next: int | Choice = Choice.GO_ON

    def thread(self, tcb: int) -> Thread:
        """A thread; NotCoveredError if nobody knows it."""
        if tcb not in self.scene.threads:
            raise NotCoveredError("a thread that no capability names")
        return self.scene.threads[tcb]

    def _is_ready(self, tcb: int) -> bool:
        return any(tcb in queue for queue in self.scene.ready.values())

    def _queue(self, tcb: int) -> list[int]:
        thread = self.thread(tcb)
        return self.scene.ready.setdefault((thread.domain, thread.priority), [])

    def make_ready(self, tcb: int) -> None:
        """Before the others of its priority, unless it is ready."""
        if not self._is_ready(tcb):
            self._queue(tcb).insert(0, tcb)

    def give_way(self, tcb: int) -> None:
        """Behind the others of its priority, unless it is ready."""
        if not self._is_ready(tcb):
            self._queue(tcb).append(tcb)

    def unready(self, tcb: int) -> None:
        """Out of the ready queues."""
        for key, queue in list(self.scene.ready.items()):
            if tcb in queue:
                queue.remove(tcb)
            if not queue:
                del self.scene.ready[key]

    def choose_again(self) -> None:
        """Whoever was to run next has to be the first of its priority like everybody."""
        if isinstance(self.next, int):
            self.make_ready(self.next)
        self.next = Choice.CHOOSE

    def let_go(self, tcb: int, *, at_once: bool) -> None:
        """A thread can run: now, if it may before the current one; `at_once`: it may with equal priority."""
        scene, thread = self.scene, self.thread(tcb)
        current = self.thread(scene.current).priority
        if thread.domain != scene.domain:
            return self.make_ready(tcb)
        before = self.next
        if before is Choice.GO_ON and (thread.priority > current or (at_once and thread.priority == current)):
            self.next = tcb
        else:
            self.make_ready(tcb)
        if isinstance(before, int):
            self.choose_again()
        return None

    def finish(self) -> None:
        """The call is over: who runs."""
        scene = self.scene
        if self.next is Choice.GO_ON:
            return
        if self.thread(scene.current).runnable:
            self.make_ready(scene.current)
        if isinstance(self.next, int):
            scene.current = self.next
        else:
            ready = [priority for domain, priority in scene.ready if domain == scene.domain]
            scene.current = scene.ready[scene.domain, max(ready)][0] if ready else scene.idle
        self.unready(scene.current)
        self.next = Choice.GO_ON
        thread = self.thread(scene.current)
        if thread.state == RESTART:
            thread.registers[NEXT] = thread.registers[REPEATED]
            thread.state = RUNNING

    def tick(self) -> None:
        """A tick of the timer."""
        scene, current = self.scene, self.thread(self.scene.current)
        if current.state == RUNNING:
            current.slice -= 1
            if not current.slice:
                current.slice = self.time_slice
                self.give_way(scene.current)
                self.choose_again()
        scene.domain_time -= 1
        if not scene.domain_time:
            raise NotCoveredError("the time of a domain is over")

    def become(self, tcb: int, state: str) -> None:
        """Another state; whoever ran and cannot any more makes room."""
        thread = self.thread(tcb)
        thread.state = state
        if state not in QUEUED:
            thread.object = 0
        if state != ON_SEND:
            thread.badge = thread.may_grant = thread.is_call = 0
        if tcb == self.scene.current and self.next is Choice.GO_ON and not thread.runnable:
            self.choose_again()

    def prioritise(self, tcb: int, *, priority: int | None = None, domain: int | None = None) -> None:
        """Another priority or domain: a thread that can run is the first there."""
        thread = self.thread(tcb)
        self.unready(tcb)
        thread.priority = thread.priority if priority is None else priority
        thread.domain = thread.domain if domain is None else domain
        if thread.runnable:
            self.make_ready(tcb)
        if tcb == self.scene.current:
            self.choose_again()
