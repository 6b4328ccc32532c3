# SPDX-License-Identifier: BSD-2-Clause
"""A machine config from QEMU's device tree, and where a config and the tree differ.

The tree says what answers; who may use it is decided here, by a rule for each kind of node. A config's own decisions
(which part of secure RAM the firmware has, which devices are handed out) are no differences.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from harness.configs import Kind, MachineConfig, Region, Use, World
from harness.machine.device_tree import Answer

BLOCK = 1 << 21
"""What the firmware takes from the end of secure RAM, and QEMU for its device tree from the start of normal RAM."""
_CONSOLE = "arm,pl011"
_OFFERED = (_CONSOLE, "virtio,mmio")
"""Devices that are handed out. Others power the machine off, lead to the host, or hold what others wrote."""
_CONTROLLER_PARTS = ("gicd", "gicc", "gich", "gicv")
"""The parts of the interrupt controller, in the order of its `reg`."""

_NAMES = {
    ("secflash", World.SECURE): "flash",
    ("flash", World.NON_SECURE): "flash1",
    ("pl011", World.NON_SECURE): "uart0",
    ("pl011", World.SECURE): "uart1",
    ("pl031", World.NON_SECURE): "rtc",
    ("pl061", World.NON_SECURE): "gpio",
    ("pl061", World.SECURE): "secure-gpio",
    ("virtio_mmio", World.NON_SECURE): "virtio",
}
"""What regions are called, where firmware and population know them by name."""


@dataclass(frozen=True)
class Difference:
    """A range of physical addresses, and what the config and QEMU say about it; "nothing" if no one answers."""

    base: int
    size: int
    config: str
    machine: str
    contradiction: bool
    """Whether both say something, and not the same."""

    def __str__(self) -> str:
        end = self.base + self.size
        return f"{self.base:#x} to {end:#x}: the config says {self.config}, QEMU's device tree {self.machine}"


def regions_of(found: Sequence[Answer]) -> list[Region]:
    """The regions of a machine config for what answers, by the rules of this module, sorted by address."""
    regions: list[Region] = []
    names: set[str] = set()
    parts = iter(_CONTROLLER_PARTS)

    def add(name: str, base: int, size: int, answer: Answer, use: Use, *, window: bool = False) -> None:
        name = _NAMES.get((name, answer.world), name)
        unique = name if name not in names else f"{name}-{base:x}"
        names.add(unique)
        regions.append(
            Region(name=unique, base=base, size=size, world=answer.world, kind=answer.kind, use=use, window=window)
        )

    for answer in found:
        secure = answer.world == World.SECURE
        base, size = answer.base, answer.size
        if answer.kind == Kind.FLASH:
            add(answer.name, base, size, answer, Use.FIRMWARE if secure else Use.RESERVED)
        elif answer.kind == Kind.RAM and secure:
            add("secure-ram", base, size - BLOCK, answer, Use.KERNEL, window=True)
            add("el3-ram", answer.end - BLOCK, BLOCK, answer, Use.FIRMWARE)
        elif answer.kind == Kind.RAM:
            add("device-tree", base, BLOCK, answer, Use.RESERVED, window=True)
            add("normal-ram", base + BLOCK, size - BLOCK, answer, Use.UNTYPED, window=True)
        elif answer.world == World.BANKED:
            name = next(parts, "gic")
            add(name, base, size, answer, Use.RESERVED, window=name in _CONTROLLER_PARTS[:2])
        else:
            offered = bool(set(answer.compatible) & set(_OFFERED))
            console = secure and _CONSOLE in answer.compatible
            add(answer.name, base, size, answer, Use.UNTYPED if offered else Use.RESERVED, window=console)
    return regions


def differences(config: MachineConfig, found: Sequence[Answer]) -> list[Difference]:
    """Where a config's regions and what answers differ in presence, world or kind, sorted by address."""
    edges = {edge for region in config.regions for edge in (region.base, region.end)}
    ordered = sorted(edges | {edge for answer in found for edge in (answer.base, answer.end)})
    result: list[Difference] = []
    for base, end in itertools.pairwise(ordered):
        region = config.region_at(base)
        answer = next((item for item in found if item.base <= base < item.end), None)
        if region is None and answer is None:
            continue
        if region is not None and answer is not None and (region.world, region.kind) == (answer.world, answer.kind):
            continue
        said = "nothing" if region is None else f"{region.name} ({region.world}, {region.kind})"
        has = "nothing" if answer is None else f"{answer.name} ({answer.world}, {answer.kind})"
        both = region is not None and answer is not None
        last = result[-1] if result else None
        if last is not None and last.base + last.size == base and (last.config, last.machine) == (said, has):
            result[-1] = Difference(last.base, end - last.base, said, has, both)
        else:
            result.append(Difference(base, end - base, said, has, both))
    return result


def config_text(config: MachineConfig, found: Sequence[Answer]) -> str:
    """A machine config as YAML: the regions of what answers, all else as in `config`."""
    lines = [
        "# Regions from QEMU's device tree; `use` and `window` by the rules of harness/machine/memory_map.py.",
        f"name: {config.name}",
        f"description: {config.description}",
        "qemu:",
        f'  minimum_version: "{config.qemu.minimum_version}"',
        f"  cpu: {config.qemu.cpu}",
        f"  memory_mib: {config.qemu.memory_mib}",
        "regions:",
    ]
    for region in regions_of(found):
        fields = f"name: {region.name}, base: {region.base:#010x}, size: {region.size:#010x}, world: {region.world}"
        window = ", window: true" if region.window else ""
        lines.append(f"  - {{{fields}, kind: {region.kind}, use: {region.use}{window}}}")
    lines.append(f"exchange: {{base: {config.exchange.base:#x}, size: {config.exchange.size:#x}}}")
    lines += ["kernel:", "  options:"]
    for name, value in config.kernel.options.items():
        lines.append(f"    {name}: {str(value).lower() if isinstance(value, bool) else value}")
    deadlines = ", ".join(f"{name}: {value:g}" for name, value in config.deadlines.model_dump(by_alias=True).items())
    lines += [f"arena_bits: {config.arena_bits}", f"deadlines: {{{deadlines}}}"]
    lines.append(f"hang_milliseconds: {config.hang_milliseconds}")
    return "\n".join(lines) + "\n"
