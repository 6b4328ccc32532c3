# SPDX-License-Identifier: BSD-2-Clause
"""Corpora keep what adds coverage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fuzz import corpus
from harness.errors import InputError, OutputError


class Toy:
    """Covers block b as often as the byte b occurs in the program."""

    def __init__(self) -> None:
        self.coverage = np.zeros(256, np.uint8)

    def run(self, program: bytes) -> None:
        counts = np.bincount(np.frombuffer(program, np.uint8), minlength=256)
        self.coverage[:] = np.minimum(counts, 255)


def fill(directory: Path, *programs: bytes) -> Path:
    for program in programs:
        corpus.add_program(directory, program)
    return directory


def test_short_programs_come_first_and_names_are_content(tmp_path: Path) -> None:
    fill(tmp_path, b"bbb", b"a", b"a", b"cc")
    assert corpus.read_corpus(tmp_path) == [b"a", b"cc", b"bbb"]
    assert not corpus.add_program(tmp_path, b"a")
    assert (tmp_path / corpus.file_name(b"a")).read_bytes() == b"a"


def test_minimising_keeps_what_reaches_more(tmp_path: Path) -> None:
    fill(tmp_path, b"a", b"b", b"ab", b"aab", b"abc", b"bca")
    assert corpus.minimise(Toy(), tmp_path) == (4, 6)
    assert corpus.read_corpus(tmp_path) == [b"a", b"b", b"aab", b"abc"]


def test_merging_adds_what_is_new(tmp_path: Path) -> None:
    one, other = fill(tmp_path / "one", b"a", b"b"), fill(tmp_path / "other", b"a", b"ba", b"bc")
    assert corpus.merge(Toy(), one, [other]) == (1, 2)
    assert corpus.read_corpus(one) == [b"a", b"b", b"bc"]
    assert corpus.merge(Toy(), tmp_path / "new", [other]) == (3, 3)


def test_missing_and_read_only_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such corpus"):
        corpus.read_corpus(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        corpus.add_program(tmp_path / "file" / "corpus", b"a")
