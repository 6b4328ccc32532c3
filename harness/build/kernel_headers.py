# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's generated headers: options, memory map, invocation labels, system call numbers, bitfield accessors.

The kernel's own generators are Python programs that take a second, a third of it to start. Most changes of the kernel's
code leave what they read as it was, so their results are kept in the cache by exactly that.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.build.cache import publish
from harness.build.kernel_tools import CROSS, run_tool, tool_versions
from harness.errors import BuildFailure

OptionValue = bool | int | str

_LIBSEL4 = "source/libsel4"
_LABELS = {
    "arch/api/invocation.h": (["--arch"], f"{_LIBSEL4}/arch_include/arm/interfaces/sel4arch.xml"),
    "arch/api/sel4_invocation.h": (
        ["--sel4_arch"],
        f"{_LIBSEL4}/sel4_arch_include/aarch64/interfaces/sel4arch.xml",
    ),
    "api/invocation.h": ([], f"{_LIBSEL4}/include/interfaces/sel4.xml"),
}
"""Headers with invocation labels: the generator's flags, and the XML that it reads."""
_SYSTEM_CALLS = ("arch/api/syscall.h", "source/include/api/syscall.xml")
_TYPE_NAME = re.compile(rb"^\s*(?:block|tagged_union)\s+(\w+)", re.MULTILINE)
_WORD = re.compile(rb"\w+")


@dataclass(frozen=True)
class HeaderInputs:
    """What headers are generated from beside the source tree.

    `preprocess` are the preprocessor's arguments, `bitfields` bitfield files by the name of what becomes of them below
    generated/, and `others` matches paths of sources that are not the kernel's, as those of other processors.
    """

    options: Mapping[str, OptionValue]
    regions: str
    preprocess: Sequence[str]
    bitfields: Mapping[str, str]
    others: re.Pattern[str]


def write_headers(directory: Path, inputs: HeaderInputs) -> None:
    """Write generated/ beside the patched source/ of a directory; BuildFailure.

    The same inputs give the same bytes, whether the generators run or have run before.
    """
    generated = directory / "generated"
    generated.mkdir()
    lines = ["/* Generated from the machine config. */", "#pragma once"]
    for name, value in inputs.options.items():
        text = f'"{value}"' if isinstance(value, str) else str(int(value))
        lines.append(f"#define CONFIG_{name} {text}")
    (generated / "autoconf.h").write_text("\n".join(lines) + "\n")
    (generated / "platform_regions.h").write_text(inputs.regions)
    for name, bitfields in inputs.bitfields.items():
        (generated / name).parent.mkdir(parents=True, exist_ok=True)
        arguments = [*inputs.preprocess, "-include", "autoconf.h", "-P", bitfields, "-o", f"generated/{name}.pbf"]
        run_tool(directory, [CROSS + "cpp", *arguments])
    pruning = _pruning_sources(directory, inputs.others)
    key = _key(directory, sorted(inputs.bitfields), pruning)
    made = publish(f"headers-{key[:24]}", lambda target: _run_generators(directory, target, inputs.bitfields, pruning))
    for name in _made_by_generators(inputs.bitfields):
        (generated / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made / name, generated / name)


def _made_by_generators(bitfields: Iterable[str]) -> list[str]:
    return [*_LABELS, _SYSTEM_CALLS[0], *(f"{name}_gen.h" for name in bitfields)]


def _key(directory: Path, bitfields: Sequence[str], pruning: Sequence[str]) -> str:
    """SHA-256 of what the generators depend on."""
    read = [xml for _, xml in _LABELS.values()] + [_SYSTEM_CALLS[1]]
    read += [f"generated/{name}.pbf" for name in bitfields]
    read += sorted(path.relative_to(directory).as_posix() for path in (directory / "source/tools").glob("*.py"))
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(repr((sys.version, tool_versions(), bitfields)).encode())
    for name in read:
        try:
            content = (directory / name).read_bytes()
        except FileNotFoundError as error:
            raise BuildFailure(f"kernel build: the source tree has no {name.removeprefix('source/')}") from error
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    digest.update(b"\0".join(_accessors_used(directory, bitfields, pruning)))
    return digest.hexdigest()


def _accessors_used(directory: Path, bitfields: Sequence[str], pruning: Sequence[str]) -> list[bytes]:
    """All words of the sources in which the name of an accessor may lie, sorted.

    An accessor is kept if some source has its name, be it within a longer word or a comment. Each name begins with
    that of a bitfield type and an underscore.
    """
    types: set[bytes] = set()
    for name in bitfields:
        types.update(_TYPE_NAME.findall((directory / f"generated/{name}.pbf").read_bytes()))
    words: set[bytes] = set()
    for path in pruning:
        words.update(_WORD.findall((directory / path).read_bytes()))
    accessor = re.compile(b"(?:%s)_" % b"|".join(sorted(types)))
    return sorted(word for word in words if accessor.search(word))


def _run_generators(directory: Path, target: Path, bitfields: Mapping[str, str], pruning: Sequence[str]) -> None:
    """Let the generators read the directory's sources, and put what they write into `target`."""
    for name in _made_by_generators(bitfields):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
    for name, (flags, xml) in _LABELS.items():
        _run(directory, "invocation_header_gen.py", [*flags, "--xml", xml, "--dest", str(target / name)])
    header, xml = _SYSTEM_CALLS
    _run(directory, "syscall_header_gen.py", ["--xml", xml, "--kernel_header", str(target / header)])
    prunes = [argument for path in pruning for argument in ("--prune", path)]
    for name in bitfields:
        accessors = target / f"{name}_gen.h"
        _run(directory, "bitfield_gen.py", [f"generated/{name}.pbf", str(accessors), *prunes])
        # The generator makes the include guard out of the absolute path.
        text = accessors.read_text()
        guard = text.split(maxsplit=2)[1]
        accessors.write_text(text.replace(guard, f"GENERATED_{name.replace('/', '_').upper()}_H"))


def _pruning_sources(directory: Path, others: re.Pattern[str]) -> list[str]:
    """Files whose use of an accessor keeps it in the generated headers, relative to `directory`."""
    found = []
    for top in ("source/src", "source/include"):
        for path in (directory / top).rglob("*.[chS]"):
            name = path.relative_to(directory).as_posix()
            if not others.search(name):
                found.append(name)
    return sorted(found)


def _run(directory: Path, name: str, arguments: list[str]) -> None:
    run_tool(directory, [sys.executable, f"source/tools/{name}", *arguments])
