# SPDX-License-Identifier: BSD-2-Clause
"""The process of a worker: its signals, its log, its core, its last words."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from fuzz.messages import Trouble, WorkerSettings
from fuzz.stopping import SIGNALS
from fuzz.worker import Worker
from harness.errors import BothworldsError


def main(settings: WorkerSettings, pipe: Connection) -> None:
    """The worker's process."""
    # The campaign decides when its workers stop, whatever reaches the whole process group.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    log = _open_log(settings.log)
    if settings.core is not None:
        with contextlib.suppress(OSError):  # it may have been taken from us since the campaign began
            os.sched_setaffinity(0, {settings.core})
    worker: Worker | None = None
    try:
        worker = Worker(settings, pipe, log)
        worker.boot()
        worker.fuzz()
    except BothworldsError as error:
        reason, _, rest = str(error).partition("\n")
        _last_words(pipe, Trouble(reason, fatal=True, exit_code=error.exit_code, detail=rest))
    except Exception:
        _last_words(pipe, Trouble("a defect of the fuzzer", fatal=True, detail=traceback.format_exc()))
    if worker is not None:
        worker.close()
    os._exit(3)


def _open_log(path: Path) -> int:
    """Let standard output and error go to the log; where that cannot be written, to memory."""
    try:
        log = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError:
        log = os.memfd_create("log", os.MFD_CLOEXEC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return 2


def _last_words(pipe: Connection, trouble: Trouble) -> None:
    with contextlib.suppress(OSError):
        pipe.send(trouble)
