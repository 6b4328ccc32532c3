# SPDX-License-Identifier: BSD-2-Clause
"""The processes of a campaign's workers, and when a lost one is started again."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from fuzz import process
from fuzz.messages import Phase, Programs, Refile, Request, Stop, Trouble, WorkerSettings
from fuzz.stopping import SIGNALS
from fuzz.worker import LEFT_NORMALLY
from harness.errors import InputError

FRUITLESS = 16
"""Times in a row that a worker may end without having got on before the campaign gives up on it: nine minutes."""
FRUITLESS_AT_START = 4
"""The same before any worker has ever run: then the environment is wrong, not unlucky."""
GOT_ON = 64
"""Executions after which a worker counts as one that got on."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds before a worker is started again; doubled each time that it does not get on."""
SILENT_SECONDS = 300.0
"""A worker that says nothing for so long hangs, or was stopped: it is ended."""
BATCH = 64
"""Programs of other workers in one message: what fits into the pipe at once, so that sending never waits."""


class Member:
    """One worker: its process, or the pause before the next one."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.restarts = 0
        self.fruitless = 0
        self.given_up = False
        self.ended = False
        self.fatal: Trouble | None = None
        self.executions = 0
        """Of the present process."""
        self.phase, self.detail = Phase.BOOTING, ""
        self.resume_at = 0.0
        """When it is started again; 0: it runs, or is over."""
        self.pipe: Connection | None = None
        self._process: BaseProcess | None = None
        self._outbox: deque[bytes] = deque()
        self._requests: list[Request] = []
        self._listens = False
        self._heard = 0.0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, remote = context.Pipe()
        self._process = context.Process(
            target=process.main, args=(self.settings, remote), name=f"worker-{self.settings.number}"
        )
        # Until it ignores them itself, no signal reaches the new process: it inherits what is blocked.
        old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        remote.close()
        self.phase, self.detail = Phase.BOOTING, ""
        self.fatal, self.executions, self.resume_at = None, 0, 0.0
        self._heard, self._listens = time.monotonic(), False

    @property
    def number(self) -> int:
        """Its number, from 0."""
        return self.settings.number

    @property
    def running(self) -> bool:
        """Whether it has a process that talks to us."""
        return self.pipe is not None

    @property
    def over(self) -> bool:
        """Whether it will do nothing more."""
        return self.ended or self.given_up

    def heard(self) -> None:
        """It has said something."""
        self._heard = time.monotonic()

    def silent(self) -> bool:
        """Whether it has said nothing for too long."""
        return self.running and time.monotonic() - self._heard > SILENT_SECONDS

    # -- talking to it

    def tell(self, request: Request) -> None:
        """Ask for something, when it listens next."""
        if isinstance(request, Stop):
            self._send(request)  # one byte more always fits
        else:
            self._requests.append(request)

    def offer(self, programs: Iterable[bytes]) -> None:
        """Programs that others have found."""
        self._outbox.extend(programs)

    def listens(self) -> None:
        """It has just reported and looks into its pipe now: send what waits, one message that fits into the pipe."""
        if self._requests:
            self._send(self._requests.pop(0))
        elif self._outbox:
            batch = tuple(self._outbox.popleft() for _ in range(min(BATCH, len(self._outbox))))
            self._send(Programs(batch))

    def _send(self, request: Request) -> None:
        try:
            if self.pipe is not None:
                self.pipe.send(request)
        except OSError:
            return  # it is gone, which its pipe will tell

    # -- its end

    def close(self, seconds: float = 0.0) -> int | None:
        """Wait for the process, end it if it does not end by itself; returns its exit code."""
        if self._process is None:
            return None
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code = self._process.exitcode
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None
        self._process = None
        return code

    def left(self, *, ever_ready: bool, runs_left: int) -> str | None:
        """Its pipe has ended. Returns None if it had done what it should, else why it ended.

        It then is either `given_up`, or starts again at `resume_at`, with `runs_left` executions to make.
        """
        fatal = self.fatal
        code = self.close(5.0)
        if fatal is None and code == LEFT_NORMALLY:
            self.ended, self.phase = True, Phase.ENDED
            return None
        reason = f"{fatal.message}\n{fatal.detail}".strip() if fatal else _exit(code)
        self.fruitless = 0 if self.executions >= GOT_ON else self.fruitless + 1
        hopeless = fatal is not None and fatal.exit_code == InputError.exit_code
        if hopeless or self.fruitless >= (FRUITLESS if ever_ready else FRUITLESS_AT_START):
            self.given_up, self.phase, self.fatal = True, Phase.ENDED, fatal
            return reason
        self.phase, self.detail = Phase.WAITING, reason
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** max(0, self.fruitless - 1))
        self.resume_at = time.monotonic() + pause
        self.restarts += 1
        # Another seed: the same one might lead it to the same end.
        self.settings = replace(self.settings, seed=self.settings.seed + 1000, runs=runs_left)
        return reason

    def resume(self) -> None:
        """Start it again."""
        self._outbox.clear()  # it reads the whole corpus anyway
        self._requests = [request for request in self._requests if isinstance(request, Refile)]
        self._start()

    def kill(self) -> None:
        """End the process; its pipe tells so."""
        if self._process is not None:
            self._process.kill()


def _exit(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"
