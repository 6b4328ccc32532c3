# SPDX-License-Identifier: BSD-2-Clause
"""Small changes of the kernel's C source, each of which is a mutant.

Five operators: a condition is negated (or `&&` and `||` exchanged), a statement dropped, a bound
moved by one, two arguments of a call exchanged, a constant replaced by another. What is only said
to people (printing, assertions) is left alone. Mutants are chosen evenly over files and operators,
from a seed.
"""

from __future__ import annotations

import difflib
import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

import tree_sitter_c
from tree_sitter import Language, Node, Parser

FILES = (
    "src/object/cnode.c",
    "src/object/untyped.c",
    "src/object/objecttype.c",
    "src/object/tcb.c",
    "src/object/endpoint.c",
    "src/object/notification.c",
    "src/object/interrupt.c",
    "src/arch/arm/64/kernel/vspace.c",
    "src/arch/arm/64/object/objecttype.c",
    "src/arch/arm/64/object/smc.c",
    "src/arch/arm/64/machine/fpu.c",
    "src/arch/arm/kernel/boot.c",
    "src/kernel/boot.c",
    "src/kernel/thread.c",
    "include/object/world.h",
)
"""What the patches of the series change, drivers and entry code left out, and the main paths that it relies on."""

SILENT_CALLS = frozenset({"assert", "printf", "userError", "fail", "halt", "compile_assert", "UNREACHABLE"})
"""Calls whose arguments and presence say something to people only."""

_OFF_BY_ONE = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_LOGIC = {"&&": "||", "||": "&&"}
_EXCHANGED = {
    "true": "false",
    "false": "true",
    "EXCEPTION_NONE": "EXCEPTION_SYSCALL_ERROR",
    "seL4_NoError": "seL4_IllegalOperation",
    "seL4_IllegalOperation": "seL4_InvalidArgument",
    "seL4_InvalidArgument": "seL4_InvalidCapability",
    "seL4_InvalidCapability": "seL4_InvalidArgument",
    "seL4_FailedLookup": "seL4_InvalidArgument",
    "seL4_DeleteFirst": "seL4_IllegalOperation",
    "ThreadState_Inactive": "ThreadState_Restart",
    "ThreadState_Restart": "ThreadState_Running",
    "ThreadState_Running": "ThreadState_Restart",
    "wordBits": "(wordBits - 1)",
}
"""Names of constants, and the wrong ones that stand for them."""
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+|\d+)([uUlL]*)")


class Operator(StrEnum):
    """What is done to the source."""

    NEGATE = "negate"
    DROP = "drop"
    BOUND = "bound"
    SWAP = "swap"
    CONSTANT = "constant"


@dataclass(frozen=True)
class Mutant:
    """One change: bytes `start` to `end` of `file` become `after`. `line` counts from 1.

    `change` tells the lines before and after it as one line. `number` counts equal changes of one function, from 1:
    with it, what names a mutant stays the same when lines move.
    """

    file: str
    function: str
    line: int
    operator: Operator
    start: int
    end: int
    after: str
    change: str
    number: int = 1

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What it is, wherever its lines are: file, function, operator, change, number."""
        return (self.file, self.function, self.operator.value, self.change, self.number)

    @property
    def name(self) -> str:
        """A short name that stays the same as long as the changed lines do."""
        digest = hashlib.sha256("\n".join(map(str, self.key)).encode()).hexdigest()[:8]
        return f"{Path(self.file).stem}-{self.function}-{self.operator}-{digest}"

    def patch(self, tree: Path) -> str:
        """The mutant as a patch of a tree."""
        content = (tree / self.file).read_bytes()
        changed = content[: self.start] + self.after.encode() + content[self.end :]
        old, new = (text.decode("utf-8", "surrogateescape").splitlines(True) for text in (content, changed))
        head = f"SPDX-License-Identifier: GPL-2.0-only\nSubject: Mutant {self.name}\n\n{self.change}\n\n"
        return head + "".join(difflib.unified_diff(old, new, f"a/{self.file}", f"b/{self.file}"))


def mutants(tree: Path, lines: Mapping[str, Collection[int]], files: Sequence[str] = FILES) -> list[Mutant]:
    """Every mutant of a tree's files whose line is in `lines` (numbers of the lines that have code, by file)."""
    parser = Parser(Language(tree_sitter_c.language()))
    found: list[Mutant] = []
    for file in files:
        if not (tree / file).is_file():
            continue
        content = (tree / file).read_bytes()
        # Function bodies only: what stands outside is declarations.
        for function in _functions(parser.parse(content).root_node):
            name = _name(function)
            body = function.child_by_field_name("body")
            if name is None or body is None:
                continue
            for node in _nodes(body):
                line = node.start_point[0] + 1
                if line not in lines.get(file, ()):
                    continue
                for operator, changed, after in _changes(node):
                    start, end = changed.start_byte, changed.end_byte
                    change = _change(content, start, end, after)
                    found.append(Mutant(file, name, line, operator, start, end, after, change))
    return _numbered(found)


def choose(candidates: Sequence[Mutant], seed: int) -> list[Mutant]:
    """All of them in an order of which every beginning is even over files and operators; the seed decides the rest."""
    shuffled = random.Random(seed)
    piles: dict[tuple[str, str], list[Mutant]] = defaultdict(list)
    for mutant in sorted(candidates, key=lambda mutant: mutant.key):
        piles[mutant.file, mutant.operator].append(mutant)
    order = sorted(piles)
    for key in order:
        shuffled.shuffle(piles[key])
    shuffled.shuffle(order)
    chosen: list[Mutant] = []
    while len(chosen) < len(candidates):
        chosen += [piles[key].pop() for key in order if piles[key]]
    return chosen


def _numbered(found: Sequence[Mutant]) -> list[Mutant]:
    seen: Counter[tuple[str, ...]] = Counter()
    result = []
    for mutant in found:
        same = (mutant.file, mutant.function, mutant.operator.value, mutant.change)
        seen[same] += 1
        result.append(replace(mutant, number=seen[same]))
    return result


def _change(content: bytes, start: int, end: int, after: str) -> str:
    """The whole lines around a change, before and after it, each as one line."""
    first = content.rfind(b"\n", 0, start) + 1
    last = content.find(b"\n", end)
    last = len(content) if last < 0 else last
    old = content[first:last].decode("utf-8", "replace")
    new = (content[first:start] + after.encode() + content[end:last]).decode("utf-8", "replace")
    return f"{_one_line(old)} => {_one_line(new)}"


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _functions(node: Node) -> Iterator[Node]:
    """All functions; where `#if` splits the braces of one, those behind it look as if they were inside of it."""
    for child in node.children:
        if child.type == "function_definition":
            yield child
            if child.has_error:
                yield from _functions(child)
        elif child.has_error or child.type.startswith("preproc_"):
            yield from _functions(child)


def _name(function: Node) -> str | None:
    node = function.child_by_field_name("declarator")
    while node is not None and node.type != "identifier":
        node = node.child_by_field_name("declarator")
    return _text(node) or None


def _nodes(node: Node) -> Iterator[Node]:
    """A node and all below it, silent calls and other functions left out."""
    if node.type == "call_expression" and _called(node) in SILENT_CALLS:
        return
    yield node
    for child in node.children:
        if child.type != "function_definition":
            yield from _nodes(child)


def _text(node: Node | None) -> str:
    return node.text.decode("utf-8", "replace") if node is not None and node.text is not None else ""


def _called(call: Node) -> str:
    return _text(call.child_by_field_name("function"))


def _changes(node: Node) -> Iterator[tuple[Operator, Node, str]]:
    """What can be done at a node: the operator, the node that is replaced, and by what."""
    if node.type in ("if_statement", "conditional_expression"):
        condition = node.child_by_field_name("condition")
        # What only tests the configuration is a comment of a kind.
        if condition is not None and "config_set" not in _text(condition):
            yield Operator.NEGATE, condition, f"(!({_text(condition)}))"
    elif node.type == "binary_expression":
        sign = node.child_by_field_name("operator")
        text = _text(sign)
        if sign is not None and text in _LOGIC:
            left, right = (_text(node.child_by_field_name(side)) for side in ("left", "right"))
            # In parentheses, or the compiler asks for some.
            yield Operator.NEGATE, node, f"(({left}) {_LOGIC[text]} ({right}))"
        elif sign is not None and text in _OFF_BY_ONE:
            yield Operator.BOUND, sign, _OFF_BY_ONE[text]
    elif node.type == "expression_statement":
        inner = node.named_children[0] if node.named_children else None
        if inner is not None and not (inner.type == "call_expression" and _called(inner) in SILENT_CALLS):
            yield Operator.DROP, node, ";"
    elif node.type == "break_statement":
        yield Operator.DROP, node, ";"
    elif node.type == "argument_list":
        whole, start = node.text or b"", node.start_byte
        for first, second in pairwise(node.named_children):
            if _text(first) != _text(second):
                before, after = whole[: first.start_byte - start].decode(), whole[second.end_byte - start :].decode()
                yield Operator.SWAP, node, f"{before}{_text(second)}, {_text(first)}{after}"
    elif node.type == "number_literal":
        if number := _NUMBER.fullmatch(_text(node)):
            digits = number[1]
            value = int(digits, 16 if digits[:2].lower() == "0x" else 10) + 1
            yield Operator.CONSTANT, node, (f"{value:#x}" if digits[:2].lower() == "0x" else str(value)) + number[2]
    elif node.type in ("true", "false", "identifier") and _text(node) in _EXCHANGED:
        yield Operator.CONSTANT, node, _EXCHANGED[_text(node)]
