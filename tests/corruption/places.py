# SPDX-License-Identifier: BSD-2-Clause
"""Memory that can be spoiled and mended word by word, and the words in it that mean something."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.kernel_state.memory import Bytes, Words
from harness.kernel_state.state import KernelState
from harness.machine.memory import Image

Array = np.ndarray[Any, Any]

ALL = (1 << 64) - 1
_GLOBALS = ("ksCurThread", "ksIdleThread", "intStateIRQNode", "ksSchedulerAction", "ksCurDomain", "ksActiveFPUState")
_GLOBAL_TABLES = (
    "ksReadyQueues",
    "ksReadyQueuesL1Bitmap",
    "ksReadyQueuesL2Bitmap",
    "armKSASIDTable",
    "intStateIRQTable",
    "armKSHWASIDTable",
)
_WINDOW = ("armKSGlobalKernelPGD", "armKSGlobalKernelPUD", "armKSGlobalUserPGD")
_REPORT_WORDS = 48


class Scratch:
    """Memory of a machine whose secure RAM can be changed word by word and put back."""

    def __init__(self, image: Image) -> None:
        bank = image.banks[0]
        self.base = bank.base
        self.bytes: Bytes = image.view(bank.base, bank.size).copy()
        self.words: Words = self.bytes.view(np.uint64)
        self._image = image
        self._whole = self.words.copy()
        self._touched: list[tuple[int, int]] = []

    def view(self, address: int, size: int) -> Bytes:
        """Array over physical memory; ImageError where there is none."""
        offset = address - self.base
        if offset >= 0 and offset + size <= len(self.bytes):
            return self.bytes[offset : offset + size]
        return self._image.view(address, size)

    def read(self, address: int, size: int, /) -> bytes:
        """Bytes of physical memory; ImageError where there is none."""
        return self.view(address, size).tobytes()

    def poke(self, at: int, *values: int) -> None:
        """Change words, given the number of the first in secure RAM."""
        self.fill(at, np.array([value & ALL for value in values], np.uint64))

    def fill(self, at: int, values: Words) -> None:
        """Change a run of words; those that lie outside stay out."""
        if at < 0:
            return
        values = values[: max(0, len(self.words) - at)]
        self._touched.append((at, at + len(values)))
        self.words[at : at + len(values)] = values

    def changed_words(self) -> Array:
        """Numbers (i64, ascending) of the words that differ now."""
        differs = np.zeros(len(self.words), np.bool_)
        for at, end in self._touched:
            differs[at:end] = self.words[at:end] != self._whole[at:end]
        return np.flatnonzero(differs)

    def undo(self) -> None:
        """Put everything back."""
        for at, end in self._touched:
            self.words[at:end] = self._whole[at:end]
        self._touched.clear()


@dataclass(frozen=True)
class Places:
    """Words of secure RAM that mean something, by their number in it, and values that hurt."""

    slots: list[int]
    """First word of each used slot."""
    groups: dict[str, list[int]]
    """Words by what they are."""
    tables: list[int]
    """First word of each translation table."""
    threads: list[int]
    """First word of each tcb_t."""
    pointers: list[int]
    """Kernel pointers to objects and slots, and to the edges of memory."""
    types: list[int]
    """Values of capType."""

    @classmethod
    def of(cls, state: KernelState) -> Places:
        """The places of a state that is whole."""
        layout, ram, caps = state.layout, state.ram, state.caps

        def numbers(addresses: Iterable[int], words: int = 1) -> list[int]:
            first = [(a - ram.base) >> 3 for a in addresses if ram.holds(a, 8 * words)]
            return sorted({start + i for start in first for i in range(words)})

        def variables(names: Iterable[str]) -> list[int]:
            known = [name for name in names if name in layout.types.variables]
            sizes = [max(1, layout.variable(name).size // 8) for name in known]
            starts = [(state.global_address(name) - ram.base) >> 3 for name in known]
            return [start + i for start, size in zip(starts, sizes, strict=True) for i in range(size)]

        walk = state.user_walk
        slots = numbers(caps.address.tolist())
        roots = set(state.vspaces.roots) | set(walk.table.tolist())
        used = (walk.table + (walk.index.astype(np.uint64) << np.uint64(3))).tolist()
        small = [a for name in ("endpoint_cap", "notification_cap") for a in caps.base[caps.of(name)].tolist()]
        report = (state.config.firmware_ram.base - ram.base) >> 3
        groups = {
            "capability": [at + i for at in slots for i in (0, 1)],
            "derivation": [at + i for at in slots for i in (2, 3)],
            "entry": numbers(used),
            "thread": numbers(state.threads.tcb.tolist(), layout.struct("tcb").size // 8),
            "queue": numbers(small, 4),
            "pool": numbers((address for _, address in state.asid_pools), 4),
            "global": variables(_GLOBALS),
            "global table": variables(_GLOBAL_TABLES),
            "window": variables(_WINDOW),
            "report": list(range(report, report + _REPORT_WORDS)),
        }
        addresses = {*caps.address.tolist(), *caps.base[caps.physical].tolist(), *state.threads.tcb.tolist()}
        edges = [ram.base, ram.end, ram.end - 8, ram.base - 8, state.config.normal_ram.base, 0]
        return cls(
            slots,
            {name: words for name, words in groups.items() if words},
            numbers(roots),
            numbers(state.threads.tcb.tolist()),
            [layout.virtual(a) for a in [*sorted(addresses), *edges]],
            sorted(layout.cap_types.values()),
        )
