# SPDX-License-Identifier: BSD-2-Clause
"""Call stacks from memory, by the call frame information in .debug_frame."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from elftools.dwarf.callframe import FDE

from harness.kernel_state.elf import Elf
from harness.kernel_state.memory import MemoryImage, read_optional

MAXIMUM_FRAMES = 64
_LINK, _STACK = 30, 31
"""DWARF's numbers of the link register and the stack pointer of AArch64."""
_ALL = (1 << 64) - 1


@dataclass(frozen=True)
class Frame:
    """One function of a call stack. `address` is where it stands, or will go on; `source` is `file:line` or empty."""

    address: int
    function: str
    source: str

    def __str__(self) -> str:
        place = f" ({self.source})" if self.source else ""
        return f"{self.address:#x} {self.function}{place}"


@dataclass(frozen=True)
class _Unit:
    """Rules of one function: rows by address, each (CFA register, CFA offset, saved registers)."""

    end: int
    addresses: list[int]
    rows: list[tuple[int, int, dict[int, int]]]


class _Rules:
    """Call frame information of one ELF file, by function address."""

    def __init__(self, elf: Elf) -> None:
        self.starts: list[int] = []
        self._units: list[Any] = []
        self._decoded: dict[int, _Unit | None] = {}
        try:
            dwarf = elf.dwarf
            entries = dwarf.CFI_entries() if dwarf.has_CFI() else []
        except Exception:
            entries = []  # without usable information there is only the innermost function
        units = [entry for entry in entries if isinstance(entry, FDE)]
        for unit in sorted(units, key=lambda unit: int(unit.header["initial_location"])):
            self.starts.append(int(unit.header["initial_location"]))
            self._units.append(unit)

    def at(self, address: int) -> tuple[int, int, dict[int, int]] | None:
        """CFA register, CFA offset and the saved registers (offset from the CFA) at an instruction."""
        index = bisect_right(self.starts, address) - 1
        if index < 0:
            return None
        if index not in self._decoded:
            try:
                self._decoded[index] = self._decode(self._units[index])
            except Exception:
                self._decoded[index] = None  # damaged, or of a kind that the library does not know
        unit = self._decoded[index]
        if unit is None or address >= unit.end:
            return None
        row = bisect_right(unit.addresses, address) - 1
        return unit.rows[row] if row >= 0 else None

    @staticmethod
    def _decode(unit: Any) -> _Unit | None:
        addresses: list[int] = []
        rows: list[tuple[int, int, dict[int, int]]] = []
        for line in unit.get_decoded().table:
            cfa = line["cfa"]
            if cfa.expr is not None or cfa.reg is None:
                return None
            saved = {
                number: int(rule.arg)
                for number, rule in line.items()
                if isinstance(number, int) and rule.type == "OFFSET"
            }
            addresses.append(int(line["pc"]))
            rows.append((int(cfa.reg), int(cfa.offset), saved))
        start = int(unit.header["initial_location"])
        return _Unit(start + int(unit.header["address_range"]), addresses, rows)


_RULES: WeakKeyDictionary[Elf, _Rules] = WeakKeyDictionary()


def backtrace(elf: Elf | Path, registers: Mapping[str, int], memory: MemoryImage) -> list[Frame]:
    """The call stack of a kernel, innermost function first.

    `registers`: `pc`, `sp` and `x0` to `x30`, as many as are known; `memory`: physical memory that
    holds the stack. Ends where the stack leaves the ELF file's functions or cannot be read: corrupt
    memory shortens it and never fails.
    """
    image = elf if isinstance(elf, Elf) else Elf(elf)
    rules = _RULES.get(image)
    if rules is None:
        rules = _RULES[image] = _Rules(image)
    values = {number: registers[f"x{number}"] for number in range(_STACK) if f"x{number}" in registers}
    values[_STACK] = registers["sp"]
    address = registers["pc"]
    frames: list[Frame] = []
    while len(frames) < MAXIMUM_FRAMES:
        # A return address may lie behind the last instruction of a function that calls one that never returns.
        inside = address if not frames else address - 4
        symbol = image.function_at(inside)
        if symbol is None:
            break
        place = image.lines.at(inside)
        frames.append(Frame(address, symbol.name, f"{place[0]}:{place[1]}" if place else ""))
        rule = rules.at(inside)
        if rule is None:
            # Hand-written code: only the innermost one still has its return address in the link register.
            following = values.get(_LINK, 0) if len(frames) == 1 else 0
            if not following or following == address:
                break
            address = following
            continue
        register, offset, saved = rule
        if register not in values:
            break
        frame = (values[register] + offset) & _ALL
        restored = {number: _read(image, memory, (frame + at) & _ALL) for number, at in saved.items()}
        if None in restored.values() or frame < values[_STACK]:
            break
        if _LINK not in saved and len(frames) > 1:
            break
        values |= {number: value for number, value in restored.items() if value is not None}
        if frame == values[_STACK] and values.get(_LINK, 0) == address:
            break
        values[_STACK] = frame
        address = values.get(_LINK, 0)
    return frames


def _read(elf: Elf, memory: MemoryImage, address: int) -> int | None:
    # The window maps all memory at one offset, that of the kernel's own image.
    offset = elf.segments[0].virtual - elf.segments[0].physical
    data = read_optional(memory, (address - offset) & _ALL, 8)
    return int.from_bytes(data, "little") if data is not None else None
