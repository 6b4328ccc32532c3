# SPDX-License-Identifier: BSD-2-Clause
"""How programs come into libFuzzer and out of it, without a directory between.

Programs of the corpus and of other workers go in as what the mutator gives. That an input reached something new is
told by a line that libFuzzer prints after it has run.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable

from fuzz import libfuzzer
from fuzz.corpus import file_name
from fuzz.messages import WorkerSettings
from fuzz.mutators import Choice, Mutator, TypedMutator, mix_of, restricted
from fuzz.shapes import shapes_of
from fuzz.targets import load_target
from harness.programs.interfaces import Interface

LOG_BYTES = 4 << 20
"""A log that is longer begins anew."""


class Inputs:
    """Programs that wait to be run, and what is known to be in the corpus.

    `log` is the descriptor of the file that libFuzzer prints to; None: it prints to nothing that can be read.
    """

    def __init__(self, log: int | None = None) -> None:
        self._log = log
        self._position = 0 if log is None else os.lseek(log, 0, os.SEEK_END)
        self._known: set[str] = set()
        self._waiting: deque[bytes] = deque()

    def __len__(self) -> int:
        """Programs that wait."""
        return len(self._waiting)

    def offer(self, programs: Iterable[bytes]) -> None:
        """Run these next: the corpus has them already."""
        for program in programs:
            self._known.add(file_name(program))
            self._waiting.append(program)

    def is_new(self, program: bytes) -> bool:
        """Whether a program was never asked about or offered before; it is known from now on."""
        name = file_name(program)
        if name in self._known:
            return False
        self._known.add(name)
        return True

    def mutator(self, change: Mutator) -> Mutator:
        """A mutator that gives what waits, and otherwise what `change` makes."""
        waiting = self._waiting

        def next_input(data: bytes, maximum_bytes: int, seed: int) -> bytes:
            if waiting:
                return waiting.popleft()[:maximum_bytes]
            return change(data, maximum_bytes, seed)

        return next_input

    def last_was_new(self) -> bool:
        """Whether libFuzzer has said since the last question that it keeps the input that ran."""
        log = self._log
        if log is None:
            return False
        position = os.lseek(log, 0, os.SEEK_CUR)
        if position == self._position:
            return False
        return self._read_log(log, position)

    def _read_log(self, log: int, position: int) -> bool:
        text = b""
        with contextlib.suppress(OSError):
            text = os.pread(log, max(0, position - self._position), self._position)
            if position > LOG_BYTES:
                os.ftruncate(log, 0)
                position = os.lseek(log, 0, os.SEEK_SET)
        self._position = position
        return libfuzzer.NEW_INPUT in text


def mutator_of(settings: WorkerSettings, interface: Interface, native: Callable[..., bytes]) -> Mutator:
    """What makes a worker's programs; `native` is libFuzzer's own mutator: data, maximum size."""
    target = load_target(settings.target)
    shapes = shapes_of(interface, target)
    typed = TypedMutator(
        shapes,
        seed=settings.seed,
        maximum_calls=settings.maximum_calls,
        native=native if settings.mutators is Choice.BOTH else None,
    )
    mutator: Mutator = native if settings.mutators is Choice.NATIVE else typed
    if target.exclusive:
        mutator = restricted(mutator, shapes)
    return mix_of(settings.mix, mutator) if settings.mix else mutator
