# SPDX-License-Identifier: BSD-2-Clause
"""Signals that end a campaign, taken as requests: nothing is interrupted in the middle of a write.

The first one lets workers finish what they do, the second one ends them at once, and only the third
one raises KeyboardInterrupt, should even that be stuck.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopping:
    """Takes the signals while it is entered, in the main thread; elsewhere it only holds the request.

    A signal that is ignored already, as `nohup` arranges it for SIGHUP, stays ignored.
    """

    def __init__(self) -> None:
        self.count = 0
        """Signals that have come."""
        self.number = 0
        """The first of them."""
        self._old: dict[int, object] = {}
        self._read, self._write = -1, -1

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._old[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._old.clear()
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        """A descriptor that can be read once a signal has come, for `select`."""
        return self._read

    def seen(self) -> None:
        """Forget that the descriptor can be read."""
        try:
            while os.read(self._read, 64):
                pass
        except BlockingIOError:
            return

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or number
        self.count += 1
        with contextlib.suppress(OSError):
            os.write(self._write, b"!")
        if self.count > 2:
            raise KeyboardInterrupt
