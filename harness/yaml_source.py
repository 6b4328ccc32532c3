# SPDX-License-Identifier: BSD-2-Clause
"""YAML files read by people: plain data plus the line of every field, for error messages.

Safe tags only, duplicate keys refused, and no input (random, truncated, recursive, huge) ends in
anything but the caller's own error class.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import InputError

MAXIMUM_BYTES = 4 << 20
"""A larger file is not something that a person wrote."""
MAXIMUM_DEPTH = 64
MAXIMUM_NODES = 1 << 20
"""Nodes after aliases are followed: bounds files whose aliases multiply."""


@dataclass(frozen=True)
class YamlSource:
    """One parsed file: `data` as plain Python, and where each part of it stands."""

    path: Path
    data: Any
    _root: yaml.Node | None

    def line(self, location: Sequence[Hashable]) -> int:
        """Line (from 1) of the field that `location` (keys and indices from the root) leads to.

        Where the location ends early, as for a field that is missing, the line of the last part that exists.
        """
        node = self._root
        line = node.start_mark.line + 1 if node else 1
        for step in location:
            found: yaml.Node | None = None
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if isinstance(key, yaml.ScalarNode) and key.value == str(step):
                        found, line = value, key.start_mark.line + 1
                        break
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                found = node.value[step]
                line = found.start_mark.line + 1
            if found is None:
                break
            node = found
        return line


def _check(path: Path, root: yaml.Node, error: type[InputError]) -> None:
    """Refuse duplicate keys, and structures without an end (an alias inside what it names)."""
    nodes = 0
    stack: list[tuple[yaml.Node, int]] = [(root, 0)]
    while stack:
        node, depth = stack.pop()
        nodes += 1
        line = node.start_mark.line + 1
        if depth > MAXIMUM_DEPTH:
            raise error(f"{path}:{line}: nested deeper than {MAXIMUM_DEPTH} levels (an alias inside what it names?)")
        if nodes > MAXIMUM_NODES:
            raise error(f"{path}:{line}: more than {MAXIMUM_NODES} values once aliases are followed")
        if isinstance(node, yaml.SequenceNode):
            stack += [(child, depth + 1) for child in node.value]
        elif isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                key_line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    raise error(f"{path}:{key_line}: a field's name must be plain text")
                if key.value in seen:
                    first = seen[key.value]
                    raise error(f"{path}:{key_line}: field '{key.value}' appears twice (first in line {first})")
                seen[key.value] = key_line
                stack.append((value, depth + 1))


def read_yaml(path: Path, error: type[InputError]) -> YamlSource:
    """Read a YAML file; raises `error` with file and line for whatever is wrong with it."""
    try:
        if path.stat().st_size > MAXIMUM_BYTES:
            raise error(f"{path}: larger than {MAXIMUM_BYTES >> 20} MiB: this is no file of this kind")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not a text file (byte {problem.start} is not UTF-8)") from problem
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from problem
    return parse_yaml(text, path, error)


def parse_yaml(text: str, path: Path, error: type[InputError]) -> YamlSource:
    """Parse YAML text; `path` is what messages call it."""
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)  # checks the characters
        root = loader.get_single_node()
        if root is None:
            return YamlSource(path, None, None)
        _check(path, root, error)
        return YamlSource(path, loader.construct_document(root), root)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = mark.line + 1 if mark else 1
        raise error(f"{path}:{line}: not YAML: {problem.problem or problem.context}") from problem
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError) as problem:
        # Values that look like a date or number and are none, characters that YAML forbids, endless nesting.
        first = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise error(f"{path}: not usable YAML: {first}") from problem
    finally:
        if loader is not None:
            loader.dispose()
