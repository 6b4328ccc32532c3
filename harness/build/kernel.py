# SPDX-License-Identifier: BSD-2-Clause
"""Building the patched kernel, without the kernel's own Makefile and Kconfig.

The build is a function of its inputs: pinned source, patches, options, memory map, compiler.
The same inputs give the same bytes in any directory, and name the directory in the cache.
It takes about five seconds.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from harness.build.artefacts import NO_OWN_CODE, OwnCode
from harness.build.cache import publish
from harness.build.own_code import kernel_patches
from harness.build.patches import apply_patches, read_patch, read_series
from harness.build.source import fetch_kernel_source, pinned_package
from harness.configs import Kind, MachineConfig, Region, Use, World
from harness.errors import BuildFailure, ConfigError, MissingPackage

CROSS = "aarch64-linux-gnu-"
PLATFORM = "qemu-virt-secure"
SOURCE_NAME = "/bothworlds/kernel"
"""Directory that stands in the debug information for the build's own; see `source_substitution`."""
LARGE_PAGE = 1 << 21
FOREIGN_LINE = 255
"""With ARM_FOREIGN_INTERRUPTS the line that stands for all of the other world's (INTERRUPT_FOREIGN)."""

OptionValue = bool | int | str

# What the machine needs, and the defaults of the kernel's own configuration for the rest.
_OPTIONS: dict[str, OptionValue] = {
    "ARCH_ARM": True,
    "ARCH_AARCH64": True,
    "ARCH_ARM_V8A": True,
    "ARM_CORTEX_A57": True,
    "ARM_SECURE_FIQ": True,
    "ARM_SECURE_TIMER": True,
    "FASTPATH": True,
    "FPU_MAX_RESTORES_SINCE_SWITCH": 64,
    "HAVE_FPU": True,
    "IPC_BUF_TPIDRURW": True,
    "KERNEL_MASTER": True,
    "KERNEL_STACK_BITS": 12,
    "MAX_NUM_BOOTINFO_UNTYPED_CAPS": 167,
    "MAX_NUM_NODES": 1,
    "MAX_NUM_WORK_UNITS_PER_PREEMPTION": 100,
    "NO_BENCHMARKS": True,
    "NUM_DOMAINS": 1,
    "NUM_PRIORITIES": 256,
    "OPTIMISATION_O2": True,
    "PLAT_QEMU_VIRT_SECURE": True,
    "RETYPE_FAN_OUT_LIMIT": 256,
    "ROOT_CNODE_SIZE_BITS": 12,
    "TIMER_TICK_MS": 2,
    "TIME_SLICE": 5,
    "WORD_SIZE": 64,
}
_DEBUG_OPTIONS: dict[str, OptionValue] = {
    "DEBUG_BUILD": True,
    "IRQ_REPORTING": True,
    "PRINTING": True,
    "QUIET_USER_ERRORS": True,
    "USER_STACK_TRACE_LENGTH": 16,
}

# Options that make no sense without another one.
_NEEDS = {"ARM_FOREIGN_INTERRUPTS": "ARM_SECURE_FIQ"}

# C sources below src/, as the kernel's Makefiles list them for a single AArch64 processor with a GICv2.
_C_SOURCES = """
api/faults api/syscall arch/arm/64/c_traps arch/arm/64/idle arch/arm/64/kernel/thread arch/arm/64/kernel/vspace
arch/arm/64/machine/fpu arch/arm/64/machine/hardware arch/arm/64/machine/registerset arch/arm/64/model/statedata
arch/arm/64/object/objecttype arch/arm/64/object/smc arch/arm/api/faults arch/arm/armv/armv8-a/64/benchmark
arch/arm/armv/armv8-a/64/cache arch/arm/armv/armv8-a/64/user_access arch/arm/benchmark/benchmark arch/arm/c_traps
arch/arm/kernel/boot arch/arm/kernel/ipi arch/arm/machine/cache arch/arm/machine/debug arch/arm/machine/errata
arch/arm/machine/gic_pl390 arch/arm/machine/io arch/arm/object/interrupt arch/arm/object/iospace
arch/arm/object/tcb arch/arm/object/vcpu assert benchmark/benchmark_track benchmark/benchmark_utilisation
plat/qemu-virt-secure/domain_schedule fastpath/fastpath inlines kernel/boot kernel/cspace kernel/faulthandler
kernel/stack kernel/thread machine/fpu machine/io machine/registerset model/preemption model/statedata object/cnode
object/endpoint object/interrupt object/notification object/objecttype object/tcb object/untyped
plat/hikey/machine/hardware plat/hikey/machine/io smp/lock string util
""".split()
_DEBUG_C_SOURCES = ["arch/arm/64/machine/capdl"]
_ASSEMBLER_SOURCES = ["arch/arm/64/head", "arch/arm/64/traps", "arch/arm/armv/armv8-a/64/machine_asm"]
_INCLUDES = [
    "generated", "source/include", "source/include/64", "source/include/arch/arm", "source/include/arch/arm/arch/64",
    f"source/include/plat/{PLATFORM}", "source/include/arch/arm/armv/armv8-a/64",
]  # fmt: skip
_DEFINES = ["HAVE_AUTOCONF", "ARCH_ARM", "AARCH64", "ARMV8_A", "__KERNEL_64__", "ARM_CORTEX_A57"]
_WARNINGS = [
    "all", "error", "strict-prototypes", "missing-prototypes", "nested-externs", "missing-declarations", "undef",
    "pointer-arith", "no-nonnull",
]  # fmt: skip
# Unwind tables go to .debug_frame, which debuggers read, and not into the image.
_C_FLAGS = [
    "-std=c99", "-O2", "-g", "-nostdlib", "-nostdinc", "-ffreestanding", "-fno-pic", "-fno-pie",
    "-fno-stack-protector", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-mgeneral-regs-only",
    "-march=armv8-a", "-mtune=cortex-a57",
]  # fmt: skip
_OTHERS = re.compile(rf"/(x86|32)/|/plat/(?!{PLATFORM}/|hikey/machine/)")
"""Sources of other processors, word sizes and platforms."""
_GENERATOR_PACKAGES = ["tempita", "six", "ply"]


@dataclass(frozen=True)
class KernelBuild:
    """A built kernel."""

    elf: Path
    generated: Path
    """Generated headers; `autoconf.h` holds the options, `*.pbf` the preprocessed bitfield files."""
    source: Path
    """The patched source tree."""
    hash: str
    """SHA-256 of `elf`."""
    patches_hash: str
    """SHA-256 of all applied patches, in order."""
    series: tuple[str, ...]
    """File names of the applied patches, in order."""
    release: bool
    options: dict[str, OptionValue]

    @property
    def source_substitution(self) -> tuple[str, str]:
        """(from, to) for gdb's `set substitute-path`: the name in the debug information, and the real directory."""
        return SOURCE_NAME, str(self.elf.parent)


def build_kernel(
    config: MachineConfig, *, release: bool = False, extra_patches: Sequence[Path] = (), own: OwnCode = NO_OWN_CODE
) -> KernelBuild:
    """Build the kernel for a machine config, or find it in the cache.

    `extra_patches` are applied behind the series; `own` may put a user's tree in the place of the
    pinned source. Raises ConfigError for options or a memory map that the kernel cannot have,
    PatchError, MissingPackage and BuildFailure.
    """
    patches = [*kernel_patches(own), *extra_patches]
    # Content only: a finding keeps its patches under other names.
    patches_hash = _sha256(path.read_bytes() for path in patches)
    options = kernel_options(config, release=release)
    regions = platform_regions(config)
    code = [Path(__file__).with_name(name).read_bytes() for name in ("kernel.py", "patches.py")]
    inputs = [pinned_package()[1], patches_hash, json.dumps(options, sort_keys=True), regions, _tools(), release]
    key = _sha256([repr(inputs).encode(), *code])
    directory = publish(
        f"kernel-{key[:24]}", lambda target: _build(target, options, regions, release=release, patches=patches)
    )
    elf = directory / "kernel.elf"
    return KernelBuild(
        elf=elf,
        generated=directory / "generated",
        source=directory / "source",
        hash=_sha256([elf.read_bytes()]),
        patches_hash=patches_hash,
        series=tuple(path.name for path in patches),
        release=release,
        options=options,
    )


def kernel_options(config: MachineConfig, *, release: bool) -> dict[str, OptionValue]:
    """All kernel options, those of the config merged in; an option that is off is absent.

    Raises ConfigError for one that the kernel does not know, with the nearest name, and for one that needs another.
    """
    options = dict(_OPTIONS)
    if not release:
        options.update(_DEBUG_OPTIONS)
    for name, value in config.kernel.options.items():
        if name not in options and name not in _known_options():
            near = difflib.get_close_matches(name, [*options, *_known_options()], 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"config '{config.name}', field kernel.options: no kernel option '{name}'{hint}")
        default = options.get(name)
        if default is not None and isinstance(default, bool) != isinstance(value, bool):
            kind = "true or false" if isinstance(default, bool) else "a number"
            raise ConfigError(f"config '{config.name}', field kernel.options.{name}: is {value!r}, must be {kind}")
        options[name] = value
    for name, needed in _NEEDS.items():
        if options.get(name) and not options.get(needed):
            raise ConfigError(f"config '{config.name}', field kernel.options.{name}: needs {needed}: true")
    return {name: value for name, value in sorted(options.items()) if value is not False}


@cache
def _known_options() -> frozenset[str]:
    """Options that the kernel's source or a patch of the series tests."""
    pattern = re.compile(rb"CONFIG_([A-Z][A-Z0-9_]*)")
    names: set[bytes] = set()
    source = fetch_kernel_source()
    files = [path for top in ("src", "include") for path in (source / top).rglob("*") if path.is_file()]
    for path in [*files, *read_series()]:
        names.update(pattern.findall(path.read_bytes()))
    return frozenset(name.decode() for name in names)


def platform_regions(config: MachineConfig) -> str:
    """Text of `platform_regions.h`, the kernel's view of the config's memory map.

    Raises ConfigError for a map that the kernel cannot have.
    """

    def refuse(region: Region, why: str) -> ConfigError:
        return ConfigError(f"config '{config.name}', region '{region.name}': {why}")

    def listed(regions: Iterable[Region]) -> str:
        ordered = sorted(regions, key=lambda region: region.base)
        return ", ".join(f"{{ {region.base:#x}, {region.end:#x} }}" for region in ordered)

    window = [region for region in config.regions if region.window]
    for region in window:
        if region.kind == Kind.RAM and (region.base % LARGE_PAGE or region.size % LARGE_PAGE):
            raise refuse(region, "the kernel's window maps memory in 2 MiB pages; align base and size")
        if region.kind == Kind.FLASH:
            raise refuse(region, "the kernel's window cannot hold flash")
    named = {region.name: region for region in window if region.kind == Kind.DEVICE}
    for name in ("gicd", "gicc"):
        if name not in named:
            raise ConfigError(f"config '{config.name}': no device region '{name}' with 'window: true'")
    consoles = [region for name, region in named.items() if name not in ("gicd", "gicc")]
    if len(consoles) != 1:
        raise ConfigError(
            f"config '{config.name}': one device beside gicd and gicc must have 'window: true', the kernel's console; "
            f"{len(consoles)} have"
        )
    secure = [region for region in config.regions if region.kind == Kind.RAM and region.use == Use.KERNEL]
    untyped = [region for region in config.regions if region.use == Use.UNTYPED]
    for region in [*secure, *untyped]:
        if region.kind == Kind.RAM and not region.window:
            raise refuse(region, "memory that the kernel hands out must be in its window ('window: true')")
        if region.use == Use.KERNEL and region.world != World.SECURE:
            raise refuse(region, "the kernel's memory must be secure")
        if region.use == Use.UNTYPED and region.kind == Kind.RAM and region.world != World.NON_SECURE:
            raise refuse(region, "secure memory for users is part of the kernel's memory (use: kernel)")
    if len(secure) != 1:
        raise ConfigError(f"config '{config.name}': one region must have 'use: kernel', {len(secure)} have")
    non_secure = [region for region in [*window, *untyped] if region.world == World.NON_SECURE]
    lines = [
        "/* Generated from the machine config. */",
        "#pragma once",
        f"#define PLAT_KERNEL_PADDR {secure[0].base:#x}",
        f"#define PLAT_GIC_DISTRIBUTOR_PADDR {named['gicd'].base:#x}",
        f"#define PLAT_GIC_CONTROLLER_PADDR {named['gicc'].base:#x}",
        f"#define PLAT_CONSOLE_PADDR {consoles[0].base:#x}",
        "/* lists of { start, end } */",
        f"#define PLAT_SECURE_RAM {listed(secure)}",
        f"#define PLAT_DEVICES {listed(region for region in untyped if region.kind == Kind.DEVICE)}",
        f"#define PLAT_NON_SECURE_RAM {listed(region for region in untyped if region.kind == Kind.RAM)}",
        f"#define PLAT_NON_SECURE_REGIONS {listed({region.name: region for region in non_secure}.values())}",
        f"#define PLAT_WINDOW_REGIONS {listed(region for region in window if region.kind == Kind.RAM)}",
    ]
    return "\n".join(lines) + "\n"


def _build(
    directory: Path, options: dict[str, OptionValue], regions: str, *, release: bool, patches: Sequence[Path]
) -> None:
    """Fill `directory` with source/, generated/ and kernel.elf."""
    source = directory / "source"
    shutil.copytree(fetch_kernel_source(), source)
    apply_patches(source, patches)
    _generate(directory, options, regions, release=release)
    sources = sorted({*_C_SOURCES, *([] if release else _DEBUG_C_SOURCES), *_new_sources(patches)})
    with (directory / "kernel_all.c").open("w") as unit:
        for name in sources:
            path = source / "src" / f"{name}.c"
            if not path.is_file():  # a tree of the user's, built as it stands
                raise BuildFailure(
                    f"kernel build: the source tree has no src/{name}.c, which the series adds or changes"
                )
            unit.write(f'#line 1 "source/src/{name}.c"\n{path.read_text()}')
    preprocess = _preprocessor(release)
    # No path of this directory gets into the result: all names are relative to it, and it has a name of its own.
    debug = [f"-ffile-prefix-map={directory}={SOURCE_NAME}"]
    warnings = [f"-W{name}" for name in _WARNINGS]
    objects = ["kernel_all.o"]
    _run(directory, [CROSS + "gcc", *_C_FLAGS, *warnings, *debug, *preprocess, "-c", "kernel_all.c", "-o", objects[0]])
    for name in _ASSEMBLER_SOURCES:
        objects.append(f"{name.rsplit('/', 1)[1]}.o")
        assemble = [CROSS + "gcc", "-march=armv8-a", "-g", *debug, *preprocess, "-D__ASSEMBLER__"]
        _run(directory, [*assemble, "-c", f"source/src/{name}.S", "-o", objects[-1]])
    script = f"source/src/plat/{PLATFORM}/linker.lds"
    _run(directory, [CROSS + "cpp", *preprocess, "-P", "-x", "c", script, "-o", "kernel.lds"])
    link = [CROSS + "gcc", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-n"]
    _run(directory, [*link, "-Wl,--no-warn-rwx-segments", "-T", "kernel.lds", "-o", "kernel.elf", *objects])
    for name in ["kernel_all.c", "kernel.lds", *objects]:
        (directory / name).unlink()


def _new_sources(patches: Sequence[Path]) -> list[str]:
    """C sources that patches add, as _C_SOURCES names them; those of other processors and platforms left out."""
    created = [change.path for path in patches for change in read_patch(path).changes if change.creates]
    return [
        name[len("src/") : -len(".c")]
        for name in created
        if name.startswith("src/") and name.endswith(".c") and not _OTHERS.search(f"/{name}")
    ]


def _preprocessor(release: bool) -> list[str]:
    defines = _DEFINES if release else [*_DEFINES, "DEBUG"]
    return ["-nostdinc", *(f"-D{name}" for name in defines), *(f"-I{path}" for path in _INCLUDES)]


def _generate(directory: Path, options: dict[str, OptionValue], regions: str, *, release: bool) -> None:
    """Write generated/: options, memory map, invocation labels, system call numbers, bitfield accessors."""
    generated = directory / "generated"
    generated.mkdir()
    lines = ["/* Generated from the machine config. */", "#pragma once"]
    for name, value in options.items():
        text = f'"{value}"' if isinstance(value, str) else str(int(value))
        lines.append(f"#define CONFIG_{name} {text}")
    (generated / "autoconf.h").write_text("\n".join(lines) + "\n")
    (generated / "platform_regions.h").write_text(regions)
    libsel4 = "source/libsel4"
    for flags, xml, header in (
        (["--arch"], f"{libsel4}/arch_include/arm/interfaces/sel4arch.xml", "arch/api/invocation.h"),
        (["--sel4_arch"], f"{libsel4}/sel4_arch_include/aarch64/interfaces/sel4arch.xml", "arch/api/sel4_invocation.h"),
        ([], f"{libsel4}/include/interfaces/sel4.xml", "api/invocation.h"),
    ):
        (generated / header).parent.mkdir(parents=True, exist_ok=True)
        _tool(directory, "invocation_header_gen.py", [*flags, "--xml", xml, "--dest", f"generated/{header}"])
    arguments = ["--xml", "source/include/api/syscall.xml", "--kernel_header", "generated/arch/api/syscall.h"]
    _tool(directory, "syscall_header_gen.py", arguments)
    prunes = [argument for path in _pruning_sources(directory) for argument in ("--prune", path)]
    for name, bitfields in (
        ("arch/object/structures", "source/include/arch/arm/arch/object/structures.bf"),
        ("mode/api/shared_types", "source/include/64/mode/api/shared_types.bf"),
        ("plat/machine/hardware", f"source/include/plat/{PLATFORM}/plat/machine/hardware.bf"),
    ):
        (generated / name).parent.mkdir(parents=True, exist_ok=True)
        preprocessed = f"generated/{name}.pbf"
        _run(
            directory,
            [CROSS + "cpp", *_preprocessor(release), "-include", "autoconf.h", "-P", bitfields, "-o", preprocessed],
        )
        accessors = generated / f"{name}_gen.h"
        _tool(directory, "bitfield_gen.py", [preprocessed, f"generated/{name}_gen.h", *prunes])
        # The generator makes the include guard out of the absolute path.
        text = accessors.read_text()
        guard = text.split(maxsplit=2)[1]
        accessors.write_text(text.replace(guard, f"GENERATED_{name.replace('/', '_').upper()}_H"))


def _pruning_sources(directory: Path) -> list[str]:
    """Files whose use of an accessor keeps it in the generated headers, relative to `directory`."""
    found = []
    for top in ("source/src", "source/include"):
        for path in (directory / top).rglob("*.[chS]"):
            name = path.relative_to(directory).as_posix()
            if not _OTHERS.search(name):
                found.append(name)
    return sorted(found)


def _tool(directory: Path, name: str, arguments: list[str]) -> None:
    """Run one of the kernel's own generators, which are Python programs."""
    _run(directory, [sys.executable, f"source/tools/{name}", *arguments])


def _run(directory: Path, command: list[str]) -> None:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "PYTHONPATH": "source/tools",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }
    try:
        result = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, errors="replace"
        )
    except FileNotFoundError as error:
        raise MissingPackage(command[0], "apt-get install gcc-aarch64-linux-gnu", "it builds the kernel") from error
    if result.returncode:
        shown = " ".join(argument for argument in command if argument != "--prune")
        output = (result.stdout + result.stderr).strip()
        raise BuildFailure(f"kernel build: {shown[:300]} ended with {result.returncode}:\n{output[-3000:]}")


@cache
def _tools() -> str:
    """Versions of what the build runs."""
    if shutil.which(CROSS + "gcc") is None:
        raise MissingPackage(CROSS + "gcc", "apt-get install gcc-aarch64-linux-gnu", "it builds the kernel")
    versions = [
        subprocess.run([CROSS + tool, "--version"], capture_output=True, text=True).stdout for tool in ("gcc", "ld")
    ]
    for package in _GENERATOR_PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError as error:
            raise MissingPackage(
                f"Python package {package}",
                f"{sys.executable} -m pip install {package}",
                "the kernel's generators use it",
            ) from error
    return "\n".join(versions)


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
