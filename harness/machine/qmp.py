# SPDX-License-Identifier: BSD-2-Clause
"""QMP, QEMU's control protocol, without asynchronous code around it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

from qemu.qmp import QMPClient
from qemu.qmp.error import QMPError

from harness.errors import MachineLost

Result = TypeVar("Result")

# A QEMU that ends is reported by our own errors; the library would write it to stderr as well.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class Qmp:
    """A connection over a connected socket, which it then owns."""

    def __init__(self, connection: socket.socket, seconds: float = 10) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = QMPClient("bothworlds")
        self._socket = connection
        self._run(self._client.connect(connection), seconds)

    def execute(self, command: str, arguments: dict[str, object] | None = None, seconds: float = 10) -> Any:
        """Run a command and return its answer.

        Raises MachineLost if there is none within `seconds`, or an error.
        """
        return self._run(self._client.execute(command, arguments), seconds)

    def _run(self, work: Coroutine[Any, Any, Result], seconds: float) -> Result:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(work, seconds))
        except TimeoutError as error:
            raise MachineLost(f"QMP: no answer within {seconds:g} s") from error
        except (QMPError, OSError, EOFError) as error:
            raise MachineLost(f"QMP: {error or type(error).__name__}") from error

    def close(self) -> None:
        """End the connection."""
        if not self._loop.is_closed():
            with contextlib.suppress(MachineLost, asyncio.CancelledError):
                self._run(self._client.disconnect(), 2)
            self._loop.close()
        self._socket.close()
