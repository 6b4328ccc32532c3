# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's own interface descriptions: libsel4's XML files, as written there."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildFailure

XML_FILES = (
    "libsel4/include/interfaces/sel4.xml",
    "libsel4/sel4_arch_include/aarch64/interfaces/sel4arch.xml",
    "libsel4/arch_include/arm/interfaces/sel4arch.xml",
)
"""In the order in which their labels are numbered."""
SYSCALL_XML = "libsel4/include/api/syscall.xml"


@dataclass(frozen=True)
class Method:
    """One method of the XML files, as written there."""

    interface: str
    name: str
    label_name: str
    condition: str
    inputs: tuple[tuple[str, str], ...]
    """(type, name) of each input parameter."""


def holds(condition: str, macros: Mapping[str, int]) -> bool:
    """Whether a preprocessor condition of the XML files holds: `defined(X)`, `defined X`, `X > n`, joined by && or ||.

    Raises BuildFailure for a condition of another form.
    """
    if not condition.strip():
        return True
    for operator, combine in (("||", any), ("&&", all)):
        if operator in condition:
            return combine(holds(part, macros) for part in condition.split(operator))
    text = condition.strip()
    if match := re.fullmatch(r"(!?)\s*defined\s*\(?\s*(\w+)\s*\)?", text):
        return (match[2] in macros) != bool(match[1])
    if match := re.fullmatch(r"(\w+)\s*(>|==)\s*(\d+)", text):
        value = macros.get(match[1], 0)
        return value > int(match[3]) if match[2] == ">" else value == int(match[3])
    raise BuildFailure(f"the interface description has a condition that is not understood: '{condition}'")


def read_methods(source: Path) -> tuple[list[Method], dict[str, list[str]]]:
    """Every method of the kernel's XML files in the order of their labels, and the members of each structure."""
    methods: list[Method] = []
    structures: dict[str, list[str]] = {}
    for name in XML_FILES:
        path = source / name
        try:
            root = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError) as error:
            raise BuildFailure(f"{path}: the interface description cannot be read: {error}") from error
        for structure in root.iter("struct"):
            structures[structure.attrib["name"]] = [member.attrib["name"] for member in structure.iter("member")]
        for interface in root.iter("interface"):
            for method in interface.iter("method"):
                inputs = [(p.attrib["type"], p.attrib["name"]) for p in method.iter("param") if p.attrib["dir"] == "in"]
                methods.append(
                    Method(
                        interface.attrib["name"],
                        method.attrib["name"],
                        method.attrib["id"],
                        method.attrib.get("condition", ""),
                        tuple(inputs),
                    )
                )
    return methods, structures


def read_syscalls(source: Path, macros: Mapping[str, int]) -> dict[str, int]:
    """Numbers of the system calls: -1, -2, ... in the order of `syscall.xml`, conditions applied."""
    path = source / SYSCALL_XML
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise BuildFailure(f"{path}: the list of system calls cannot be read: {error}") from error
    numbers: dict[str, int] = {}
    for config in root.iter("config"):
        if holds(config.attrib.get("condition", ""), macros):
            for syscall in config.iter("syscall"):
                numbers[syscall.attrib["name"]] = -1 - len(numbers)
    return numbers
