# SPDX-License-Identifier: BSD-2-Clause
"""The firmware's tables, its build, and the layout of the flash image."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import protocol
from harness.build import firmware as firmware_build
from harness.build.firmware import build_firmware, machine_header, own_firmware, tables_header
from harness.build.flash import BLOCK, BOOT_TABLE_PAGES, LoadedImage, build_flash, flash_bytes, load_image
from harness.build.registers import BANK, BANK_BYTES, bank, bank_register, switched_registers
from harness.build.smc_functions import SMC_DESCRIPTION, Caller, described_smc_functions, load_smc_functions
from harness.configs import Level, MachineConfig, load_config
from harness.errors import BuildFailure, ImageError, InputError, MissingPackage, ProgramError
from harness.kernel_state.elf import Elf

needs_compiler = pytest.mark.skipif(
    shutil.which(firmware_build.COMPILER) is None, reason="the cross compiler is not installed"
)
KERNEL = LoadedImage(b"kernel" * 1000, 0x0E000000, 0xFFFFFF800E000000, 0x22B000 - 8, 0xFFFFFF800E000100)
ROOT_TASK = LoadedImage(b"root" * 100, 0x400000, 0x400000, 0x3210, 0x400040)


def header_of(image: bytes) -> np.void:
    """The flash header of an image."""
    start = protocol.FLASH_HEADER_OFFSET
    header: np.void = np.frombuffer(image[start : start + protocol.FLASH_HEADER.itemsize], protocol.FLASH_HEADER)[0]
    return header


# -- register bank


def test_bank_registers_do_not_overlap() -> None:
    assert [register.index for register in BANK] == list(range(len(BANK)))
    assert len({register.name for register in BANK}) == len(BANK)
    for lower, upper in itertools.pairwise(BANK):
        assert lower.offset + lower.size <= upper.offset
    assert BANK[-1].offset + 16 == BANK_BYTES
    assert all(register.offset % register.size == 0 for register in BANK)


def test_bank_register_by_name() -> None:
    assert bank_register("x30").index == bank_register("x0").index + 30
    assert bank_register("q31") == BANK[-1]
    with pytest.raises(KeyError):
        bank_register("x31")


def test_bank_beside_a_normal_world() -> None:
    """It grows only by what the config asks for; SCR_EL3 and the normal world's timers are in no list of the switch."""
    config = load_config("trusted-os")
    assert config.normal_world is not None
    assert bank(config) == BANK
    normal = config.normal_world.model_copy(update={"level": Level.EL2})
    at_el2 = config.model_copy(update={"normal_world": normal})
    assert {register.name for register in bank(at_el2)} - {register.name for register in BANK} >= {"hcr_el2", "sp_el2"}
    assert switched_registers(at_el2) == switched_registers(config)
    saved = at_el2.model_copy(update={"normal_world": normal.model_copy(update={"save_el2": True})})
    assert set(switched_registers(saved)) - set(switched_registers(config)) >= {"hcr_el2", "sp_el2", "vttbr_el2"}
    assert not {"scr_el3", "cntp_ctl_el0", "cntps_ctl_el1"} & set(switched_registers(saved))
    on_max = config.model_copy(update={"qemu": config.qemu.model_copy(update={"cpu": "max,pauth-impdef=on"})})
    assert "apiakeyhi_el1" in switched_registers(on_max)


# -- SMC functions


def test_smc_functions_of_the_firmware() -> None:
    functions = {function.name: function for function in load_smc_functions()}
    assert functions["echo"].owner == "sip"
    assert functions["smccc_version"].id == 0x80000000


def test_what_only_the_normal_world_may_call() -> None:
    """Programs of victims do not choose from it, and a FEATURES function of S-EL1 does not find it."""
    functions = {function.name: function for function in load_smc_functions()}
    assert functions["cpu_on"].callers == (Caller.NORMAL,)
    assert functions["echo"].callers == (Caller.SECURE, Caller.NORMAL)
    assert "cpu_on" not in {function.name for function in described_smc_functions()}
    tables = tables_header(load_config("trusted-os"))
    macros = dict(re.findall(r"\.macro (\w+) operation\n(.*?)\.endm", tables, re.S))
    assert "cpu_on," not in macros["smc_functions"] + macros["found_by_psci_features"]
    assert "cpu_on," in macros["normal_smc_functions"] and "cpu_on," in macros["normal_found_by_psci_features"]
    assert "normal_smc_functions" not in tables_header(load_config())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("callers: [secure, normal]", "callers: []", ["functions[0].callers"]),
        ("callers: [secure, normal]", "callers: [both]", ["functions[0].callers[0]", "'secure' or 'normal'"]),
        ("owner: sip", "owner: oem", ["functions[6]", "owner 'oem'", "bits 29-24"]),
        ("width: 64", "width: 32", ["functions[6]", "bit 30"]),
        ("id: 0xc2000001", "id: 0x42000001", ["not a fast call"]),
        ("id: 0x80000001", "id: 0x80000000", ["two functions have the id 0x80000000"]),
        ("name: echo", "name: psci_version", ["two functions are called 'psci_version'"]),
        ("name: echo", "nama: echo", ["functions[6].name", "functions[6].nama"]),
        ("[psci_features]", "[psci_feature]", ["found_by 'psci_feature', which does not exist"]),
        ("functions:", "functions: [", ["not YAML"]),
    ],
)
def test_a_bad_smc_description_is_refused(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    path = tmp_path / "smc.yaml"
    path.write_text(SMC_DESCRIPTION.read_text().replace(old, new, 1))
    with pytest.raises(InputError) as error:
        load_smc_functions(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_a_missing_smc_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_smc_functions(tmp_path / "none.yaml")


# -- generated headers


def test_headers_hold_config_and_tables(config: MachineConfig) -> None:
    assert "#define BW_REGION_UART1_BASE 0x9040000\n" in machine_header(config)
    assert f"#define BW_EXCHANGE_AREA_SIZE {config.exchange.size:#x}\n" in machine_header(config)
    tables = tables_header()
    assert "\t\\operation echo, 0xc2000001\n" in tables
    assert f"#define BW_BANK_BYTES {BANK_BYTES:#x}\n" in tables
    assert "#define BW_COMMAND_INVALIDATE_TLB_BIT 1\n" in tables


def test_headers_of_a_normal_world(config: MachineConfig) -> None:
    with_one = load_config("trusted-os")
    assert "NORMAL_WORLD" not in machine_header(config) and "normal_lines" not in tables_header(config)
    header = machine_header(with_one)
    assert "#define BW_NORMAL_WORLD 1\n#define BW_NORMAL_LEVEL 1\n" in header
    assert with_one.normal_world is not None
    assert f"#define BW_NORMAL_SHARED_BASE {with_one.normal_world.shared.base:#x}\n" in header
    lines = re.findall(r"\\operation (\d), (0x\w+)", tables_header(with_one).partition("normal_lines")[2])
    found = {32 * int(word) + bit for word, bits in lines for bit in range(32) if int(bits, 16) >> bit & 1}
    assert found == set(with_one.normal_world.interrupts)


# -- build


@needs_compiler
def test_without_a_normal_world_nothing_of_it_is_there(config: MachineConfig) -> None:
    own = {"normal_smc", "switch_worlds", "smc_cpu_on", "assign_interrupts", "normal_world", "worlds", "normal_header"}
    assert own <= set(Elf(build_firmware(load_config("trusted-os")).elf).symbols)
    assert not own & set(Elf(build_firmware(config).elf).symbols)


@needs_compiler
def test_symbols_lines_and_reproducibility(
    config: MachineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_firmware(config)
    elf = Elf(first.elf)
    assert elf.symbol("report").address == config.firmware_ram.base
    assert elf.symbol("message").address == config.firmware_ram.base + protocol.MESSAGE_OFFSET
    assert elf.symbol("flash_header").address == protocol.FLASH_HEADER_OFFSET
    place = elf.lines.at(elf.symbol("park_pc").address)
    assert place is not None and place[0].endswith("guest_images/firmware/park.S")
    assert "nop" in (firmware_build.SOURCES / "park.S").read_text().splitlines()[place[1] - 1]
    assert len(first.binary.read_bytes()) == elf.symbol("firmware_image_end").address

    # The same sources in another place, built into another cache.
    project = tmp_path / "another place"
    sources = project / "guest_images" / "firmware"
    shutil.copytree(firmware_build.SOURCES, sources)
    monkeypatch.setattr(firmware_build, "PROJECT", project)
    monkeypatch.setattr(firmware_build, "SOURCES", sources)
    monkeypatch.setenv("BOTHWORLDS_CACHE", str(tmp_path / "cache"))
    second = build_firmware(config)
    assert second.hash == first.hash
    assert second.elf != first.elf
    assert second.elf.read_bytes() == first.elf.read_bytes()


@needs_compiler
def test_the_cache_follows_the_inputs(config: MachineConfig) -> None:
    first = build_firmware(config)
    assert build_firmware(config).elf == first.elf
    moved = config.model_copy(
        update={"exchange": config.exchange.model_copy(update={"base": config.exchange.base + 0x10000})}
    )
    assert build_firmware(moved).elf != first.elf


def test_no_constant_of_the_machine_is_in_the_sources(config: MachineConfig) -> None:
    addresses = {region.base for region in config.regions} | {config.exchange.base}
    for source in firmware_build.SOURCES.glob("*.[Shl]*"):
        numbers = {int(text, 16) for text in re.findall(r"\b0x[0-9a-fA-F]+", source.read_text())}
        assert not numbers & addresses - {0}, source


@needs_compiler
def test_a_source_that_does_not_assemble(
    config: MachineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "firmware"
    shutil.copytree(firmware_build.SOURCES, sources)
    (sources / "park.S").write_text("        nonsense x0\n")
    monkeypatch.setattr(firmware_build, "PROJECT", tmp_path)
    monkeypatch.setattr(firmware_build, "SOURCES", sources)
    with pytest.raises(BuildFailure, match=r"park\.S:1: Error: unknown mnemonic"):
        build_firmware(config)


def test_without_the_cross_compiler(config: MachineConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackage, match="apt-get install"):
        build_firmware(config)


@needs_compiler
def test_a_firmware_without_a_normal_world_is_refused_beside_one(config: MachineConfig) -> None:
    """The flash image would overwrite its code with the second header."""
    plain = build_firmware(config).elf
    assert own_firmware(config, plain).binary.read_bytes() == build_firmware(config).binary.read_bytes()
    with pytest.raises(ImageError, match="no symbol 'worlds'"):
        own_firmware(load_config("trusted-os"), plain)


# -- flash image


def test_flash_layout(config: MachineConfig) -> None:
    program = bytes(range(protocol.CALL_BYTES)) * 3 + b"rest"
    image = flash_bytes(config, KERNEL, ROOT_TASK, b"f" * 0x2100, program)
    header = header_of(image)
    assert image[:0x40] == b"f" * 0x40
    for name, loaded in (("kernel", KERNEL), ("root_task", ROOT_TASK)):
        entry = header[name]
        start = int(entry["source"])
        assert start % protocol.PAGE == 0
        assert image[start : start + len(loaded.contents)] == loaded.contents
        assert entry["file_bytes"] % 16 == 0 and entry["memory_bytes"] % 16 == 0
        assert 0 <= int(entry["memory_bytes"]) - loaded.memory_bytes < 16
    assert int(header["kernel"]["destination"]) == KERNEL.physical
    destination = int(header["root_task"]["destination"])
    assert destination == KERNEL.physical + 0x22B000
    assert int(header["kernel_map_bytes"]) == 2 * BLOCK
    assert int(header["boot_tables"]) == config.secure_ram.end - BOOT_TABLE_PAGES * protocol.PAGE
    offset = (destination - ROOT_TASK.virtual) % (1 << 64)
    assert header["boot_arguments"].tolist() == [destination, destination + 0x4000, offset, ROOT_TASK.entry]
    start, calls = int(header["program"]), int(header["program_calls"])
    assert calls == 3 and image[start : start + 3 * protocol.CALL_BYTES] == program[:-4]
    assert len(image) % protocol.PAGE == 0


def test_flash_without_a_program(config: MachineConfig) -> None:
    header = header_of(flash_bytes(config, KERNEL, ROOT_TASK, bytes(0x2000), b""))
    assert (int(header["program"]), int(header["program_calls"])) == (0, 0)


@given(kernel=st.integers(1, 0x1000000), root_task=st.integers(1, 0x1000000))
def test_images_lie_in_secure_ram_or_are_refused(config: MachineConfig, kernel: int, root_task: int) -> None:
    loaded = LoadedImage(b"k", KERNEL.physical, KERNEL.virtual, kernel, KERNEL.entry)
    task = LoadedImage(b"r", ROOT_TASK.physical, ROOT_TASK.virtual, root_task, ROOT_TASK.entry)
    try:
        header = header_of(flash_bytes(config, loaded, task, bytes(0x2000), b""))
    except BuildFailure as error:
        assert "secure RAM" in str(error) and kernel + root_task + 6 * protocol.PAGE > config.secure_ram.size
        return
    end = int(header["root_task"]["destination"]) + root_task
    assert KERNEL.physical + kernel <= int(header["root_task"]["destination"]) and end <= int(header["boot_tables"])


def test_what_does_not_fit_is_refused(config: MachineConfig) -> None:
    with pytest.raises(ProgramError, match="257 calls"):
        flash_bytes(config, KERNEL, ROOT_TASK, bytes(0x2000), bytes(257 * protocol.CALL_BYTES))
    elsewhere = LoadedImage(b"k", 0x60000000, KERNEL.virtual, 4096, KERNEL.entry)
    with pytest.raises(BuildFailure, match="secure-ram"):
        flash_bytes(config, elsewhere, ROOT_TASK, bytes(0x2000), b"")
    odd = LoadedImage(b"r", 0x400010, 0x400010, 4096, 0x400010)
    with pytest.raises(BuildFailure, match="not on a page"):
        flash_bytes(config, KERNEL, odd, bytes(0x2000), b"")


def test_flash_with_a_normal_world() -> None:
    config = load_config("trusted-os")
    assert config.normal_world is not None
    base, end = config.normal_world.memory.base, config.normal_world.memory.end
    program = LoadedImage(b"normal" * 100, base, base, 0x3000, base + 4)
    image = flash_bytes(config, KERNEL, ROOT_TASK, bytes(0x2000), b"", program)
    start = protocol.NORMAL_HEADER_OFFSET
    header = np.frombuffer(image[start : start + protocol.NORMAL_HEADER.itemsize], protocol.NORMAL_HEADER)[0]
    source = int(header["image"]["source"])
    assert image[source : source + 600] == program.contents
    assert (int(header["image"]["destination"]), int(header["entry"])) == (base, base + 4)
    with pytest.raises(BuildFailure, match="no program for it was built"):
        flash_bytes(config, KERNEL, ROOT_TASK, bytes(0x2000), b"")
    for lower, size in ((base - 0x1000, 0x1000), (end - 0x1000, 0x2000)):
        with pytest.raises(BuildFailure, match="normal world's program needs"):
            flash_bytes(config, KERNEL, ROOT_TASK, bytes(0x2000), b"", LoadedImage(b"n", lower, lower, size, lower))


@needs_compiler
def test_build_flash_is_content_addressed(config: MachineConfig, tmp_path: Path) -> None:
    class Parts:
        elf = tmp_path / "kernel.elf"
        root_task_elf = tmp_path / "root_task.elf"

    compiler = shutil.which(firmware_build.COMPILER)
    assert compiler
    (tmp_path / "a.S").write_text(".globl _start\n_start: nop\n")
    for output, address in ((Parts.elf, config.secure_ram.base), (Parts.root_task_elf, 0x400000)):
        options = ["-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,-n", f"-Wl,-Ttext={address:#x}"]
        subprocess.run([compiler, *options, "-o", str(output), str(tmp_path / "a.S")], check=True)
    firmware = build_firmware(config)
    first = build_flash(config, Parts(), Parts(), firmware)
    assert build_flash(config, Parts(), Parts(), firmware) == first
    assert build_flash(config, Parts(), Parts(), firmware, program=bytes(protocol.CALL_BYTES)) != first
    assert first.read_bytes()[:0x40] == firmware.binary.read_bytes()[:0x40]


def test_files_that_are_no_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        load_image(tmp_path / "none.elf")
    (tmp_path / "random.elf").write_bytes(b"\x7fELF" + bytes(range(200)))
    with pytest.raises(ImageError, match=r"random\.elf"):
        load_image(tmp_path / "random.elf")
