# SPDX-License-Identifier: BSD-2-Clause
"""Building the patched kernel, without the kernel's own Makefile and Kconfig.

The build is a function of its inputs: pinned source, patches, options, memory map, compiler.
The same inputs give the same bytes in any directory, and name the directory in the cache.
It takes a few seconds, nearly all of them the compiler's; see `harness.build.kernel_headers` for the rest.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.build.artefacts import NO_OWN_CODE, OwnCode
from harness.build.cache import publish
from harness.build.kernel_headers import HeaderInputs, OptionValue, write_headers
from harness.build.kernel_tools import CROSS, run_tool, tool_versions
from harness.build.own_code import kernel_patches
from harness.build.patches import apply_patches, read_patch, read_series
from harness.build.source import fetch_kernel_source, pinned_package
from harness.configs import Kind, MachineConfig, Region, Use, World
from harness.errors import BuildFailure, ConfigError

PLATFORM = "qemu-virt-secure"
SOURCE_NAME = "/bothworlds/kernel"
"""Directory that stands in the debug information for the build's own; see `source_substitution`."""
LARGE_PAGE = 1 << 21
FOREIGN_LINE = 255
"""With ARM_FOREIGN_INTERRUPTS the line that stands for all of the other world's (INTERRUPT_FOREIGN)."""

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

_TESTED_OPTION = re.compile(rb"CONFIG_([A-Z][A-Z0-9_]*)")

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
_BITFIELDS = {
    "arch/object/structures": "source/include/arch/arm/arch/object/structures.bf",
    "mode/api/shared_types": "source/include/64/mode/api/shared_types.bf",
    "plat/machine/hardware": f"source/include/plat/{PLATFORM}/plat/machine/hardware.bf",
}
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
_CODE = ("kernel.py", "kernel_headers.py", "kernel_tools.py", "patches.py")
"""What of this package decides how a kernel is built."""


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
    code = [Path(__file__).with_name(name).read_bytes() for name in _CODE]
    inputs = [pinned_package()[1], patches_hash, json.dumps(options, sort_keys=True), regions, tool_versions(), release]
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
        if name not in options and not _is_known(name):
            known = sorted({*options, *_options_of_series(), *_options_of_source()})
            near = difflib.get_close_matches(name, known, 1)
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


def _is_known(name: str) -> bool:
    """Whether a patch of the series or the kernel's source tests an option; the patches are read first, being few."""
    return name in _options_of_series() or name in _options_of_source()


@cache
def _options_of_series() -> frozenset[str]:
    return _tested_options(read_series())


@cache
def _options_of_source() -> frozenset[str]:
    source = fetch_kernel_source()
    return _tested_options(path for top in ("src", "include") for path in (source / top).rglob("*") if path.is_file())


def _tested_options(files: Iterable[Path]) -> frozenset[str]:
    names = {name for path in files for name in _TESTED_OPTION.findall(path.read_bytes())}
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


def header_inputs(options: dict[str, OptionValue], regions: str, *, release: bool) -> HeaderInputs:
    """What a kernel's headers are generated from, for `kernel_options` and `platform_regions`."""
    return HeaderInputs(options, regions, _preprocessor(release), _BITFIELDS, _OTHERS)


def _build(
    directory: Path, options: dict[str, OptionValue], regions: str, *, release: bool, patches: Sequence[Path]
) -> None:
    """Fill `directory` with source/, generated/ and kernel.elf."""
    source = directory / "source"
    shutil.copytree(fetch_kernel_source(), source)
    apply_patches(source, patches)
    preprocess = _preprocessor(release)
    write_headers(directory, header_inputs(options, regions, release=release))
    sources = sorted({*_C_SOURCES, *([] if release else _DEBUG_C_SOURCES), *_new_sources(patches)})
    with (directory / "kernel_all.c").open("w") as unit:
        for name in sources:
            path = source / "src" / f"{name}.c"
            if not path.is_file():  # a tree of the user's, built as it stands
                raise BuildFailure(
                    f"kernel build: the source tree has no src/{name}.c, which the series adds or changes"
                )
            unit.write(f'#line 1 "source/src/{name}.c"\n{path.read_text()}')
    # No path of this directory gets into the result: all names are relative to it, and it has a name of its own.
    debug = [f"-ffile-prefix-map={directory}={SOURCE_NAME}"]
    warnings = [f"-W{name}" for name in _WARNINGS]
    objects = ["kernel_all.o"]
    compile_ = [CROSS + "gcc", *_C_FLAGS, *warnings, *debug, *preprocess]
    run_tool(directory, [*compile_, "-c", "kernel_all.c", "-o", objects[0]])
    for name in _ASSEMBLER_SOURCES:
        objects.append(f"{name.rsplit('/', 1)[1]}.o")
        assemble = [CROSS + "gcc", "-march=armv8-a", "-g", *debug, *preprocess, "-D__ASSEMBLER__"]
        run_tool(directory, [*assemble, "-c", f"source/src/{name}.S", "-o", objects[-1]])
    script = f"source/src/plat/{PLATFORM}/linker.lds"
    run_tool(directory, [CROSS + "cpp", *preprocess, "-P", "-x", "c", script, "-o", "kernel.lds"])
    link = [CROSS + "gcc", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-n"]
    run_tool(directory, [*link, "-Wl,--no-warn-rwx-segments", "-T", "kernel.lds", "-o", "kernel.elf", *objects])
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


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
