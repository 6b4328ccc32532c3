# SPDX-License-Identifier: BSD-2-Clause
"""Kernel options and memory map, and what a build leaves behind."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness.build.artefacts import cache_directory
from harness.build.kernel import (
    FOREIGN_LINE,
    PLATFORM,
    SOURCE_NAME,
    KernelBuild,
    build_kernel,
    kernel_options,
    platform_regions,
)
from harness.build.kernel_tools import CROSS
from harness.build.patches import PATCH_DIRECTORY
from harness.configs import MachineConfig, Region
from harness.errors import ConfigError


def with_options(config: MachineConfig, **options: bool | int | str) -> MachineConfig:
    kernel = config.kernel.model_copy(update={"options": {**config.kernel.options, **options}})
    return config.model_copy(update={"kernel": kernel})


def with_region(config: MachineConfig, name: str, **update: object) -> MachineConfig:
    def changed(region: Region) -> Region:
        return Region.model_validate({**region.model_dump(), **update}) if region.name == name else region

    return config.model_copy(update={"regions": tuple(changed(region) for region in config.regions)})


def test_options(config: MachineConfig) -> None:
    options = kernel_options(with_options(config, TIME_SLICE=7, FASTPATH=False), release=False)
    assert options["TIME_SLICE"] == 7
    assert "FASTPATH" not in options
    assert options["ARM_WORLD_TAG"] is True
    assert "PRINTING" in options
    assert "PRINTING" not in kernel_options(config, release=True)


def test_option_that_needs_another(config: MachineConfig) -> None:
    needing = with_options(config, ARM_FOREIGN_INTERRUPTS=True)
    assert kernel_options(needing, release=True)["ARM_FOREIGN_INTERRUPTS"] is True
    with pytest.raises(ConfigError, match="ARM_FOREIGN_INTERRUPTS: needs ARM_SECURE_FIQ: true"):
        kernel_options(with_options(needing, ARM_SECURE_FIQ=False), release=True)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("TIME_SLISE", 7, "no kernel option 'TIME_SLISE'; did you mean 'TIME_SLICE'?"),
        ("ARM_WORLD_TAGS", True, "did you mean 'ARM_WORLD_TAG'?"),
        ("TIME_SLICE", True, "kernel.options.TIME_SLICE: is True, must be a number"),
        ("FASTPATH", 3, "must be true or false"),
    ],
)
def test_bad_options(config: MachineConfig, option: str, value: int, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        kernel_options(with_options(config, **{option: value}), release=False)


def test_regions(config: MachineConfig) -> None:
    text = platform_regions(config)
    assert f"#define PLAT_KERNEL_PADDR {config.secure_ram.base:#x}\n" in text
    assert f"#define PLAT_CONSOLE_PADDR {config.region('uart1').base:#x}\n" in text
    lines = dict(re.findall(r"#define (\w+) (.*)", text))
    # What only the firmware may touch appears nowhere.
    for region in (config.firmware_ram, config.region("flash"), config.region("secure-gpio")):
        for line in lines.values():
            for start, end in re.findall(r"\{ (\w+), (\w+) \}", line):
                assert not region.overlaps(int(start, 16), int(end, 16) - int(start, 16)), (region.name, line)
    assert f"{config.normal_ram.base:#x}" in lines["PLAT_NON_SECURE_REGIONS"]
    assert f"{config.region('virtio').base:#x}" in lines["PLAT_NON_SECURE_REGIONS"]
    assert f"{config.region('uart1').base:#x}" not in lines["PLAT_NON_SECURE_REGIONS"]


@pytest.mark.parametrize(
    ("name", "update", "message"),
    [
        ("normal-ram", {"size": 0x7FE01000}, "region 'normal-ram': the kernel's window maps memory in 2 MiB pages"),
        (
            "normal-ram",
            {"window": False},
            "region 'normal-ram': memory that the kernel hands out must be in its window",
        ),
        ("normal-ram", {"world": "secure"}, "region 'normal-ram': secure memory for users"),
        ("secure-ram", {"world": "non-secure"}, "region 'secure-ram': the kernel's memory must be secure"),
        ("secure-ram", {"use": "reserved"}, "one region must have 'use: kernel', 0 have"),
        ("gicd", {"window": False}, "no device region 'gicd' with 'window: true'"),
        ("uart1", {"window": False}, "the kernel's console; 0 have"),
        ("flash1", {"window": True}, "region 'flash1': the kernel's window cannot hold flash"),
    ],
)
def test_refused_maps(config: MachineConfig, name: str, update: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        platform_regions(with_region(config, name, **update))


@pytest.fixture(scope="module")
def kernel(config: MachineConfig) -> KernelBuild:
    return build_kernel(config)


def test_debug_information(kernel: KernelBuild, config: MachineConfig) -> None:
    with kernel.elf.open("rb") as file:
        elf = ELFFile(file)
        dwarf = elf.get_dwarf_info()
        assert dwarf.has_CFI()
        assert elf.get_section_by_name(".eh_frame") is None
        units = [unit.get_top_DIE() for unit in dwarf.iter_CUs()]
        names = {die.attributes["DW_AT_comp_dir"].value.decode() for die in units}
        assert names == {SOURCE_NAME}
        segments = [segment for segment in elf.iter_segments() if segment["p_type"] == "PT_LOAD"]
    assert len(units) == 4  # the C unit and three assembler files
    for segment in segments:
        assert config.secure_ram.covers(segment["p_paddr"], segment["p_memsz"])
        # The window keeps the alignment of 1 GiB frames.
        assert (segment["p_vaddr"] - segment["p_paddr"]) % (1 << 30) == 0


def test_source_lines_are_found(kernel: KernelBuild) -> None:
    name, directory = kernel.source_substitution
    symbols = subprocess.run([CROSS + "nm", str(kernel.elf)], capture_output=True, text=True, check=True).stdout
    for symbol, file in (("arm_vector_table", "traps.S"), ("_start", "head.S"), ("halt", "idle.c")):
        address = re.search(rf"^(\w+) \w {symbol}$", symbols, re.MULTILINE)
        assert address
        command = [CROSS + "addr2line", "-e", str(kernel.elf), address[1]]
        place = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rpartition(":")[0]
        assert place.startswith(name + "/")
        found = Path(directory + place.removeprefix(name))
        assert found.name == file
        assert found.is_file()


def test_no_path_of_this_machine(kernel: KernelBuild) -> None:
    for path in [kernel.elf, *kernel.generated.rglob("*.h")]:
        text = path.read_bytes().lower()
        for name in (str(cache_directory()), re.sub(r"\W", "_", str(cache_directory()))):
            assert name.lower().encode() not in text, path


def test_the_line_of_the_other_world(kernel: KernelBuild) -> None:
    text = (kernel.source / "include" / "plat" / PLATFORM / "plat" / "machine.h").read_text()
    assert re.search(rf"\bINTERRUPT_FOREIGN += {FOREIGN_LINE},", text)


def test_world_and_badge_have_names(kernel: KernelBuild) -> None:
    text = (kernel.generated / "arch/object/structures.pbf").read_text()
    for field in ("capIsNonSecure", "capFIsNonSecure", "capSMCBadge"):
        assert len(re.findall(rf"field {field}\b", text)) == 1
    assert len(re.findall(r"field NS\b", text)) == 3


def test_one_directory_for_one_content(kernel: KernelBuild, config: MachineConfig) -> None:
    assert build_kernel(config) == kernel
    patch = PATCH_DIRECTORY / "planted/asid_entry_stays.patch"
    other = build_kernel(config, extra_patches=[patch])
    assert other.elf != kernel.elf
    assert other.patches_hash != kernel.patches_hash
    assert other.series == (*kernel.series, patch.name)


@pytest.mark.slow
@pytest.mark.parametrize("release", [False, True])
def test_reproducible(config: MachineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: bool) -> None:
    """The same bytes in another directory, with a space in its name."""
    first = build_kernel(config, release=release)
    elsewhere = tmp_path / "another place"
    elsewhere.mkdir()
    for source in cache_directory().glob("source-*"):
        shutil.copytree(source, elsewhere / source.name)
    monkeypatch.setenv("BOTHWORLDS_CACHE", str(elsewhere))
    second = build_kernel(config, release=release)
    assert second.elf.is_relative_to(elsewhere)
    assert second.elf.read_bytes() == first.elf.read_bytes()
    for path in first.generated.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (second.generated / path.relative_to(first.generated)).read_bytes(), path


@pytest.mark.slow
@pytest.mark.parametrize(
    "patch, options",
    [
        ("world-tag", {"ARM_WORLD_TAG": False, "ALLOW_SMC_CALLS": False}),
        ("foreign-interrupts", {"ARM_FOREIGN_INTERRUPTS": False}),
    ],
)
def test_an_option_that_is_off_changes_no_code(
    config: MachineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patch: str, options: dict[str, bool]
) -> None:
    """Release kernel without an option: the same bytes as without its patch."""
    import harness.build.kernel
    import harness.build.patches

    def image(elf: Path) -> bytes:
        output = tmp_path / "image"
        subprocess.run([CROSS + "objcopy", "-O", "binary", str(elf), str(output)], check=True)
        return output.read_bytes()

    off = with_options(config, **options)
    with_patch = image(build_kernel(off, release=True).elf)
    series = [path for path in harness.build.patches.read_series() if not path.name.endswith(f"-{patch}.patch")]
    assert len(series) + 1 == len(harness.build.patches.read_series())
    monkeypatch.setattr(harness.build.kernel, "_options_of_series", lambda: frozenset(off.kernel.options))
    for module in (harness.build.kernel, harness.build.patches):
        monkeypatch.setattr(module, "read_series", lambda: series)
    assert image(build_kernel(off, release=True).elf) == with_patch
