# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds check`: the system as trees, from a machine, a program, a finding's image or the bytes of RAM."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from fuzz.bench_checks import MANY_OBJECTS
from harness import cli
from harness.build.artefacts import PROJECT
from harness.execution.executor import Executor
from harness.invariants.registry import Checker
from harness.kernel_state.layout import Layout
from harness.machine.memory import Image
from harness.programs.interfaces import Interface
from harness.programs.program import Program

EXAMPLES = PROJECT / "examples"


@pytest.fixture(scope="module")
def image(shared_executor: Executor) -> Image:
    return shared_executor.snapshot


@pytest.fixture(scope="module")
def raw(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bytes of secure RAM."""
    path = tmp_path_factory.mktemp("raw") / "ram.bin"
    path.write_bytes(image.read(image.banks[0].base, image.banks[0].size))
    return path


def check(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> list[str]:
    """Lines that the command prints on standard output, or its error."""
    capsys.readouterr()
    found = cli.execute(["check", *map(str, arguments)])
    said = capsys.readouterr()
    assert found == code, said.out + said.err
    return (said.out if code != 2 else said.err).splitlines()


def line(found: list[str], *words: str) -> str:
    """The first line that holds all these words."""
    return next(text for text in found if all(word in text for word in words))


def test_the_machine_in_counts_and_every_invariant(capsys: pytest.CaptureFixture[str]) -> None:
    found = check(capsys, "--after", EXAMPLES / "page-tables.yaml")
    for view in ("untypeds: ", "cspaces: ", "vspaces: ", "threads: "):
        line(found, view)
    assert line(found, "ns_bit_matches_world").split()[2] == "held"


def test_all_trees_name_what_the_population_names(capsys: pytest.CaptureFixture[str], raw: Path, image: Image) -> None:
    path = raw.with_name("memory.image.gz")
    path.write_bytes(gzip.compress(image.to_bytes(), 1))
    found = check(capsys, path, "--tree", "all")
    line(found, "untyped 256 KiB", "secure (arena-secure)")
    line(found, "inbox-badged: endpoint", "(inbox) RWG badge 0x51")
    line(found, "page-n: frame 4 KiB non-secure", "(page-n-a)")
    line(found, "(secure's vspace)", "ASID", "live in TTBR0")
    line(found, "0x10200000..0x103fffff ->", "2 MiB rw- cached secure, secure-ram (large-s-a)")
    line(found, "0x40000000..0x7fffffff -> 0x80000000 1 GiB", "non-secure, normal-ram (huge-n)")
    line(found, "inbox: Send: sender-a, sender-b, sender-c")
    assert not [text for text in found if "WRONG" in text or "BROKEN" in text]


def test_the_bytes_of_ram_are_enough(capsys: pytest.CaptureFixture[str], raw: Path) -> None:
    threads = check(capsys, raw, "--tree", "threads", "--depth", "1")
    line(threads, "  Running: 2 threads")
    assert not [text for text in threads if text.startswith("    ")]
    moved = raw.with_name("moved.bin")
    moved.write_bytes(bytes(4096) + raw.read_bytes())
    check(capsys, moved, "--base", hex(0xE000000 - 4096))


def test_the_untypeds_after_a_program(capsys: pytest.CaptureFixture[str], executor: Executor) -> None:
    found = check(capsys, "--after", MANY_OBJECTS, "--tree", "untypeds")
    line(found, "256 x endpoint 16 bytes")
    line(found, "256 x notification 32 bytes")
    interface = Interface.load(executor.artefacts)
    observation = executor.run(Program.load(MANY_OBJECTS, interface).to_bytes())
    built = executor.artefacts
    checker = Checker(Layout.from_artefacts(built), built.config, executor.snapshot, interface=interface)
    report = checker.check(executor.memory, observation)
    assert report.held
    made = len(checker.state(executor.memory, observation).caps) - len(checker.snapshot.caps)
    assert made > 1000, "each of them is the only capability to a new object"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("short.bin", bytes(1 << 20), "holds 0xe000000..0xe100000"),
        ("empty.bin", b"", "empty"),
        ("zeros.bin", bytes(1 << 24), "not of this build"),
        ("broken.gz", b"\x1f\x8b" + bytes(100), "damaged"),
        ("broken.image", b"PK" + bytes(100), "not a memory image"),
    ],
)
def test_files_that_hold_no_machine(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = check(capsys, path, code=2)
    assert len(message) == 1
    assert str(path) in message[0]
    assert words in message[0]


def test_what_another_kernel_left_is_refused_unless_forced(
    capsys: pytest.CaptureFixture[str], raw: Path, tmp_path: Path
) -> None:
    assert "--release or --extra-patch" in check(capsys, raw, "--release", code=2)[0]
    zeros = tmp_path / "zeros.bin"
    zeros.write_bytes(bytes(1 << 24))
    message = check(capsys, zeros, "--force", code=2)
    assert f"{zeros}: the memory holds no capabilities" in message[0]


def test_an_address_that_is_none(capsys: pytest.CaptureFixture[str], raw: Path) -> None:
    assert "--base somewhere: not an address" in check(capsys, raw, "--base", "somewhere", code=2)[0]


def test_what_is_neither_config_nor_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no such finding" in check(capsys, tmp_path / "nothing", code=2)[0]
