# SPDX-License-Identifier: BSD-2-Clause
"""Builds the program of the normal world, which EL3 enters with NS=1 and its MMU off."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from harness import protocol
from harness.build.artefacts import PROJECT
from harness.build.cache import publish
from harness.build.firmware import machine_header
from harness.configs import MachineConfig
from harness.errors import BuildFailure
from harness.packages import tool

SOURCES = PROJECT / "guest_images" / "normal_world"
COMPILER = "aarch64-linux-gnu-gcc"
LINKER_SCRIPT = "normal_world.lds"
_COMPILE = (
    "-c", "-g", "-O2", "-std=gnu11", "-ffreestanding", "-fno-pic", "-fno-pie", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-mgeneral-regs-only", "-march=armv8-a", "-mstrict-align",
    "-Wall", "-Wextra", "-Werror", "-Wa,--fatal-warnings",
)  # fmt: skip
_LINK = ("-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,--fatal-warnings", "-Wl,--no-warn-rwx-segments")


def build_normal_world(config: MachineConfig) -> Path:
    """Path of the ELF file for a config with a normal world, built or from the cache.

    The same inputs give the same bytes, wherever the checkout lies. Raises BuildFailure with the tools' output,
    MissingPackage without the cross compiler.
    """
    compiler = tool(COMPILER, "it compiles the normal world's program")
    headers = {"protocol.h": protocol.header(), "machine.h": machine_header(config)}
    sources = sorted(path for path in SOURCES.iterdir() if path.suffix in (".S", ".c", ".h", ".lds"))
    digest = hashlib.sha256(repr((_COMPILE, _LINK, _run([compiler, "--version"], SOURCES), headers)).encode())
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    name = f"normal-world-{digest.hexdigest()[:32]}"
    return publish(name, lambda work: _build(compiler, sources, headers, work)) / "normal_world.elf"


def _build(compiler: str, sources: list[Path], headers: dict[str, str], work: Path) -> None:
    for name, text in headers.items():
        (work / name).write_text(text)
    maps = [f"-ffile-prefix-map={PROJECT}=.", f"-ffile-prefix-map={work}=generated"]
    objects: list[str] = []
    for source in sources:
        if source.suffix in (".S", ".c"):
            objects.append(f"{source.stem}.o")
            name = str(source.relative_to(PROJECT))
            _run([compiler, *_COMPILE, *maps, f"-I{work}", "-o", str(work / objects[-1]), name], PROJECT)
    _run(
        [compiler, "-E", "-P", "-x", "c", f"-I{work}", "-o", str(work / LINKER_SCRIPT), str(SOURCES / LINKER_SCRIPT)],
        work,
    )
    _run([compiler, *_LINK, "-T", LINKER_SCRIPT, "-o", "normal_world.elf", *objects], work)
    for name in objects:
        (work / name).unlink()


def _run(command: list[str], directory: Path) -> str:
    """Run a tool; its standard output. Raises BuildFailure with the command line and its output."""
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildFailure(f"the normal world does not build: {' '.join(command)}\n{result.stderr.strip()[-4000:]}")
    return result.stdout
