# SPDX-License-Identifier: BSD-2-Clause
"""GDB on the machine, through GDB/MI: milliseconds a command.

pygdbmi parses what gdb says; waiting is done here, since its own loop sleeps a fixed time
after each answer.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pygdbmi import gdbmiparser

from harness.errors import MachineError, MachineLost
from harness.packages import tool

_RESULTS = {"done", "running", "connected", "error", "exit"}


class GdbError(MachineError):
    """Gdb refused a command; the message is gdb's."""


class Gdb:
    """A gdb of our own. It runs until close()."""

    def __init__(self, symbols: Sequence[Path] = ()) -> None:
        self._process = subprocess.Popen(
            [tool("gdb-multiarch", "it debugs the guest"), "-nx", "-q", "--interpreter=mi3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._pending = b""
        self._token = 0
        for setting in ("confirm off", "pagination off", "width 0", "architecture aarch64", "output-radix 16"):
            self.execute(f"-gdb-set {setting}")
        for index, path in enumerate(symbols):
            # gdb/MI has no command that adds a second symbol file.
            if index == 0:
                self.execute(f"-file-exec-and-symbols {_quote(str(path))}")
            else:
                self.command(f"add-symbol-file {_quote(str(path))}")

    def execute(self, mi_command: str, seconds: float = 10) -> dict[str, Any]:
        """Run a GDB/MI command and return the payload of its result.

        Raises GdbError with gdb's message, or MachineLost if it does not answer within `seconds`.
        """
        payload, _ = self._run(mi_command, seconds)
        return payload

    def command(self, text: str, seconds: float = 10) -> str:
        """Run a command of gdb's own language and return what it prints."""
        _, printed = self._run(f"-interpreter-exec console {_quote(text)}", seconds)
        return printed

    def attach(self, target: str, seconds: float = 10) -> None:
        """Connect to QEMU's stub; the guest stops."""
        self.execute(f"-target-select remote {target}", seconds)

    def detach(self) -> None:
        """Disconnect; the guest runs on."""
        self.execute("-target-detach")

    def registers(self) -> dict[str, int]:
        """All integer registers by name, as unsigned numbers, with the system registers that QEMU shows."""
        names: list[str] = self.execute("-data-list-register-names")["register-names"]
        values = self.execute("-data-list-register-values --skip-unavailable x")["register-values"]
        result: dict[str, int] = {}
        for value in values:
            # Vector registers print as structures.
            with contextlib.suppress(ValueError):
                result[names[int(value["number"])]] = int(value["value"], 0)
        return result

    def vector_registers(self) -> dict[str, int]:
        """Registers v0-v31 as 128-bit numbers."""
        return {f"v{n}": int(self.evaluate(f"$v{n}.q.u[0]"), 0) for n in range(32)}

    def evaluate(self, expression: str) -> str:
        """Value of an expression, in hexadecimal if it is a number."""
        text: str = self.execute(f"-data-evaluate-expression {_quote(expression)}")["value"]
        return text

    def backtrace(self) -> str:
        """The current call stack as gdb prints it."""
        return self.command("backtrace 40")

    def _run(self, mi_command: str, seconds: float) -> tuple[dict[str, Any], str]:
        self._token += 1
        try:
            self._input.write(f"{self._token}{mi_command}\n".encode())
            self._input.flush()
        except OSError as error:
            raise MachineLost("gdb ended", self._process.poll()) from error
        deadline = time.monotonic() + seconds
        printed: list[str] = []
        while True:
            for line in self._lines(deadline, mi_command):
                record = gdbmiparser.parse_response(line)
                if record["type"] == "console":
                    printed.append(record["payload"] or "")
                elif record["type"] == "result" and record["token"] == self._token and record["message"] in _RESULTS:
                    payload = record["payload"] or {}
                    if record["message"] == "error":
                        raise GdbError(f"gdb: {payload.get('msg', 'error')}")
                    return payload, "".join(printed)

    def _lines(self, deadline: float, mi_command: str) -> list[str]:
        """Complete lines that have arrived; waits for at least one."""
        while b"\n" not in self._pending:
            if not self._selector.select(max(deadline - time.monotonic(), 0)):
                raise MachineLost(f"gdb: no answer to '{mi_command}'")
            data = self._output.read()
            if not data:
                raise MachineLost("gdb ended", self._process.poll())
            self._pending += data
        complete, _, self._pending = self._pending.rpartition(b"\n")
        return complete.decode("utf-8", "backslashreplace").split("\n")

    def close(self) -> None:
        """End gdb; QEMU's stub lets the guest run on."""
        self._selector.close()
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def __enter__(self) -> Gdb:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
