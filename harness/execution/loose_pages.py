# SPDX-License-Identifier: BSD-2-Clause
"""Pages that few programs change, and those only by what they say: they are not in the restore set.

Victims store, and the kernel writes messages, to frames. A large frame is too large to be compared
each time, and so is, for what it is worth, the non-secure arena. But EL3 lists the pages of all
stores, and an IPC buffer lies in its frame where the buffer's address says. So which of these pages
a program can have changed follows from the program and the report; only they are compared, by the
host, and most programs have none. Audits test that nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness import protocol
from harness.execution.restore_set import Range
from harness.machine.memory import Image, MachineMemory
from harness.programs.descriptions import Action
from harness.programs.encodings import ARGUMENTS_OFFSET, Decoder, records
from harness.programs.interfaces import CallType, Interface
from harness.protocol import CALL_BYTES, PAGE

_BUFFER_WORD: Mapping[str, int] = {"TCBSetIPCBuffer": 0, "TCBConfigure": 4}
"""Invocations that make a frame an IPC buffer, and the message word with its address."""
_RETYPE = "UntypedRetype"
_LABEL_SHIFT = 12


class LoosePages:
    """Compares and restores pages of `frames` and `arena`, ranges outside of the restore set `ranges`."""

    def __init__(
        self,
        interface: Interface,
        ranges: Sequence[Range],
        frames: Sequence[Range],
        arena: Sequence[Range],
        snapshot: Image,
        memory: MachineMemory,
    ) -> None:
        self._ranges, self._frames, self._arena = ranges, frames, arena
        self._snapshot, self._memory = snapshot, memory
        self._decoder = Decoder(interface)
        labels = {call.label_name: call.label for call in interface.calls if call.label}
        self._buffer_word = {labels[name]: word for name, word in _BUFFER_WORD.items() if name in labels}
        self._retype = labels.get(_RETYPE, 0)
        self._retypes = _table(interface, lambda call: call.label == self._retype)
        self._settles = _table(interface, lambda call: call.label in self._buffer_word)
        # A message can carry a label, too: its first argument.
        self._messages = _table(interface, lambda call: any(p.kind == "label" for p in call.parameters[:1]))
        told = interface.pools["label"].values
        labels_told = [told[n % len(told)] for n in range(256)]
        self._told_settles = bytes(label in self._buffer_word for label in labels_told)
        self._told_retypes = bytes(label == self._retype for label in labels_told)
        self._jumps = _table(interface, lambda call: call.action is Action.JUMP)
        self._saved: dict[int, bytes] = {}
        self._arena_saved = [snapshot.view(address, size).tobytes() for address, size in arena]
        self._changed: list[int] = []

    def find(self, program: bytes, stored: Sequence[int]) -> bool:
        """Find what a program that has just run changed; `stored` are the pages that victims stored to.

        Tells whether code may have run there: then the machine has to be replaced.
        """
        pages = {page for page in stored if not self._covered(page)} if stored else set()
        if settling := self._making(program, self._settles, self._told_settles):
            self._add_buffers(program, settling, pages)
        if not pages:
            return False
        # Without a restore in between, what older programs changed is still to be restored.
        self._changed += [page for page in pages if self._memory.view(page, PAGE).tobytes() != self._before(page)]
        return bool(self._changed) and any(program[::CALL_BYTES].translate(self._jumps))

    def restore(self) -> None:
        """Bring what the last program changed back to the snapshot."""
        for page in self._changed:
            self._memory.view(page, PAGE)[:] = np.frombuffer(self._before(page), np.uint8)
        self._changed = []

    def _covered(self, page: int) -> bool:
        return any(address <= page < address + size for address, size in self._ranges)

    def _before(self, page: int) -> bytes:
        saved = self._saved.get(page)
        if saved is None:
            if len(self._saved) > protocol.CHANGED_PAGES:
                self._saved.clear()
            saved = self._saved[page] = self._snapshot.view(page, PAGE).tobytes()
        return saved

    def _making(self, program: bytes, calls: bytes, told: bytes) -> list[int]:
        """Indices of the calls of a kind: those of `calls`, and messages whose label is in `told`."""
        kinds, messages = program[::CALL_BYTES].translate(calls), program[::CALL_BYTES].translate(self._messages)
        labels = program[ARGUMENTS_OFFSET::CALL_BYTES].translate(told)
        found = zip(kinds, messages, labels, strict=False)
        return [n for n, (kind, message, label) in enumerate(found) if kind or (message and label)]

    def _add_buffers(self, program: bytes, settling: Sequence[int], pages: set[int]) -> None:
        rows = records(program)
        buffers: list[int] = []
        for index in settling:
            if index >= len(rows):
                break
            call = self._decoder.decode_call(rows, index)
            word = self._buffer_word.get(call.info >> _LABEL_SHIFT)
            if word is not None:
                buffers.append(call.words[word])
        if not buffers:
            return
        for address, size in self._frames:
            pages.update(address + (buffer & (size - 1) & -PAGE) for buffer in buffers)
        if self._making(program, self._retypes, self._told_retypes):
            for (address, size), saved in zip(self._arena, self._arena_saved, strict=True):
                now = self._memory.view(address, size)
                if now.tobytes() != saved:
                    pages.update(range(address, address + size, PAGE))


def _table(interface: Interface, holds: Callable[[CallType], bool]) -> bytes:
    """For each value of a record's first byte: 1 if the call that it selects is of a kind."""
    calls = [holds(call) for call in interface.calls]
    return bytes(calls[value % len(calls)] for value in range(256))
