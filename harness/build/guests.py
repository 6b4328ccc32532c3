# SPDX-License-Identifier: BSD-2-Clause
"""Builds the root task: tables generated from the kernel's interface and the population, then C."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness import protocol
from harness.build.artefacts import PROJECT
from harness.build.cache import publish
from harness.build.guest_tables import constants_header, label_checks, population_header, tables_header
from harness.build.kernel import KernelBuild
from harness.configs import MachineConfig
from harness.errors import BuildFailure
from harness.packages import tool
from harness.programs.descriptions import all_calls
from harness.programs.interfaces import INTERFACE_FILE, Interface
from harness.programs.population import Population

SOURCES = PROJECT / "guest_images" / "root_task"
TRUSTED_OS = PROJECT / "guest_images" / "trusted_os"
COMPILER = "aarch64-linux-gnu-gcc"
_COMPILE = (
    "-c", "-g", "-O2", "-std=gnu11", "-ffreestanding", "-nostdlib", "-fno-pic", "-fno-pie", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns", "-mgeneral-regs-only", "-march=armv8-a",
    "-mstrict-align", "-fcommon", "-Wall", "-Wextra", "-Werror", "-Wa,--fatal-warnings",
)  # fmt: skip
_LINK = ("-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,--fatal-warnings", "-Wl,--no-warn-rwx-segments")
_SUFFIXES = (".S", ".c", ".h", ".lds")
_VICTIM = ("victim_entry.S", "victim.c", "decoder.c")
_SUPERVISOR = ("start.S", "supervisor.c", "memory.c", "invoke.c", "victims.c", "warden.c", "dispatcher.c")


@dataclass(frozen=True)
class GuestBuild:
    """The root task with the victims' image inside it; `interface.json` lies beside it."""

    root_task_elf: Path
    victim_elf: Path
    hash: str
    """SHA-256 of everything it was built from."""


def configuration_macros(kernel: KernelBuild) -> dict[str, int]:
    """The kernel's CONFIG_ macros, those with text values left out."""
    return {f"CONFIG_{name}": int(value) for name, value in kernel.options.items() if not isinstance(value, str)}


def build_interface(kernel: KernelBuild, population: Population | None = None) -> Interface:
    """The interface of a kernel with the project's firmware, and its population if no other one is given."""
    return Interface.generate(kernel.source, configuration_macros(kernel), population=population)


def build_root_task(config: MachineConfig, kernel: KernelBuild, population: Population | None = None) -> GuestBuild:
    """Compile the root task for a machine config and a kernel, or take it from the cache.

    Without a `population` it sets up the project's. The same inputs give the same bytes, wherever the
    checkout lies. Raises BuildFailure with the tools' output, MissingPackage without the cross compiler.
    """
    compiler = tool(COMPILER, "it compiles the root task")
    interface = build_interface(kernel, population)
    labels = {c.label_name: c.label for c in all_calls(kernel.source, configuration_macros(kernel)).values() if c.label}
    headers = {
        "protocol.h": protocol.header(),
        "tables.h": tables_header(interface),
        "constants.h": constants_header(interface, labels),
        "population.h": population_header(interface, config),
        "label_checks.c": label_checks(interface, labels),
        INTERFACE_FILE: json.dumps(interface.to_data(), indent=1) + "\n",
    }
    directories = (SOURCES, TRUSTED_OS)
    sources = [path for directory in directories for path in sorted(directory.iterdir()) if path.suffix in _SUFFIXES]
    version = _run([compiler, "--version"], SOURCES)
    digest = hashlib.sha256(repr((_COMPILE, _LINK, version, headers, kernel.hash, kernel.release)).encode())
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    key = digest.hexdigest()
    directory = publish(f"root-task-{key[:32]}", lambda work: _build(compiler, kernel, interface, headers, work))
    return GuestBuild(directory / "root_task.elf", directory / "victim.elf", key)


def _build(compiler: str, kernel: KernelBuild, interface: Interface, headers: dict[str, str], work: Path) -> None:
    """Leave root_task.elf, victim.elf, the interface and the generated headers in `work`."""
    for name, text in headers.items():
        (work / name).write_text(text)
    libsel4 = kernel.source / "libsel4"
    include = [
        work, SOURCES.relative_to(PROJECT), kernel.generated, libsel4 / "include", libsel4 / "arch_include/arm",
        libsel4 / "sel4_arch_include/aarch64",
    ]  # fmt: skip
    addresses = interface.population.addresses
    # Debug information names files as they lie in the project, so that gdb finds them from there.
    maps = [f"-ffile-prefix-map={PROJECT}=.", f"-ffile-prefix-map={work}=generated"]
    maps += [f"-ffile-prefix-map={kernel.source.parent}=kernel"]
    compile_ = [compiler, *_COMPILE, *maps, *(f"-I{path}" for path in include), "-DHAVE_AUTOCONF"]

    def objects(sources: tuple[str, ...]) -> list[str]:
        made = []
        for source in sources:
            output = work / f"{source.replace('.', '_')}.o"
            found = [directory / source for directory in (SOURCES, TRUSTED_OS) if (directory / source).is_file()]
            name = str(found[0].relative_to(PROJECT)) if found else str(work / source)
            _run([*compile_, "-o", str(output), name], PROJECT)
            made.append(output.name)
        return made

    def link(name: str, script: str, symbol: str, address: int, parts: list[str]) -> None:
        defines = [f"-Wl,--defsym={symbol}={address:#x}"]
        _run([compiler, *_LINK, "-T", str(SOURCES / script), *defines, "-o", name, *parts], work)

    link("victim.elf", "victim.lds", "VICTIM_CODE", addresses.code, objects(_VICTIM))
    objcopy = tool("aarch64-linux-gnu-objcopy", "it makes the victims' image")
    _run([objcopy, "-O", "binary", "victim.elf", "victim.bin"], work)
    size = (work / "victim.bin").stat().st_size
    pages = -(-size // protocol.PAGE)
    if addresses.code + pages * protocol.PAGE > addresses.state:
        raise BuildFailure(f"the victims' image has {size} bytes: it does not fit below the state page")
    with (work / "constants.h").open("a") as file:
        file.write(f"#define CODE_PAGES {pages}\n")
    parts = objects((*_SUPERVISOR, "label_checks.c"))
    link("root_task.elf", "supervisor.lds", "SUPERVISOR_IMAGE", addresses.supervisor, parts)
    for path in work.glob("*.o"):
        path.unlink()


def _run(command: list[str], directory: Path) -> str:
    """Run a tool; its standard output. Raises BuildFailure with the command line and its output."""
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildFailure(f"the root task does not build: {' '.join(command)}\n{result.stderr.strip()[-4000:]}")
    return result.stdout
