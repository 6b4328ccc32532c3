# SPDX-License-Identifier: BSD-2-Clause
"""ELF files, DWARF, static blocks and call stacks, on a small program that is compiled here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.build.blocks import StaticBlocks, blocks_of_files
from harness.build.code_blocks import Phase
from harness.errors import ImageError
from harness.kernel_state.backtrace import MAXIMUM_FRAMES, backtrace
from harness.kernel_state.dwarf import from_plain, read_types, to_plain
from harness.kernel_state.elf import Elf
from tests.unit.kernel_state_support import Memory

ASSEMBLY = """
    .section .boot.text, "ax"
    .globl _start
    .type _start, %function
_start:
    ldr x0, =the_vectors
    bl once
    b .
    .size _start, . - _start
    .ltorg
    .text
    .balign 0x800
    .globl the_vectors
the_vectors:
    .rept 16
    b handle
    .balign 0x80
    .endr
    .type handle, %function
handle:
    bl outer
    eret
    .size handle, . - handle
"""

CODE = """
enum colour { RED = 1, GREEN = 5 };
typedef struct pair { unsigned int first; unsigned long second[3]; } pair_t;
struct outer { pair_t pair; enum colour colour; char name[]; };
struct outer state[4];
volatile int sink;
__attribute__((noinline)) int chosen(int x)
{
    switch (x) {
    case 0: sink = 7; return sink;
    case 1: sink = 1; return sink + sink;
    case 2: return sink * 3;
    case 3: sink = 8; sink = 9; return 4;
    case 4: return sink - 3;
    case 5: sink = 2; return 77;
    case 6: sink = 3; return sink / 3;
    default: return 0;
    }
}
__attribute__((noinline)) int inner(int x) { sink = x; return chosen(x) + sink; }
__attribute__((noinline)) void outer(void) { sink = inner(sink) + 1; state[1].colour = GREEN; }
__attribute__((noinline)) void unused(void) { sink = 3; }
__attribute__((section(".boot.text"))) void once(void) { sink = 1; if (sink) sink = 2; }
"""

SCRIPT = """
ENTRY(_start)
SECTIONS {
    . = 0xffffff8040000000;
    .boot : AT(ADDR(.boot) - 0xffffff8000000000) { *(.boot.text) }
    .text ALIGN(0x800) : AT(ADDR(.text) - 0xffffff8000000000) { *(.text) }
    .rodata : AT(ADDR(.rodata) - 0xffffff8000000000) { *(.rodata*) }
    .bss : AT(ADDR(.bss) - 0xffffff8000000000) { *(.bss) *(COMMON) }
}
"""
OFFSET = 0xFFFFFF8000000000


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("program")
    for name, text in (("start.S", ASSEMBLY), ("code.c", CODE), ("link.lds", SCRIPT)):
        (directory / name).write_text(text)
    flags = "-O2 -g -ffreestanding -nostdlib -static -fno-pie -no-pie -fno-stack-protector".split()
    # As the kernel is built: call frame information for debuggers only.
    flags += ["-fno-unwind-tables", "-fno-asynchronous-unwind-tables"]
    command = ["aarch64-linux-gnu-gcc", *flags, "-Wl,--build-id=none,--no-warn-rwx-segments", "-T", "link.lds"]
    subprocess.run([*command, "-o", "program.elf", "start.S", "code.c"], cwd=directory, check=True)
    return directory / "program.elf"


@pytest.fixture(scope="module")
def elf(program: Path) -> Elf:
    return Elf(program)


@pytest.fixture(scope="module")
def blocks(program: Path, tmp_path_factory: pytest.TempPathFactory) -> StaticBlocks:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOTHWORLDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        first = blocks_of_files({"kernel": program}, [str(program.parent)])
        again = blocks_of_files({"kernel": program}, [str(program.parent)])
    assert again.address.tolist() == first.address.tolist()
    assert again.functions == first.functions
    return again


def test_symbols_lines_and_addresses(elf: Elf) -> None:
    outer = elf.symbol("outer")
    assert outer.kind == "FUNC"
    assert elf.function_at(outer.address + 4) == outer
    assert elf.function_at(0x1000) is None
    assert elf.physical(outer.address) == outer.address - OFFSET
    place = elf.lines.at(outer.address)
    assert place is not None and place[0].endswith("code.c")
    assert CODE.splitlines()[place[1] - 1].startswith("__attribute__((noinline)) void outer")
    assert elf.read(elf.symbol("state").address, 16) == bytes(16)
    assert elf.entry == elf.symbol("_start").address
    with pytest.raises(ImageError, match="no symbol 'absent'"):
        elf.symbol("absent")
    with pytest.raises(ImageError, match="0x10"):
        elf.read(0x10, 4)


def test_what_is_no_elf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no ELF file")
    for name in ("text", "absent"):
        with pytest.raises(ImageError, match=name):
            Elf(tmp_path / name)


def test_types_from_dwarf_survive_the_cache(elf: Elf) -> None:
    types = read_types(elf)
    assert types.structs["pair_t"]["second"].offset == 8
    assert types.structs["pair"]["second"].dimensions == (3,)
    assert types.structs["outer"].members["name"].size == 0
    assert types.structs["outer"].size == 40
    assert types.constants == {"RED": 1, "GREEN": 5}
    assert types.variables["state"].dimensions == (4,)
    assert types.variables["state"].address == elf.symbol("state").address
    assert from_plain(to_plain(types)) == types


def test_blocks_know_when_they_can_run(blocks: StaticBlocks) -> None:
    phases: dict[str, set[Phase]] = {}
    for block in range(len(blocks)):
        name = blocks.functions[int(blocks.function[block])]
        phases.setdefault(name, set()).add(Phase(int(blocks.phase[block])))
    assert phases["chosen"] == phases["inner"] == phases["outer"] == phases["handle"] == {Phase.RUNTIME}
    assert phases["_start"] == phases["once"] == {Phase.BOOT}
    assert phases["unused"] == {Phase.UNUSED}
    assert blocks.reachable().sum() == (blocks.phase == Phase.RUNTIME).sum()
    assert not blocks.halts.any()


def test_switch_statements_are_followed(blocks: StaticBlocks) -> None:
    chosen = [b for b in range(len(blocks)) if blocks.functions[int(blocks.function[b])] == "chosen"]
    # Entry, the branch and at least seven cases.
    assert len(chosen) >= 9
    assert all(blocks.phase[b] == Phase.RUNTIME for b in chosen)


def test_blocks_are_sorted_apart_and_have_a_source(blocks: StaticBlocks) -> None:
    ends = blocks.address + blocks.size.astype("u8")
    assert (ends[:-1] <= blocks.address[1:]).all()
    assert (blocks.physical + OFFSET == blocks.address).all()
    inner = next(b for b in range(len(blocks)) if blocks.functions[int(blocks.function[b])] == "inner")
    assert blocks.source(inner).startswith("code.c:")
    assert blocks.describe(inner).startswith("kernel inner code.c:")
    assert blocks.leaders("kernel").tolist() == sorted(blocks.address.tolist())


def stack_of(elf: Elf) -> tuple[Memory, dict[str, int]]:
    """Memory and registers as they are in `chosen`, called by `inner`, `outer` and `handle`."""
    memory = Memory(0x40000000, 0x10000)
    top = 0x4000F000
    frames = {"inner": 0, "outer": 0}
    for name in frames:
        function = elf.symbol(name)
        code = elf.read(function.address, function.size)
        words = [int.from_bytes(code[i : i + 4], "little") for i in range(0, len(code), 4)]
        # stp x29, x30, [sp, #-n]! with n in units of 8 bytes
        frames[name] = next(-((w >> 15 & 0x7F) - 0x80) * 8 for w in words if w & 0xFFC07FFF == 0xA9807BFD)

    def after_call(name: str) -> int:
        function = elf.symbol(name)
        for address in range(function.address, function.address + function.size, 4):
            if int.from_bytes(elf.read(address, 4), "little") >> 26 == 0x25:
                return address + 4
        raise AssertionError(name)

    outer_sp = top - frames["outer"]
    inner_sp = outer_sp - frames["inner"]
    memory.put(outer_sp, 0, after_call("handle"))
    memory.put(inner_sp, outer_sp + OFFSET, after_call("outer"))
    registers = {"pc": elf.symbol("chosen").address, "sp": inner_sp + OFFSET, "x29": inner_sp + OFFSET}
    return memory, registers | {"x30": after_call("inner")}


def test_a_call_stack_is_unwound_by_its_frame_information(elf: Elf) -> None:
    memory, registers = stack_of(elf)
    frames = backtrace(elf, registers, memory)
    assert [frame.function for frame in frames] == ["chosen", "inner", "outer", "handle"]
    assert "code.c" in frames[1].source
    assert str(frames[0]).endswith(")")


def test_a_stack_that_makes_no_sense_is_short(elf: Elf) -> None:
    memory, registers = stack_of(elf)
    assert backtrace(elf, registers | {"sp": 0x123}, memory)[0].function == "chosen"
    assert len(backtrace(elf, registers | {"x30": registers["pc"]}, memory)) <= MAXIMUM_FRAMES
    assert backtrace(elf, registers | {"pc": 0x400000}, memory) == []
