# SPDX-License-Identifier: BSD-2-Clause
"""A finding's directory: what is written is read back, and a damaged one is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.configs import load_config
from harness.errors import FindingError, OutputError
from harness.findings import bundle
from harness.findings.bundle import Material, hash_mismatches, read_bundle, write_bundle
from harness.findings.finding import Finding
from harness.machine.memory import Bank, Image
from harness.protocol import PAGE


def pages(*values: int) -> Image:
    """Two banks; the first is as long as there are values, each of which fills a page."""
    content = np.repeat(np.array(values, np.uint8), PAGE)
    return Image((Bank("one", 0x1000, len(content)), Bank("other", 0x40000000, PAGE)), {0x1000: content})


def example(**changes: Any) -> Finding:
    fields: dict[str, Any] = {
        "signature": "ns_bit_matches_world:frame:ARM_Page_Map",
        "kind": "violation",
        "invariant": "ns_bit_matches_world",
        "message": "leaf",
        "evidence": {"address": 0x40200000},
        "place": "frame",
        "label": "ARM_Page_Map",
        "first_call": 1,
        "outcome": "done",
        "config": "spanning-el1",
        "hashes": {"kernel": "aa", "firmware": "bb"},
        "reproduce": "bothworlds repro X",
    }
    return Finding.model_validate(fields | changes)


def material(**changes: Any) -> Material:
    fields: dict[str, Any] = {
        "program": bytes(64), "program_yaml": "calls: []\n", "config": load_config(),
        "memory": pages(1, 2, 0), "consoles": {"kernel": "hello"},
        "registers": {"x": np.arange(3, dtype=np.uint64)}, "backtrace": ["halt"],
    }  # fmt: skip
    return Material(**(fields | changes))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path, new = write_bundle(tmp_path, example(), material())
    assert new
    return path


def test_read_gives_back_what_was_written(written: Path) -> None:
    read = read_bundle(written)
    assert read.finding == example() and read.program == bytes(64) and read.config == load_config()
    assert read.memory().read(0x1FFE, 4) == b"\1\1\2\2"
    assert read.memory().read(0x3000, PAGE) == bytes(PAGE)
    assert read_bundle(written / "finding.yaml").finding == example()
    assert "0x40200000" in (written / "finding.yaml").read_text()
    assert sorted(p.name for p in written.parent.iterdir()) == [written.name], "nothing unfinished is left"


def test_the_first_of_two_equal_findings_stays(written: Path) -> None:
    path, new = write_bundle(written.parent, example(message="other"), material())
    assert path == written and not new
    assert read_bundle(path).finding.message == "leaf"


def test_extra_patches_travel_with_the_finding(tmp_path: Path) -> None:
    patch = tmp_path / "one.patch"
    patch.write_text("patch")
    path, _ = write_bundle(tmp_path / "out", example(extra_patches=["one.patch"]), material(patches=[patch]))
    assert read_bundle(path).patches[0].read_text() == "patch"
    (path / "patches" / "one.patch").unlink()
    with pytest.raises(FindingError, match=r"one\.patch: missing"):
        read_bundle(path)


@pytest.mark.parametrize("name", ["finding.yaml", "program.bytes", "config.yaml"])
def test_a_missing_file_is_named(written: Path, name: str) -> None:
    (written / name).unlink()
    with pytest.raises(FindingError, match=f"{name}: missing"):
        read_bundle(written)


def test_a_truncated_program_is_refused(written: Path) -> None:
    (written / "program.bytes").write_bytes(bytes(63))
    with pytest.raises(FindingError, match=r"program\.bytes: 63 bytes are not whole calls.*truncated"):
        read_bundle(written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signature": "x"}, "field 'signature'"),
        ({"first_call": "later"}, "field 'first_call'"),
        ({"first_call": 7}, "field 'first_call' is 7, but program.bytes holds 2 calls"),
        ({"hashes": None}, "field 'hashes'"),
        ({"surprise": 1}, "field 'surprise'"),
        ({"extra_patches": ["../../etc/passwd"]}, "passwd: missing"),
    ],
)
def test_a_bad_field_is_named(written: Path, changes: dict[str, Any], message: str) -> None:
    file = written / "finding.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
    with pytest.raises(FindingError, match=message):
        read_bundle(written)


@settings(max_examples=100)
@given(content=st.binary(max_size=200))
def test_random_content_gives_a_finding_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    directory = tmp_path_factory.mktemp("random")
    (directory / "finding.yaml").write_bytes(content)
    with pytest.raises(FindingError, match=r"finding\.yaml"):
        read_bundle(directory)


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_truncated_memory_image_is_refused(written: Path, keep: int) -> None:
    file = written / bundle.MEMORY_FILE
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(FindingError, match=r"memory\.image\.gz: (not a memory image|truncated)"):
        read_bundle(written).memory()


def test_a_finding_without_memory_says_so(written: Path) -> None:
    (written / bundle.MEMORY_FILE).unlink()
    with pytest.raises(FindingError, match=r"memory\.image\.gz: missing"):
        read_bundle(written).memory()


def test_hashes_of_another_build_are_named() -> None:
    assert hash_mismatches(example(), {"kernel": "aa", "firmware": "bb"}) == []
    assert hash_mismatches(example(), {"kernel": "ab", "firmware": "bb"}) == ["kernel is ab, the finding's is aa"]


def test_a_directory_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_bundle(blocker / "findings", example(), material())
