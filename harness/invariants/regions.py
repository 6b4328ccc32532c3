# SPDX-License-Identifier: BSD-2-Clause
"""The machine config's physical address map in columns: the ground truth of the world family."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.configs import Kind, MachineConfig, Region, Use, World
from harness.kernel_state.memory import Words

Array = np.ndarray[Any, Any]


class RegionMap:
    """Regions in order of address; columns have one element a region."""

    def __init__(self, config: MachineConfig) -> None:
        self.regions: tuple[Region, ...] = tuple(sorted(config.regions, key=lambda region: region.base))
        self._base = np.array([r.base for r in self.regions], np.uint64)
        self._last = np.array([r.end - 1 for r in self.regions], np.uint64)
        # One more element, for "in no region" (index -1), which nothing matches.
        self.secure = np.array([r.world == World.SECURE for r in self.regions] + [False])
        self.non_secure = np.array([r.world == World.NON_SECURE for r in self.regions] + [False])
        self.banked = np.array([r.world == World.BANKED for r in self.regions] + [False])
        self.device = np.array([r.kind == Kind.DEVICE for r in self.regions] + [False])
        self.ram = np.array([r.kind == Kind.RAM for r in self.regions] + [False])
        self.kernel = np.array([r.use == Use.KERNEL for r in self.regions] + [False])
        self.offered = np.array([r.use in (Use.KERNEL, Use.UNTYPED) for r in self.regions] + [False])
        """Whether capabilities may cover it."""
        self.window = np.array([r.window for r in self.regions] + [False])
        """Whether the kernel's window maps it."""
        firmware = [r for r in self.regions if r.use == Use.FIRMWARE]
        self._firmware = [(np.uint64(r.base), np.uint64(r.end - 1)) for r in firmware]

    def covering(self, base: Words, last: Words) -> Array:
        """Index (i64) of the region that holds all of `[base, last]`; -1 where none does."""
        index = np.searchsorted(self._base, base, side="right") - 1
        return np.where((index >= 0) & (base <= last) & (last <= self._last[index]), index, -1)

    def firmware(self, base: Words, last: Words) -> Array:
        """Whether `[base, last]` shares an address with memory of the firmware."""
        result = np.zeros(len(base), np.bool_)
        for first, end in self._firmware:
            result |= (base <= end) & (last >= first)
        return result

    def name(self, index: int) -> str:
        """Name of a region for people."""
        return self.regions[index].name if index >= 0 else "no region of the config"

    def describe(self, index: int) -> str:
        """Name, world, kind and use of a region for people."""
        if index < 0:
            return "in no region of the config, or in several"
        region = self.regions[index]
        return f"in {region.name} ({region.world}, {region.kind}, {region.use})"
