# SPDX-License-Identifier: BSD-2-Clause
"""The blocks of one ELF file: where they begin, where control goes from them, when they can run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import IntEnum
from functools import cached_property

import capstone

from harness.build.dead_ends import Block, halting, never_returning
from harness.kernel_state.elf import Elf

_CONDITIONAL = {"cbz", "cbnz", "tbz", "tbnz"}
_ENDS = {"b", "br", "ret", "eret", "brk", "hlt", "udf"}
_PADDING = {"nop", "udf"}
_HALTS = {"halt", "_fail", "_assert_fail", "panic"}
"""Functions in which kernel and firmware end after a failed assertion or an exception of their own."""
_LAST_IMMEDIATE = re.compile(r"#(0x[0-9a-f]+|\d+)$")
_TABLE_WINDOW = 48
_VECTORS = 16
_VECTOR_BYTES = 0x80


class Phase(IntEnum):
    """When a block can run."""

    RUNTIME = 0
    """Reached from an exception vector."""
    BOOT = 1
    """Reached from the entry point only."""
    UNUSED = 2
    """Reached from neither."""


class CodeBlocks:
    """The blocks of one ELF file."""

    def __init__(self, elf: Elf, prefixes: Sequence[str]) -> None:
        self.elf = elf
        self._prefixes = prefixes
        disassembler = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
        disassembler.skipdata = True
        self._code: list[tuple[int, str, str]] = []
        for start, end in elf.code_ranges:
            data = elf.read(start, end - start)
            self._code += [(a, name, operands) for a, _, name, operands in disassembler.disasm_lite(data, start)]
        self._position = {row[0]: i for i, row in enumerate(self._code)}
        self._range_ends = {end for _, end in elf.code_ranges}
        self.edges: list[tuple[int, int, bool]] = []
        """Two leaders, and whether it is a branch or the next block; like `roots`, known once `blocks` has run."""
        self.roots: list[int] = []

    def shorten(self, path: str) -> str:
        """A source path without the prefix of the source tree."""
        for prefix in self._prefixes:
            if path.startswith(prefix.rstrip("/") + "/"):
                return path[len(prefix.rstrip("/")) + 1 :]
        return path

    @cached_property
    def _vectors(self) -> list[int]:
        """Entries of the exception vector tables, which are known by alignment and name."""
        found = []
        for symbol in self.elf.symbols.values():
            if "vector" in symbol.name and symbol.address % (_VECTORS * _VECTOR_BYTES) == 0:
                found += [symbol.address + i * _VECTOR_BYTES for i in range(_VECTORS)]
        return [address for address in found if address in self._position]

    def blocks(self) -> Iterable[tuple[int, int, Phase, bool]]:
        """Leader, size, phase of each block in order of address, and whether it only leads to a halt."""
        jumps = self._jump_tables()
        split = self._split(jumps, never_returning(self._split(jumps, set())))
        halts = halting(split, [start for start in split if self._named(start) in _HALTS])
        self.roots = self._runtime_roots(split)
        self.edges = [
            (start, target, target in block.ways) for start, block in split.items() for target in block.successors
        ]
        runtime = self._reached(split, self.roots)
        boot = self._reached(split, [self.elf.entry])
        for start in sorted(split):
            phase = Phase.RUNTIME if start in runtime else Phase.BOOT if start in boot else Phase.UNUSED
            if phase != Phase.UNUSED or not split[start].padding:
                yield start, split[start].size, phase, start in halts

    def _named(self, address: int) -> str:
        symbol = self.elf.function_at(address)
        return symbol.name if symbol else ""

    def _split(self, jumps: dict[int, list[int]], never: set[int]) -> dict[int, Block]:
        """The blocks by leader; a call of a function of `never` ends its block."""
        leaders = {function.address for function in self.elf.functions} | {start for start, _ in self.elf.code_ranges}
        leaders.update(self._vectors)
        ends: set[int] = set()
        for address, mnemonic, operands in self._code:
            target = _branch_target(mnemonic, operands)
            if target is not None:
                leaders.add(target)
            if mnemonic in _ENDS or (mnemonic == "bl" and target in never):
                ends.add(address)
                leaders.add(address + 4)
            elif target is not None and mnemonic != "bl":
                leaders.add(address + 4)
        for targets in jumps.values():
            leaders.update(targets)
        blocks: dict[int, Block] = {}
        block: Block | None = None
        pages: dict[str, int] = {}
        for address, mnemonic, operands in self._code:
            if address in leaders:
                if block is not None and block.start + block.size == address:
                    block.ways.append(address)
                block = blocks[address] = Block(address)
                pages = {}
            if block is None:
                continue
            block.size += 4
            block.padding &= mnemonic in _PADDING
            target = _branch_target(mnemonic, operands)
            if target is not None:
                (block.calls if mnemonic == "bl" else block.ways).append(target)
            block.taken += self._addresses_taken(mnemonic, operands, pages)
            block.ways += jumps.get(address, [])
            block.returns |= mnemonic == "ret" or (mnemonic == "br" and address not in jumps)
            if address in ends or address + 4 in self._range_ends:
                block = None
        return blocks

    def _addresses_taken(self, mnemonic: str, operands: str, pages: dict[str, int]) -> list[int]:
        """Code addresses that an instruction materialises (a function pointer, a literal)."""
        if mnemonic == "adrp":
            pages[operands.split(",")[0]] = int(operands.rsplit("#", 1)[1], 0)
        elif mnemonic == "adr":
            return [int(operands.rsplit("#", 1)[1], 0)]
        elif mnemonic == "add" and operands.count(",") == 2 and "#" in operands:
            _, source, value = (part.strip() for part in operands.split(","))
            if source in pages and value.startswith("#"):
                return [pages[source] + int(value[1:], 0)]
        elif mnemonic == "ldr" and ", #" in operands and "[" not in operands:
            literal = int(operands.rsplit("#", 1)[1], 0)
            return [int.from_bytes(self.elf.read(literal, 8), "little")]
        return []

    def _runtime_roots(self, split: dict[int, Block]) -> list[int]:
        roots = list(self._vectors)
        if not roots:
            return list(split)
        # A thread that the boot code creates runs later: its entry is a function whose address boot takes.
        entries = {function.address for function in self.elf.functions if function.kind == "FUNC"}
        for block in split.values():
            if self._boot_section(block.start):
                position = self._position[block.start]
                pages: dict[str, int] = {}
                for _, mnemonic, operands in self._code[position : position + block.size // 4]:
                    for taken in self._addresses_taken(mnemonic, operands, pages):
                        if taken in entries and not self._boot_section(taken):
                            roots.append(taken)
        return roots

    def _boot_section(self, address: int) -> bool:
        return any(s.name.startswith(".boot") and s.address <= address < s.address + s.size for s in self.elf.sections)

    @staticmethod
    def _reached(split: dict[int, Block], roots: Sequence[int]) -> set[int]:
        reached: set[int] = set()
        waiting = [root for root in roots if root in split]
        while waiting:
            start = waiting.pop()
            if start not in reached:
                reached.add(start)
                waiting += [s for s in split[start].successors if s in split and s not in reached]
        return reached

    def _jump_tables(self) -> dict[int, list[int]]:
        """Targets of each computed branch that a compiler made for a switch statement."""
        tables: dict[int, tuple[int, int, int, int | None]] = {}
        for position, (address, mnemonic, operands) in enumerate(self._code):
            if mnemonic == "br":
                found = self._table_before(position, operands.strip())
                if found is not None:
                    tables[address] = found
        limits = sorted({t[0] for t in tables.values()} | {s.address for s in self.elf.symbols.values()})
        result: dict[int, list[int]] = {}
        for address, (table, width, base, entries) in tables.items():
            if entries is None:
                behind = [limit for limit in limits if limit > table]
                entries = min((behind[0] - table) // width if behind else 1, 256)
            function = self.elf.function_at(address)
            targets = []
            for index in range(entries):
                offset = int.from_bytes(self.elf.read(table + index * width, width), "little", signed=True)
                target = base + 4 * offset
                if target in self._position and self.elf.function_at(target) == function:
                    targets.append(target)
            result[address] = sorted(set(targets))
        return result

    def _table_before(self, position: int, register: str) -> tuple[int, int, int, int | None] | None:
        """Table address, entry bytes, base and number of entries, from the code ahead of a `br`."""
        sum_register, base_register, offset_register, table_register, index_register = register, "", "", "", ""
        base = table = page = None
        width = 0
        for _, mnemonic, operands in reversed(self._code[max(0, position - _TABLE_WINDOW) : position]):
            parts = [part.strip(" []") for part in operands.split(",")]
            if mnemonic == "add" and parts[0] == sum_register and len(parts) == 4 and parts[3].startswith("sxt"):
                base_register, offset_register, sum_register = parts[1], parts[2], ""
            elif base is None and base_register and mnemonic == "adr" and parts[0] == base_register:
                base = int(parts[1].lstrip("#"), 0)
            elif not width and offset_register and mnemonic in ("ldrb", "ldrh", "ldr") and parts[0] == offset_register:
                width = {"ldrb": 1, "ldrh": 2, "ldr": 4}[mnemonic]
                table_register, index_register = parts[1], parts[2]
            elif table is None and table_register and parts[0] == table_register and mnemonic in ("add", "adrp"):
                if mnemonic == "add" and page is None and parts[2].startswith("#"):
                    page = int(parts[2][1:], 0)
                    table_register = parts[1]
                elif mnemonic == "adrp":
                    table = int(parts[1].lstrip("#"), 0) + (page or 0)
            elif table is not None and base is not None and mnemonic == "cmp" and parts[0] == index_register:
                if parts[1].startswith("#"):
                    return table, width, base, int(parts[1][1:], 0) + 1
                break
        if base is None or table is None or not width:
            return None
        return table, width, base, None


def _branch_target(mnemonic: str, operands: str) -> int | None:
    """Target of a direct branch or call."""
    if mnemonic in ("b", "bl") or mnemonic in _CONDITIONAL or mnemonic.startswith("b."):
        match = _LAST_IMMEDIATE.search(operands)
        return int(match[1], 0) if match else None
    return None
