# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's bit-field language: preprocessed `.pbf` files to field extractors.

A block is a list of fields from the most to the least significant bit; it fills a whole
number of machine words, and word 0 is the least significant one. `field_high` keeps a
field that stands for the upper bits of a `base_bits`-wide value: its lower bits are zero
and bits above `base_bits` repeat the top bit if the base says so (`base 64(49,1)`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import ImageError

_TOKEN = re.compile(r"\s+|--[^\n]*|#[^\n]*|(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+|[A-Za-z_]\w*|[{}(),])")
_ALL = (1 << 64) - 1
_BASES = (8, 16, 32, 64)
"""Bits of a machine word."""

Words = np.ndarray[Any, np.dtype[np.uint64]]
"""Words of one structure, or of many: the last axis counts the words."""


@dataclass(frozen=True)
class Field:
    """Where a field lies and how its value is put together."""

    name: str
    word: int
    shift: int
    bits: int
    left: int = 0
    """Zero bits below a `field_high`."""
    sign_bit: int | None = None
    """Bit of the value that all higher bits repeat."""

    @cached_property
    def mask(self) -> int:
        """Mask of the field's own bits, before they are moved left."""
        return (1 << self.bits) - 1

    def get(self, words: Sequence[int]) -> int:
        """Value in the words of one structure."""
        value = ((int(words[self.word]) >> self.shift) & self.mask) << self.left
        if self.sign_bit is not None and value >> self.sign_bit & 1:
            value |= _ALL & ~((1 << self.sign_bit) - 1)
        return value

    def get_all(self, words: Words) -> Words:
        """Values (u64) of many structures: `words` has shape (..., words), the result (...)."""
        return self.of_word(words[..., self.word])

    def of_word(self, word: Words) -> Words:
        """Values (u64) of the words that hold this field."""
        value = word
        if self.left + self.shift + self.bits == 64 and self.sign_bit is None:
            value = value >> np.uint64(self.shift) << np.uint64(self.left) if self.shift or self.left else value
            return value
        if self.sign_bit is not None and self.sign_bit == self.left + self.bits - 1:
            # Move the field to the top and back with an arithmetic shift: this repeats its sign bit.
            top = 64 - self.bits - self.shift
            moved = (value << np.uint64(top)).view(np.int64) >> np.int64(64 - self.bits)
            return (moved << np.int64(self.left)).view(np.uint64)
        if self.shift:
            value = value >> np.uint64(self.shift)
        if self.shift + self.bits < 64:
            value = value & np.uint64(self.mask)
        return value << np.uint64(self.left) if self.left else value

    def put(self, words: list[int], value: int) -> None:
        """Write a value into the words of one structure (for tests and synthetic states)."""
        stored = (value >> self.left) & self.mask
        words[self.word] = (words[self.word] & ~(self.mask << self.shift) & _ALL) | stored << self.shift


@dataclass(frozen=True)
class Block:
    """A structure of bit fields."""

    name: str
    words: int
    fields: dict[str, Field]

    def __getitem__(self, field: str) -> Field:
        return self.fields[field]

    def __contains__(self, field: str) -> bool:
        return field in self.fields

    def decode(self, words: Sequence[int]) -> dict[str, int]:
        """All fields of one structure by name."""
        return {name: field.get(words) for name, field in self.fields.items()}

    def encode(self, **values: int) -> list[int]:
        """Words of a structure with these field values (the rest zero)."""
        words = [0] * self.words
        for name, value in values.items():
            self.fields[name].put(words, value)
        return words


@dataclass(frozen=True)
class TaggedUnion:
    """Blocks that share words and are told apart by one field."""

    name: str
    tag: Field
    blocks: dict[int, str]
    """Names of the blocks by tag value."""

    @cached_property
    def values(self) -> dict[str, int]:
        """Tag values by name of the block."""
        return {name: value for value, name in self.blocks.items()}


@dataclass(frozen=True)
class BitfieldFile:
    """All blocks and tagged unions of some `.pbf` files."""

    blocks: dict[str, Block]
    unions: dict[str, TaggedUnion]


def parse_files(paths: Sequence[Path]) -> BitfieldFile:
    """Parse `.pbf` files into one set of blocks; ImageError names file and token."""
    blocks: dict[str, Block] = {}
    unions: dict[str, TaggedUnion] = {}
    for path in paths:
        try:
            parsed = parse(path.read_text(encoding="utf-8", errors="replace"), str(path))
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}; build the kernel again") from error
        blocks |= parsed.blocks
        unions |= parsed.unions
    return BitfieldFile(blocks, unions)


def parse(text: str, name: str = "text") -> BitfieldFile:
    """Parse the text of a preprocessed bit-field file; ImageError for anything malformed."""
    return _Parser(text, name).run()


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._tokens: list[tuple[str, int]] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                line = text.count("\n", 0, position) + 1
                raise ImageError(f"{name}:{line}: unexpected character {text[position]!r} in a bit-field file")
            if match[1]:
                self._tokens.append((match[1], text.count("\n", 0, position) + 1))
            position = match.end()
        self._next = 0
        self._base, self._base_bits, self._sign = 64, 64, False
        self._blocks: dict[str, Block] = {}
        self._unions: dict[str, TaggedUnion] = {}

    def _take(self, expected: str | None = None) -> str:
        if self._next >= len(self._tokens):
            raise ImageError(f"{self._name}: the bit-field file ends early")
        token, line = self._tokens[self._next]
        if expected is not None and token != expected:
            raise ImageError(f"{self._name}:{line}: expected '{expected}', found '{token}'")
        self._next += 1
        return token

    def _peek(self) -> str:
        return self._tokens[self._next][0] if self._next < len(self._tokens) else ""

    def _number(self) -> int:
        token = self._take()
        try:
            return int(token, 0)
        except ValueError as error:
            line = self._tokens[self._next - 1][1]
            raise ImageError(f"{self._name}:{line}: expected a number, found '{token}'") from error

    def run(self) -> BitfieldFile:
        while self._next < len(self._tokens):
            word = self._take()
            if word == "base":
                self._base_directive()
            elif word == "block":
                self._block()
            elif word == "tagged_union":
                self._union()
            else:
                line = self._tokens[self._next - 1][1]
                raise ImageError(f"{self._name}:{line}: expected base, block or tagged_union, found '{word}'")
        return BitfieldFile(self._blocks, self._unions)

    def _base_directive(self) -> None:
        self._base = self._number()
        if self._base not in _BASES:
            line = self._tokens[self._next - 1][1]
            raise ImageError(f"{self._name}:{line}: a base of {self._base} bits; it must be one of {_BASES}")
        self._base_bits, self._sign = self._base, False
        if self._peek() == "(":
            self._take("(")
            self._base_bits = self._number()
            self._take(",")
            self._sign = bool(self._number())
            self._take(")")

    def _block(self) -> None:
        name = self._take()
        if self._peek() == "(":
            # The order of the constructor's arguments; the memory layout does not depend on it.
            while self._take() != ")":
                pass
        self._take("{")
        rows: list[tuple[str, str, int]] = []
        while self._peek() != "}":
            kind = self._take()
            if kind == "padding":
                rows.append((kind, "", self._number()))
            elif kind in ("field", "field_high"):
                field = self._take()
                rows.append((kind, field, self._number()))
            else:
                line = self._tokens[self._next - 1][1]
                raise ImageError(f"{self._name}:{line}: block {name}: expected a field, found '{kind}'")
        self._take("}")
        total = sum(bits for _, _, bits in rows)
        if total % self._base:
            raise ImageError(f"{self._name}: block {name} has {total} bits, not a multiple of {self._base}")
        fields: dict[str, Field] = {}
        offset = 0
        for kind, field, bits in reversed(rows):
            if kind != "padding":
                word, shift = divmod(offset, self._base)
                if shift + bits > self._base:
                    raise ImageError(f"{self._name}: field {name}.{field} crosses a word")
                high = kind == "field_high"
                left = self._base_bits - bits if high else 0
                sign = self._base_bits - 1 if high and self._sign else None
                fields[field] = Field(field, word, shift, bits, left, sign)
            offset += bits
        self._blocks[name] = Block(name, total // self._base, fields)

    def _union(self) -> None:
        name, tag_name = self._take(), self._take()
        self._take("{")
        tags: dict[int, str] = {}
        while self._peek() != "}":
            if self._peek() == "mask":
                raise ImageError(f"{self._name}: tagged union {name} has masks, which this reader does not know")
            self._take("tag")
            block = self._take()
            value = self._number()
            if block not in self._blocks or tag_name not in self._blocks[block]:
                raise ImageError(f"{self._name}: tagged union {name}: block {block} has no field {tag_name}")
            tags[value] = block
        self._take("}")
        if not tags:
            raise ImageError(f"{self._name}: tagged union {name} is empty")
        tag = self._blocks[next(iter(tags.values()))][tag_name]
        self._unions[name] = TaggedUnion(name, tag, tags)
