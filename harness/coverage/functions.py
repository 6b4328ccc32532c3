# SPDX-License-Identifier: BSD-2-Clause
"""Source functions of an ELF file, inlined ones too: which of them an instruction belongs to.

The compiler inlines most of the kernel into a few dozen functions. Whoever reads the source
wants to know of the functions that are written there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.kernel_state.elf import Elf, file_name

_HEADER = ".h"


@dataclass(frozen=True)
class Function:
    """A function as it is written in the source; `line` is where it begins."""

    name: str
    file: str
    line: int


@dataclass(frozen=True)
class Frame:
    """A source line within a function: where an instruction is, or where an inlined function is called."""

    function: Function
    file: str
    line: int


@dataclass
class _Scope:
    """A function, or one inlined copy of it, and what is inlined into that."""

    function: Function
    ranges: list[tuple[int, int]]
    call_file: str = ""
    call_line: int = 0
    inner: list[_Scope] = field(default_factory=list)

    def holds(self, address: int) -> bool:
        return any(start <= address < end for start, end in self.ranges)


class SourceFunctions:
    """The functions of one ELF file, from its debug information and, for assembler code, its symbols."""

    def __init__(self, elf: Elf) -> None:
        self._elf = elf
        self._known: dict[int, Function] = {}
        self._files: dict[int, Any] = {}
        scopes = []
        dwarf = elf.dwarf
        self._ranges = dwarf.range_lists()
        for unit in dwarf.iter_CUs():
            self._header = dwarf.line_program_for_CU(unit).header
            for die in unit.get_top_DIE().iter_children():
                if die.tag == "DW_TAG_subprogram" and (ranges := self._ranges_of(die)):
                    scope = _Scope(self._function(die), ranges)
                    self._inlined(die, scope)
                    scopes.append(scope)
        self._scopes = scopes
        parts = [(start, end, scope) for scope in scopes for start, end in scope.ranges]
        self._parts = sorted(parts, key=lambda part: part[0])
        self._starts = [start for start, _, _ in self._parts]

    def frames(self, address: int) -> tuple[Frame, ...]:
        """Where an instruction is: innermost function first, each further frame is the caller it is inlined into.

        Empty where neither debug information nor symbols say anything.
        """
        index = bisect_right(self._starts, address) - 1
        place = self._elf.lines.at(address) or ("", 0)
        if index < 0 or address >= self._parts[index][1]:
            symbol = self._elf.function_at(address)
            return () if symbol is None else (Frame(self._labelled(symbol.name, symbol.address), *place),)
        scope: _Scope | None = self._parts[index][2]
        nested = []
        while scope is not None:
            nested.append(scope)
            scope = next((inner for inner in scope.inner if inner.holds(address)), None)
        frames = []
        for scope in reversed(nested):
            frames.append(Frame(scope.function, *place))
            place = (scope.call_file, scope.call_line)
        return tuple(frames)

    def all(self) -> Iterator[Function]:
        """Every function that has code of its own or is inlined somewhere, each once."""
        seen: set[Function] = set()
        waiting = list(self._scopes)
        while waiting:
            scope = waiting.pop()
            waiting += scope.inner
            if scope.function not in seen:
                seen.add(scope.function)
                yield scope.function

    def _inlined(self, die: Any, into: _Scope) -> None:
        for child in die.iter_children():
            if child.tag == "DW_TAG_inlined_subroutine":
                attributes = child.attributes
                scope = _Scope(
                    self._function(child),
                    self._ranges_of(child),
                    self._file(attributes["DW_AT_call_file"].value) if "DW_AT_call_file" in attributes else "",
                    attributes["DW_AT_call_line"].value if "DW_AT_call_line" in attributes else 0,
                )
                into.inner.append(scope)
                self._inlined(child, scope)
            elif child.tag == "DW_TAG_lexical_block":
                self._inlined(child, into)

    def _function(self, die: Any) -> Function:
        while "DW_AT_name" not in die.attributes or "DW_AT_decl_line" not in die.attributes:
            if "DW_AT_abstract_origin" in die.attributes:
                die = die.get_DIE_from_attribute("DW_AT_abstract_origin")
            elif "DW_AT_specification" in die.attributes:
                die = die.get_DIE_from_attribute("DW_AT_specification")
            else:
                # The assembler names its functions but not their lines.
                address = die.attributes["DW_AT_low_pc"].value
                return self._labelled(_text(die.attributes["DW_AT_name"].value), address)
        if die.offset not in self._known:
            attributes = die.attributes
            file = self._file(attributes["DW_AT_decl_file"].value)
            name = _text(attributes["DW_AT_name"].value)
            self._known[die.offset] = Function(name, file, attributes["DW_AT_decl_line"].value)
        return self._known[die.offset]

    def _labelled(self, name: str, address: int) -> Function:
        file, line = self._elf.lines.at(address) or ("", 0)
        return Function(name, file, line)

    def _file(self, index: int) -> str:
        return file_name(self._header, index)

    def _ranges_of(self, die: Any) -> list[tuple[int, int]]:
        attributes = die.attributes
        if "DW_AT_low_pc" in attributes and "DW_AT_high_pc" in attributes:
            start, high = attributes["DW_AT_low_pc"].value, attributes["DW_AT_high_pc"]
            return [(start, high.value if high.form == "DW_FORM_addr" else start + high.value)]
        if "DW_AT_ranges" not in attributes:
            return []
        base = die.cu.get_top_DIE().attributes.get("DW_AT_low_pc")
        origin = base.value if base else 0
        found = []
        for entry in self._ranges.get_range_list_at_offset(attributes["DW_AT_ranges"].value, cu=die.cu):
            if hasattr(entry, "base_address"):
                origin = entry.base_address
            else:
                offset = 0 if getattr(entry, "is_absolute", False) else origin
                found.append((offset + entry.begin_offset, offset + entry.end_offset))
        return found


def written_function(frames: tuple[Frame, ...]) -> Frame | None:
    """The frame whose function a block is counted for: the innermost one that is not from a header.

    Accessors and other small helpers of headers are inlined into nearly every line; they count for their caller.
    """
    for frame in frames:
        if not frame.function.file.endswith(_HEADER):
            return frame
    return frames[-1] if frames else None


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
