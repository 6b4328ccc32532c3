# SPDX-License-Identifier: BSD-2-Clause
"""What an ELF file says: symbols, sections, segments, source lines."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from harness.errors import BothworldsError, ImageError

T = TypeVar("T")

_ALLOCATED, _EXECUTABLE, _WRITABLE = 2, 4, 1


@dataclass(frozen=True)
class Symbol:
    """A named address of an ELF file; `kind` is FUNC, OBJECT or NOTYPE."""

    name: str
    address: int
    size: int
    kind: str


@dataclass(frozen=True)
class Section:
    """An allocated section; `data` is empty for one without content in the file."""

    name: str
    address: int
    size: int
    executable: bool
    writable: bool
    data: bytes


@dataclass(frozen=True)
class Segment:
    """A loaded segment, in bytes."""

    virtual: int
    physical: int
    memory_bytes: int
    data: bytes


@dataclass(frozen=True)
class LineTable:
    """Rows of DWARF's line table in order of address; `line` 0 marks the end of a sequence."""

    address: np.ndarray[Any, np.dtype[np.uint64]]
    line: np.ndarray[Any, np.dtype[np.uint32]]
    file: np.ndarray[Any, np.dtype[np.uint32]]
    files: tuple[str, ...]

    def at(self, address: int) -> tuple[str, int] | None:
        """File and line of an instruction; None where DWARF says nothing."""
        row = int(np.searchsorted(self.address, np.uint64(address), side="right")) - 1
        if row < 0 or not self.line[row]:
            return None
        return self.files[int(self.file[row])], int(self.line[row])


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:200] or type(error).__name__


def _guarded(read: Callable[[Elf], T]) -> Callable[[Elf], T]:
    """What reads a part of the file, with ImageError for a part that is damaged.

    The library raises nearly anything there: errors of its own, of the parser below it, and of Python.
    """

    @wraps(read)
    def guarded(elf: Elf) -> T:
        try:
            return read(elf)
        except BothworldsError:
            raise
        except Exception as error:
            raise ImageError(f"{elf.path}: damaged ({_first_line(error)}); build the system again") from error

    return guarded


class Elf:
    """An AArch64 ELF file, read once.

    Raises ImageError if the file is missing or no ELF file.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.content = self.path.read_bytes()
            self._file = ELFFile(BytesIO(self.content))
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}; build the system again") from error
        except Exception as error:
            raise ImageError(f"{path}: not an ELF file ({_first_line(error)}); build the system again") from error

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file's content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    @_guarded
    def entry(self) -> int:
        """Virtual address of the entry point."""
        return int(self._file.header["e_entry"])

    @cached_property
    @_guarded
    def sections(self) -> tuple[Section, ...]:
        """Allocated sections in order of address."""
        found = []
        for section in self._file.iter_sections():
            flags = int(section["sh_flags"])
            if flags & _ALLOCATED:
                empty = section["sh_type"] == "SHT_NOBITS"
                found.append(
                    Section(
                        section.name,
                        int(section["sh_addr"]),
                        int(section["sh_size"]),
                        bool(flags & _EXECUTABLE),
                        bool(flags & _WRITABLE),
                        b"" if empty else section.data(),
                    )
                )
        return tuple(sorted(found, key=lambda section: section.address))

    @cached_property
    @_guarded
    def segments(self) -> tuple[Segment, ...]:
        """Loaded segments in file order."""
        return tuple(
            Segment(int(s["p_vaddr"]), int(s["p_paddr"]), int(s["p_memsz"]), s.data())
            for s in self._file.iter_segments()
            if s["p_type"] == "PT_LOAD"
        )

    @cached_property
    @_guarded
    def _all_symbols(self) -> tuple[Symbol, ...]:
        table = self._file.get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            raise ImageError(f"{self.path}: no symbol table; build it without stripping")
        return tuple(
            Symbol(s.name, int(s["st_value"]), int(s["st_size"]), str(s["st_info"]["type"]).removeprefix("STT_"))
            for s in table.iter_symbols()
            if s.name and s["st_shndx"] != "SHN_UNDEF" and s["st_info"]["type"] != "STT_FILE"
        )

    @cached_property
    def symbols(self) -> dict[str, Symbol]:
        """Symbols by name; of several static ones with one name, the first."""
        found: dict[str, Symbol] = {}
        for symbol in self._all_symbols:
            if not symbol.name.startswith("$"):
                found.setdefault(symbol.name, symbol)
        return found

    def symbol(self, name: str) -> Symbol:
        """The symbol of that name; ImageError if there is none."""
        if name not in self.symbols:
            raise ImageError(f"{self.path}: no symbol '{name}'; is it the ELF file of this build?")
        return self.symbols[name]

    @cached_property
    def code_ranges(self) -> tuple[tuple[int, int], ...]:
        """Ranges `[start, end)` that hold instructions, by the mapping symbols $x and $d."""
        marks = sorted((s.address, s.name.startswith("$x")) for s in self._all_symbols if s.name[:2] in ("$x", "$d"))
        found = []
        for section in self.sections:
            if not section.executable or not section.data:
                continue
            end = section.address + section.size
            inside = [mark for mark in marks if section.address <= mark[0] < end]
            if not inside or inside[0][0] > section.address:
                inside.insert(0, (section.address, True))
            for (start, code), (stop, _) in zip(inside, [*inside[1:], (end, False)], strict=True):
                if code and stop > start:
                    found.append((start, stop))
        return tuple(found)

    @cached_property
    def _functions(self) -> tuple[list[int], list[Symbol]]:
        """Functions, and labels of hand-written code, by address."""
        ranges = self.code_ranges
        by_address: dict[int, Symbol] = {}
        for symbol in self._all_symbols:
            if symbol.name.startswith("$") or not any(a <= symbol.address < b for a, b in ranges):
                continue
            known = by_address.get(symbol.address)
            if symbol.kind == "FUNC" or (symbol.kind == "NOTYPE" and known is None):
                by_address[symbol.address] = symbol
        addresses = sorted(by_address)
        return addresses, [by_address[a] for a in addresses]

    @property
    def functions(self) -> list[Symbol]:
        """Functions and code labels in order of address."""
        return self._functions[1]

    def function_at(self, address: int) -> Symbol | None:
        """The function or code label that an address belongs to."""
        addresses, symbols = self._functions
        index = bisect_right(addresses, address) - 1
        while index >= 0:
            symbol = symbols[index]
            inside = address < symbol.address + symbol.size
            if inside or (not symbol.size and self._same_range(symbol.address, address)):
                return symbol
            if symbol.size:
                # A label inside of a function lies behind the function that holds the address.
                return None
            index -= 1
        return None

    def _same_range(self, first: int, second: int) -> bool:
        return any(a <= first and second < b for a, b in self.code_ranges)

    def read(self, address: int, size: int) -> bytes:
        """Initial content at a virtual address; ImageError outside of the loaded segments."""
        for segment in self.segments:
            offset = address - segment.virtual
            if offset >= 0 and offset + size <= segment.memory_bytes:
                return segment.data[offset : offset + size].ljust(size, b"\0")
        raise ImageError(f"{self.path}: no segment holds {address:#x}..{address + size:#x}")

    def physical(self, address: int) -> int:
        """Physical address at which a virtual address is loaded; ImageError outside of the segments."""
        for segment in self.segments:
            if 0 <= address - segment.virtual < segment.memory_bytes:
                return segment.physical + address - segment.virtual
        raise ImageError(f"{self.path}: no segment holds {address:#x}")

    @property
    @_guarded
    def dwarf(self) -> Any:
        """The debug information, as pyelftools gives it; ImageError without any."""
        if not self._file.has_dwarf_info():
            raise ImageError(f"{self.path}: no debug information; build it with -g")
        return self._file.get_dwarf_info()

    @cached_property
    @_guarded
    def lines(self) -> LineTable:
        """Source lines of all instructions (empty without debug information)."""
        rows: list[tuple[int, int, int]] = []
        files: dict[str, int] = {"": 0}
        dwarf: Any = self._file.get_dwarf_info() if self._file.has_dwarf_info() else None
        for unit in dwarf.iter_CUs() if dwarf else ():
            program = dwarf.line_program_for_CU(unit)
            if program is None:
                continue
            names: dict[int, int] = {}
            for entry in program.get_entries():
                state = entry.state
                if state is None:
                    continue
                if state.end_sequence:
                    rows.append((state.address, 0, 0))
                    continue
                if state.file not in names:
                    names[state.file] = files.setdefault(file_name(program.header, state.file), len(files))
                rows.append((state.address, state.line or 0, names[state.file]))
        # Of several rows at one address the last one holds, except that an end never hides a line.
        last: dict[int, tuple[int, int, int]] = {}
        for row in rows:
            if row[1] or row[0] not in last:
                last[row[0]] = row
        ordered = [last[a] for a in sorted(last)]
        address, line, file = np.array(ordered, dtype=np.uint64).reshape(-1, 3).T
        return LineTable(address.copy(), line.astype(np.uint32), file.astype(np.uint32), tuple(files))


def file_name(header: Any, index: int) -> str:
    """The file that a number stands for in a unit's line program; empty for a number that it does not have."""
    version = header["version"]
    entries = header["file_entry"]
    position = index if version >= 5 else index - 1
    if not 0 <= position < len(entries):
        return ""
    entry = entries[position]
    directories = header["include_directory"]
    directory = entry.dir_index if version >= 5 else entry.dir_index - 1
    name = str(entry.name.decode(errors="replace"))
    if name.startswith("/") or not 0 <= directory < len(directories):
        return name
    return f"{directories[directory].decode(errors='replace')}/{name}"
