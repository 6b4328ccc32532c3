# SPDX-License-Identifier: BSD-2-Clause
"""Where the kernel writes to the interrupt controller.

Restoring the controller costs as much as all else that EL3 restores, and hardly any program
changes it. The plugin notices the few instructions that can.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import Any

import capstone
import numpy as np

from harness.build.artefacts import cache_directory
from harness.kernel_state.elf import Elf

_DRIVER = ("gic_pl390.h", "gic_pl390.c")
_BOOT = frozenset({"dist_init", "cpu_iface_init", "initIRQController", "cpu_initLocalIRQController", "init_kernel"})
"""Functions that run before the snapshot only."""

Words = np.ndarray[Any, np.dtype[np.uint64]]


def interrupt_writes(kernel: Elf) -> Words:
    """Addresses (u64[n], ascending) of the store instructions of the controller's driver, inlined or not.

    Kept in the cache by content: reading line numbers takes a second.
    """
    digest = hashlib.sha256(f"{kernel.sha256} {_DRIVER} {sorted(_BOOT)}".encode()).hexdigest()
    path = cache_directory() / "interrupts" / f"{digest[:32]}.npy"
    # numpy raises nearly anything for a damaged file, and finding the addresses again takes a second.
    with contextlib.suppress(Exception):
        return np.asarray(np.load(path, allow_pickle=False), np.uint64)
    found = _find(kernel)
    # A cache that cannot be written costs time only.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp.npy")
        np.save(temporary, found)
        temporary.replace(path)
    return found


def _find(kernel: Elf) -> Words:
    lines = kernel.lines
    drivers = [index for index, name in enumerate(lines.files) if name.endswith(_DRIVER)]
    disassembler = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    found: set[int] = set()
    for row in np.flatnonzero(np.isin(lines.file, drivers) & (lines.line != 0)):
        start = int(lines.address[row])
        later = lines.address[row:][lines.address[row:] > start]
        size = int(later[0]) - start if len(later) else 0
        for address, _, name, _ in disassembler.disasm_lite(kernel.read(start, size), start):
            function = kernel.function_at(address)
            if name.startswith("st") and (function is None or function.name not in _BOOT):
                found.add(address)
    return np.array(sorted(found), np.uint64)
