# SPDX-License-Identifier: BSD-2-Clause
"""Corpora keep what adds coverage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import corpus, reduction
from harness.errors import InputError, OutputError
from harness.files import UNFINISHED, remove_unfinished
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from tests.unit import programs_support


@pytest.fixture
def interface() -> Interface:
    return programs_support.interface()


class Toy:
    """Covers block b as often as the byte b occurs in the program."""

    def __init__(self) -> None:
        self.coverage = np.zeros(256, np.uint8)

    def run(self, program: bytes) -> None:
        counts = np.bincount(np.frombuffer(program, np.uint8), minlength=256)
        self.coverage[:] = np.minimum(counts, 255)

    def replace(self) -> None:
        raise AssertionError("this machine is never lost")


def fill(directory: Path, *programs: bytes) -> Path:
    for program in programs:
        corpus.add_program(directory, program)
    return directory


def test_short_programs_come_first_and_names_are_content(tmp_path: Path) -> None:
    fill(tmp_path, b"bbb", b"a", b"a", b"cc")
    assert corpus.read_corpus(tmp_path) == [b"a", b"cc", b"bbb"]
    assert not corpus.add_program(tmp_path, b"a")
    assert (tmp_path / corpus.file_name(b"a")).read_bytes() == b"a"


def test_minimising_keeps_the_fewest_that_reach_all(tmp_path: Path) -> None:
    fill(tmp_path, b"a", b"b", b"ab", b"aab", b"abc", b"bca")
    done = reduction.minimise(Toy(), tmp_path)
    assert (done.kept, done.there, done.blocks, done.kept_bytes, done.bytes) == (2, 6, 3, 6, 13)
    assert corpus.read_corpus(tmp_path) == [b"aab", b"abc"], "counts are kept as well"
    assert reduction.minimise(Toy(), tmp_path, blocks_only=True).kept == 1
    assert corpus.read_corpus(tmp_path) == [b"abc"]


@given(st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=12))
def test_minimising_keeps_coverage_and_nothing_needless(programs: list[bytes]) -> None:
    reached = reduction.run_all(Toy(), programs)
    chosen = reduction.fewest(reached.features)
    assert (np.bitwise_or.reduce(reached.features[chosen]) == np.bitwise_or.reduce(reached.features)).all()
    for row in chosen:
        rest = [other for other in chosen if other != row]
        without = np.bitwise_or.reduce(reached.features[rest]) if rest else np.zeros(256, np.uint8)
        assert (without != np.bitwise_or.reduce(reached.features)).any()


def test_merging_adds_what_is_new(tmp_path: Path, interface: Interface) -> None:
    one, other = fill(tmp_path / "one", b"a", b"b"), fill(tmp_path / "other", b"a", b"ba", b"bc")
    assert reduction.merge(Toy(), one, [other], interface) == (1, 2)
    assert corpus.read_corpus(one) == [b"a", b"b", b"bc"]
    assert reduction.merge(Toy(), tmp_path / "new", [other], interface) == (2, 3)


def test_a_torn_file_is_no_program(tmp_path: Path) -> None:
    fill(tmp_path, b"abc", b"de")
    (tmp_path / corpus.file_name(b"abc")).write_bytes(b"a")
    (tmp_path / "named-by-hand").write_bytes(b"f")
    (tmp_path / f"{UNFINISHED}x").write_bytes(b"g")
    assert corpus.read_corpus(tmp_path) == [b"f", b"de"]
    remove_unfinished(tmp_path)
    assert not list(tmp_path.glob(f"{UNFINISHED}*"))


def renamed(interface: Interface, without: str) -> Interface:
    """The same calls in another order, without one of them."""
    calls = tuple(call for call in interface.calls[::-1] if call.name != without)
    return Interface(calls, interface.pools, interface.population)


YAML = "calls:\n- {call: ARM_Page_Unmap, target: page-n-mapped}\n- {call: Yield}\n"
FIRST = """
calls:
- {call: CNode_Copy, target: cnode, with: {dest_index: 'free:0', src_index: page-n-mapped, rights: read}}
"""


def test_a_corpus_of_another_call_table_is_encoded_again(tmp_path: Path, interface: Interface) -> None:
    directory = tmp_path / "corpus"
    fill(directory, *(Program.from_yaml(text, interface).to_bytes() for text in (YAML, FIRST)))
    corpus.write_interface(directory, interface)
    assert corpus.renew(directory, interface) == "" and len(corpus.read_corpus(directory)) == 2
    other = renamed(interface, without="CNode_Copy")
    said = corpus.renew(directory, other)
    assert "another call table" in said and "1 programs were encoded again" in said and "1 have calls" in said
    (program,) = corpus.read_corpus(directory)
    assert Program.from_bytes(program, other).to_yaml() == Program.from_yaml(YAML, interface).to_yaml()
    (old,) = [path for path in tmp_path.iterdir() if path != directory]
    assert str(old) in said and len(corpus.read_corpus(old)) == 2, "nothing is thrown away"
    assert corpus.renew(directory, other) == ""
    for table in (interface, other):  # as debug and release kernels in turn
        corpus.renew(directory, table)
    assert len(list(tmp_path.iterdir())) == 3 and len(corpus.read_corpus(directory)) == 1


def test_a_corpus_with_a_damaged_call_table_is_put_aside(tmp_path: Path, interface: Interface) -> None:
    directory = fill(tmp_path / "corpus", b"a")
    (directory / corpus.INTERFACE).write_text('{"identity": "0123", "calls": [')
    assert "put aside" in corpus.renew(directory, interface)
    assert corpus.read_corpus(directory) == [] and corpus.identity_of(directory) == interface.identity
    with pytest.raises(InputError, match="not a call table"):
        corpus.read_for(next(path for path in tmp_path.iterdir() if path != directory), interface)


def test_missing_and_read_only_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such corpus"):
        corpus.read_corpus(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        corpus.add_program(tmp_path / "file" / "corpus", b"a")
