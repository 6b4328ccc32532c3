# SPDX-License-Identifier: BSD-2-Clause
"""Comparison of all RAM with the snapshot: what the restore may have missed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from harness import protocol
from harness.build.artefacts import Artefacts
from harness.execution.restore_set import Range
from harness.kernel_state.elf import Elf
from harness.machine.memory import Bytes, Image, MachineMemory
from harness.protocol import PAGE


@dataclass(frozen=True)
class Difference:
    """A page that does not equal the snapshot: its physical address, and the first byte that differs."""

    page: int
    offset: int
    expected: int
    found: int

    def __str__(self) -> str:
        return f"{self.page + self.offset:#x}: {self.found:#04x} instead of {self.expected:#04x}"


SCRATCH = (
    *("taken_sequence", "ending_status", "panicking", "current_bank", "mixed_bank", "unlogged_smc", "stack"),
    # Registers of the worlds, which come back with the CPU's own; and where the normal world's calls are noted
    *("secure_world", "normal_world", "normal_log_entry", "unlogged_normal_smc"),
)
"""Variables of the firmware that say something about the last program or park, not about the machine."""


def instrumentation(artefacts: Artefacts) -> dict[str, Range]:
    """Named windows (physical address, size) that belong to the harness and are not compared.

    They are the exchange area, EL3's report, its message and its account of the normal world, and the firmware's
    SCRATCH variables: no program can reach any of EL3's.
    """
    config = artefacts.config
    base = config.firmware_ram.base
    windows: dict[str, Range] = {
        "exchange": (config.exchange.base, config.exchange.size),
        "report": (base, protocol.REPORT.itemsize),
        "message": (base + protocol.MESSAGE_OFFSET, protocol.MESSAGE.itemsize),
    }
    if config.normal_world is not None:
        windows["worlds"] = (base + protocol.WORLDS_OFFSET, protocol.WORLDS.itemsize)
    symbols = Elf(artefacts.firmware_elf).symbols
    for name in SCRATCH:
        if name in symbols:
            windows[name] = (symbols[name].address, symbols[name].size)
    return windows


def compare(windows: Iterable[Range], snapshot: Image, memory: MachineMemory) -> list[Difference]:
    """Every page of both worlds' RAM that differs from the snapshot outside of `windows`.

    Parts of normal RAM without allocated memory are zeros and need no look, unless the snapshot holds more there.
    """
    # What lies in a window is taken as it is in the snapshot.
    masks = sorted(windows)
    base = memory.normal_bank.base
    pieces = {(base + start, base + end) for start, end in memory.normal.extents()}
    pieces |= {(at, at + len(part)) for at, part in snapshot.parts.items() if at >= base}
    differences: list[Difference] = []
    for start, end in [(memory.secure_bank.base, memory.secure_bank.end), *_union(pieces)]:
        differences += _differences(start, snapshot.view(start, end - start), memory.view(start, end - start), masks)
    return differences


def _union(pieces: set[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(pieces):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _differences(address: int, expected: Bytes, found: Bytes, masks: list[Range]) -> Iterator[Difference]:
    unequal = expected.view(np.uint64) != found.view(np.uint64)
    if not unequal.any():
        return
    for index in np.flatnonzero(unequal.reshape(-1, PAGE // 8).any(axis=1)):
        at = int(index) * PAGE
        differs = expected[at : at + PAGE] != found[at : at + PAGE]
        page = address + at
        for start, size in masks:
            if start < page + PAGE and page < start + size:
                differs[max(start - page, 0) : max(start + size - page, 0)] = False
        if differs.any():
            byte = int(np.flatnonzero(differs)[0])
            yield Difference(page, byte, int(expected[at + byte]), int(found[at + byte]))
