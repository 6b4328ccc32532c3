# SPDX-License-Identifier: BSD-2-Clause
"""Consoles of the guest, as pexpect knows them: `expect`, `before`, `after`.

One that only prints goes to a file without a name, so that the guest never waits for a reader
and the text of one program is found by its offset. One that is typed into is a socket.
"""

from __future__ import annotations

import codecs
import os
import socket
import time
from typing import TYPE_CHECKING, TypeAlias

from pexpect import EOF, TIMEOUT
from pexpect.fdpexpect import fdspawn
from pexpect.spawnbase import SpawnBase

if TYPE_CHECKING:
    # The library's classes are generic in its type stubs only.
    _Spawn: TypeAlias = SpawnBase[str]
    _DescriptorSpawn: TypeAlias = fdspawn[str]
else:
    _Spawn = SpawnBase
    _DescriptorSpawn = fdspawn

_ERRORS = "backslashreplace"
_POLL_SECONDS = 0.005
KEEP_BYTES = 1 << 20
"""Console text that is kept; trim() drops what is older."""


class PrintedConsole(_Spawn):
    """A console that the guest only prints to."""

    def __init__(self) -> None:
        super().__init__(timeout=10, encoding="utf-8", codec_errors=_ERRORS)
        self.fd = os.memfd_create("console", os.MFD_CLOEXEC)
        self.closed = False
        self._offset = 0
        self._incremental = codecs.getincrementaldecoder("utf-8")(_ERRORS)

    def size(self) -> int:
        """Bytes printed so far (since the last trim)."""
        return os.lseek(self.fd, 0, os.SEEK_END)

    def text(self, start: int = 0) -> str:
        """What was printed from byte offset `start` on."""
        data = os.pread(self.fd, max(self.size() - start, 0), start)
        return data.decode("utf-8", _ERRORS).replace("\r\n", "\n")

    def trim(self) -> None:
        """Forget everything printed so far."""
        os.ftruncate(self.fd, 0)
        self._offset = 0

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> str:
        """Up to `size` bytes of new text; raises pexpect's TIMEOUT or EOF."""
        if timeout == -1:
            timeout = self.timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self.closed:
                raise EOF("console closed")
            data = os.pread(self.fd, size, self._offset)
            if data:
                self._offset += len(data)
                return self._incremental.decode(data)
            if deadline is not None and time.monotonic() >= deadline:
                raise TIMEOUT("no text")
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Release the text."""
        if not self.closed:
            os.close(self.fd)
            self.closed = True


class SocketConsole(_DescriptorSpawn):
    """A console that can be typed into; `text()` is all that was printed."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection.fileno(), timeout=10, use_poll=True, encoding="utf-8", codec_errors=_ERRORS)
        self._socket = connection
        self._text: list[str] = []

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> str:
        """Up to `size` bytes of new text; raises pexpect's TIMEOUT or EOF."""
        text: str = super().read_nonblocking(size, timeout)
        self._text.append(text)
        return text

    def text(self) -> str:
        """What was printed so far."""
        try:
            while True:
                self.buffer += self.read_nonblocking(1 << 16, timeout=0)
        except (TIMEOUT, EOF):
            return "".join(self._text)

    def close(self) -> None:
        """End the connection."""
        self.closed = True
        self.child_fd = -1
        self._socket.close()


Console = PrintedConsole | SocketConsole
