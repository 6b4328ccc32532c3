# SPDX-License-Identifier: BSD-2-Clause
"""What QEMU's own device tree says about physical addresses: which world and kind of memory answers where.

A node answers the worlds that its `status` and `secure-status` name (Linux, Documentation/devicetree/bindings/arm/
secure.txt): both are "okay" unless they say otherwise, and `secure-status` is as `status` where it is missing. What
answers the secure world alone is secure; what the normal world sees is non-secure. The interrupt controller is banked.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fdt

from harness.configs import PAGE, Kind, MachineConfig, World
from harness.errors import LaunchFailure, MachineError
from harness.machine.qemu import MACHINE, QemuSettings

_SECONDS = 20
_BANKED = ("arm,cortex-a15-gic", "arm,gic-400", "arm,gic-v3")
_FLASH = "cfi-flash"


@dataclass(frozen=True)
class Answer:
    """A range of whole pages of physical addresses in which something answers. `compatible`: what it is."""

    name: str
    base: int
    size: int
    world: World
    kind: Kind
    compatible: tuple[str, ...] = ()

    @property
    def end(self) -> int:
        """First physical address behind it."""
        return self.base + self.size


def dump_device_tree(config: MachineConfig, settings: QemuSettings | None = None) -> bytes:
    """The device tree that QEMU makes for the config's machine, as a flattened tree.

    Raises LaunchFailure if QEMU does not make one, MissingPackage if it is not installed.
    """
    settings = settings or QemuSettings.from_environment()
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    if settings.modules:
        environment["QEMU_MODULE_DIR"] = str(settings.modules)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tree"
        command = [settings.program(), "-nodefaults", "-no-user-config", "-display", "none", "-smp", "1"]
        if settings.data:
            command += ["-L", str(settings.data)]
        # With firmware, as at run time: without it QEMU offers a device more. What it holds does not matter.
        command += ["-M", f"{MACHINE},dumpdtb={path}", "-cpu", config.qemu.cpu, "-m", f"{config.qemu.memory_mib}M"]
        command += ["-bios", os.devnull]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=environment)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LaunchFailure(f"QEMU made no device tree: {error}", command, None, "") from error
        if done.returncode or not path.is_file():
            raise LaunchFailure("QEMU made no device tree", command, done.returncode, done.stderr)
        return path.read_bytes()


def answers(tree: bytes) -> list[Answer]:
    """What answers, by the tree's nodes, sorted by address; neighbours that are alike are one.

    Raises MachineError for bytes that are no device tree.
    """
    try:
        parsed = fdt.parse_dtb(tree)
        found = [answer for path, _, _ in parsed.walk() for answer in _of_node(parsed, path)]
    except Exception as error:  # fdt raises plain Exception for what is no tree
        raise MachineError(f"not a device tree that can be read: {error}") from error
    joined: list[Answer] = []
    for answer in sorted(found, key=lambda answer: (answer.base, answer.end)):
        last = joined[-1] if joined else None
        if last is not None and answer.base <= last.end and _alike(last, answer):
            size = max(last.end, answer.end) - last.base
            joined[-1] = Answer(last.name, last.base, size, last.world, last.kind, last.compatible)
        else:
            joined.append(answer)
    return joined


def _alike(one: Answer, other: Answer) -> bool:
    """Whether two neighbours are of one kind, as the slots of virtio are; the controller's parts stay apart."""
    same = (one.world, one.kind, one.compatible) == (other.world, other.kind, other.compatible)
    return same and one.world != World.BANKED and one.kind == Kind.DEVICE


def _of_node(tree: Any, path: str) -> list[Answer]:
    node = tree.get_node(path)
    parent = node.parent
    if parent is None or ("device_type" in _names(node) and _text(node, "device_type") == ["cpu"]):
        return []
    world = _world(node)
    if world is None:
        return []
    compatible = tuple(_text(node, "compatible"))
    memory = _text(node, "device_type") == ["memory"]
    kind = Kind.RAM if memory else Kind.FLASH if _FLASH in compatible else Kind.DEVICE
    if set(compatible) & set(_BANKED):
        world = World.BANKED
    name = node.name.partition("@")[0]
    ranges = _pairs(_cells(node, "reg"), _count(parent, "address"), _count(parent, "size"))
    if _text(node, "device_type") == ["pci"] or "simple-bus" in compatible:
        ranges += _windows(node, _count(parent, "address"))
    return [
        Answer(name, base & -PAGE, -(-(base + size) // PAGE) * PAGE - (base & -PAGE), world, kind, compatible)
        for base, size in ranges
    ]


def _world(node: Any) -> World | None:
    """The world of a node; None if it answers nobody."""
    normal = (_text(node, "status") or ["okay"])[0] in ("okay", "ok")
    said = _text(node, "secure-status")
    secure = said[0] in ("okay", "ok") if said else normal
    return World.NON_SECURE if normal else World.SECURE if secure else None


def _names(node: Any) -> set[str]:
    return {item.name for item in node.props}


def _text(node: Any, name: str) -> list[str]:
    return [str(text) for text in node.get_property(name).data] if name in _names(node) else []


def _cells(node: Any, name: str) -> list[int]:
    data = getattr(node.get_property(name), "data", None) if name in _names(node) else None
    return [int(cell) for cell in data or []]


def _count(node: Any, what: str) -> int:
    """#address-cells or #size-cells; the specification's defaults where they are missing."""
    cells = _cells(node, f"#{what}-cells")
    return cells[0] if cells else {"address": 2, "size": 1}[what]


def _number(cells: list[int]) -> int:
    return sum(cell << 32 * index for index, cell in enumerate(reversed(cells)))


def _pairs(cells: list[int], address: int, size: int) -> list[tuple[int, int]]:
    """(address, size) of each entry of a `reg`."""
    step = address + size
    if not size:
        return []
    return [
        (_number(cells[at : at + address]), _number(cells[at + address : at + step]))
        for at in range(0, len(cells) - step + 1, step)
    ]


def _windows(node: Any, address: int) -> list[tuple[int, int]]:
    """(address, size) of each entry of a bus' `ranges`, as its parent sees them."""
    child, size, cells = _count(node, "address"), _count(node, "size"), _cells(node, "ranges")
    step = child + address + size
    return [
        (_number(cells[at + child : at + child + address]), _number(cells[at + child + address : at + step]))
        for at in range(0, len(cells) - step + 1, step)
    ]
