# SPDX-License-Identifier: BSD-2-Clause
"""Builds the root task and the trusted OS: tables generated from the kernel's interface and the population, then C."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import protocol
from harness.build.artefacts import PROJECT
from harness.build.cache import publish
from harness.build.firmware import machine_header
from harness.build.guest_tables import constants_header, label_checks, population_header, tables_header
from harness.build.kernel import KernelBuild
from harness.build.patches import patched_sources
from harness.configs import MachineConfig
from harness.errors import BuildFailure
from harness.kernel_state.elf import Elf
from harness.packages import tool
from harness.programs import trusted_messages
from harness.programs.descriptions import all_calls
from harness.programs.interfaces import INTERFACE_FILE, Interface
from harness.programs.population import Population

SOURCES = PROJECT / "guest_images" / "root_task"
TRUSTED_OS = PROJECT / "guest_images" / "trusted_os"
COMPILER = "aarch64-linux-gnu-gcc"
COMPILE = (
    "-c", "-g", "-O2", "-std=gnu11", "-ffreestanding", "-nostdlib", "-fno-pic", "-fno-pie", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns", "-mgeneral-regs-only", "-march=armv8-a",
    "-mstrict-align", "-fcommon", "-Wall", "-Wextra", "-Werror", "-Wa,--fatal-warnings",
)  # fmt: skip
LINK = ("-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,--fatal-warnings", "-Wl,--no-warn-rwx-segments")
_SUFFIXES = (".S", ".c", ".h", ".lds")
_VICTIM = ("victim_entry.S", "victim.c", "turns.c", "decoder.c")
_SUPERVISOR = ("start.S", "supervisor.c", "memory.c", "invoke.c", "victims.c", "warden.c")
_COVERED = tuple(f"-falign-{what}=4" for what in ("functions", "labels", "loops", "jumps"))
"""For code whose coverage is counted: no instructions between functions that nothing executes."""
_OF_NORMAL_WORLD = ("trusted_os.c",)
"""Sources of the root task where a config has a normal world: then there is a trusted OS, too."""


@dataclass(frozen=True)
class GuestBuild:
    """The root task with the images of victims and trusted OS inside it; `interface.json` lies beside it."""

    root_task_elf: Path
    victim_elf: Path
    hash: str
    """SHA-256 of everything it was built from."""
    trusted_os_elf: Path | None = None
    """Where the config has a normal world."""


def configuration_macros(kernel: KernelBuild) -> dict[str, int]:
    """The kernel's CONFIG_ macros, those with text values left out."""
    return {f"CONFIG_{name}": int(value) for name, value in kernel.options.items() if not isinstance(value, str)}


def build_interface(
    kernel: KernelBuild, population: Population | None = None, config: MachineConfig | None = None
) -> Interface:
    """The interface of a kernel with the project's firmware, and its population if no other one is given.

    The normal world of a `config` adds its calls.
    """
    return Interface.generate(kernel.source, configuration_macros(kernel), population=population, config=config)


def build_root_task(
    config: MachineConfig,
    kernel: KernelBuild,
    population: Population | None = None,
    *,
    trusted_os_patches: Sequence[Path] = (),
) -> GuestBuild:
    """Compile the root task for a machine config and a kernel, or take it from the cache.

    Without a `population` it sets up the project's. `trusted_os_patches` are applied to the Trusted OS's sources
    first. The same inputs give the same bytes, wherever the checkout lies. Raises PatchError, BuildFailure with the
    tools' output, MissingPackage without the cross compiler.
    """
    compiler = tool(COMPILER, "it compiles the root task")
    interface = build_interface(kernel, population, config)
    labels = {c.label_name: c.label for c in all_calls(kernel.source, configuration_macros(kernel)).values() if c.label}
    headers = {
        "protocol.h": protocol.header(),
        "tables.h": tables_header(interface),
        "constants.h": constants_header(interface, labels),
        "population.h": population_header(interface, config),
        "label_checks.c": label_checks(interface, labels),
        INTERFACE_FILE: json.dumps(interface.to_data(), indent=1) + "\n",
    }
    directories, trusted_os = [SOURCES], None
    if config.normal_world is not None:
        headers["machine.h"] = machine_header(config)
        headers["trusted_messages.h"] = trusted_messages.header(trusted_messages.load_trusted_services())
        trusted_os = patched_sources(TRUSTED_OS, trusted_os_patches)
        directories.append(trusted_os)
    sources = [path for directory in directories for path in sorted(directory.iterdir()) if path.suffix in _SUFFIXES]
    version = _run([compiler, "--version"], SOURCES)
    digest = hashlib.sha256(repr((COMPILE, _COVERED, LINK, version, headers, kernel.release)).encode())
    # Of the kernel, what is included: most changes of its code leave that as it is.
    included = [path for top in _includes(kernel) for path in sorted(top.rglob("*.h"))]
    for path in [*sources, *included]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    key = digest.hexdigest()
    made = publish(f"root-task-{key[:32]}", lambda work: _build(compiler, kernel, interface, headers, work, trusted_os))
    return GuestBuild(
        made / "root_task.elf", made / "victim.elf", key, None if trusted_os is None else made / "trusted_os.elf"
    )


def _includes(kernel: KernelBuild) -> list[Path]:
    """Directories of the kernel's headers that guests include."""
    libsel4 = kernel.source / "libsel4"
    return [
        kernel.generated,
        libsel4 / "include",
        libsel4 / "arch_include/arm",
        libsel4 / "sel4_arch_include/aarch64",
    ]


def _build(
    compiler: str,
    kernel: KernelBuild,
    interface: Interface,
    headers: dict[str, str],
    work: Path,
    trusted_os: Path | None,
) -> None:
    """Leave root_task.elf, victim.elf, trusted_os.elf, the interface and the generated headers in `work`.

    `trusted_os`: where the Trusted OS's sources lie, if there is one.
    """
    for name, text in headers.items():
        (work / name).write_text(text)
    include = [work, SOURCES.relative_to(PROJECT), _name(trusted_os or TRUSTED_OS), *_includes(kernel)]
    addresses = interface.population.addresses
    # Debug information names files as they lie in the project, so that gdb finds them from there.
    maps = [f"-ffile-prefix-map={PROJECT}=.", f"-ffile-prefix-map={work}=generated"]
    maps += [f"-ffile-prefix-map={kernel.source.parent}=kernel"]
    if trusted_os is not None:
        maps.append(f"-ffile-prefix-map={trusted_os}={TRUSTED_OS.relative_to(PROJECT)}")
    compile_ = [compiler, *COMPILE, *maps, *(f"-I{path}" for path in include), "-DHAVE_AUTOCONF"]

    def objects(sources: Sequence[str], directory: Path = SOURCES, flags: Sequence[str] = ()) -> list[str]:
        made = []
        for source in sources:
            output = work / f"{directory.name}_{source.replace('.', '_')}.o"
            path = directory / source
            name = str(_name(path) if path.is_file() else work / source)
            _run([*compile_, *flags, "-o", str(output), name], PROJECT)
            made.append(output.name)
        return made

    def link(name: str, script: Path, symbol: str, address: int, parts: list[str]) -> None:
        defines = [f"-Wl,--defsym={symbol}={address:#x}"]
        _run([compiler, *LINK, "-T", str(script), *defines, "-o", name, *parts], work)

    def image(name: str) -> int:
        """Make NAME.bin of NAME.elf, as the root task contains it; its size in bytes."""
        _run([objcopy, "-O", "binary", f"{name}.elf", f"{name}.bin"], work)
        return (work / f"{name}.bin").stat().st_size

    objcopy = tool("aarch64-linux-gnu-objcopy", "it makes the images that the root task contains")
    link("victim.elf", SOURCES / "victim.lds", "VICTIM_CODE", addresses.code, objects(_VICTIM))
    size = image("victim")
    pages = -(-size // protocol.PAGE)
    if addresses.code + pages * protocol.PAGE > addresses.state:
        raise BuildFailure(f"the victims' image has {size} bytes: it does not fit below the state page")
    with (work / "constants.h").open("a") as file:
        file.write(f"#define CODE_PAGES {pages}\n")
    parts = list(_SUPERVISOR)
    if trusted_os is not None:
        parts += _OF_NORMAL_WORLD
        sources = sorted(path.name for path in trusted_os.iterdir() if path.suffix in (".S", ".c"))
        script = trusted_os / "trusted_os.lds"
        link("trusted_os.elf", script, "TRUSTED_OS_IMAGE", addresses.code, objects(sources, trusted_os, _COVERED))
        image("trusted_os")
        pages = (Elf(work / "trusted_os.elf").symbols["writable_end"].address - addresses.code) // protocol.PAGE
        with (work / "constants.h").open("a") as file:
            file.write(f"#define TRUSTED_OS_IMAGE {addresses.code:#x}\n#define TRUSTED_OS_PAGES {pages}\n")
    link(
        "root_task.elf", SOURCES / "supervisor.lds", "SUPERVISOR_IMAGE", addresses.supervisor,
        objects((*parts, "label_checks.c")),
    )  # fmt: skip
    for path in work.glob("*.o"):
        path.unlink()


def _name(path: Path) -> Path:
    """How a tool that runs in the project's directory is told a path: without the project's, if it lies there."""
    return path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path


def _run(command: list[str], directory: Path) -> str:
    """Run a tool; its standard output. Raises BuildFailure with the command line and its output."""
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildFailure(f"the root task does not build: {' '.join(command)}\n{result.stderr.strip()[-4000:]}")
    return result.stdout
