# SPDX-License-Identifier: BSD-2-Clause
"""The pinned kernel source and the cache that holds it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from harness.build import source
from harness.build.cache import CONTENTS, publish
from harness.build.source import fetch_kernel_source, pinned_package, verify_package
from harness.errors import BuildFailure, MissingPackage, OutputError


def package(directory: Path) -> Path:
    (directory / "f.c").write_text("text\n")
    files = {"f.c": hashlib.sha256(b"text\n").hexdigest()}
    (directory / ".cargo-checksum.json").write_text(json.dumps({"package": "00ff", "files": files}))
    return directory


def test_pin() -> None:
    version, checksum = pinned_package()
    assert version == "0.0.28"
    assert len(checksum) == 64


def test_verified_package(tmp_path: Path) -> None:
    verify_package(package(tmp_path), "00ff")


def test_other_package_checksum(tmp_path: Path) -> None:
    with pytest.raises(BuildFailure, match="pinned is 1234"):
        verify_package(package(tmp_path), "1234")


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_damaged_file(tmp_path: Path, damage: str) -> None:
    directory = package(tmp_path)
    if damage == "change":
        (directory / "f.c").write_text("other\n")
    else:
        (directory / "f.c").unlink()
    with pytest.raises(BuildFailure, match=r"f\.c: missing or changed.*delete"):
        verify_package(directory, "00ff")


def test_no_cargo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOTHWORLDS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackage, match=r"cargo is not installed.*apt-get install cargo"):
        fetch_kernel_source()
    assert list((tmp_path / "cache").iterdir()) == []


def test_source_is_there_without_cargo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fetch_kernel_source()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch_kernel_source() == source
    assert (source / "VERSION").read_text().startswith("5.0.0")


def test_publish_is_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOTHWORLDS_CACHE", str(tmp_path / "a b"))

    def fail(directory: Path) -> None:
        (directory / "half").write_text("x")
        raise BuildFailure("stopped")

    with pytest.raises(BuildFailure):
        publish("thing", fail)
    assert list((tmp_path / "a b").iterdir()) == []

    def fill(directory: Path) -> None:
        (directory / "whole").write_text("x")

    made = publish("thing", fill)
    assert [path.name for path in made.iterdir() if path.name != CONTENTS] == ["whole"]
    assert publish("thing", fail) == made


def test_publish_meets_a_faster_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOTHWORLDS_CACHE", str(tmp_path))

    def slow(directory: Path) -> None:
        (directory / "whose").write_text("mine")
        (tmp_path / "thing").mkdir()
        (tmp_path / "thing" / "whose").write_text("theirs")

    assert (publish("thing", slow) / "whose").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_publish_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BOTHWORLDS_CACHE", os.fspath(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="set BOTHWORLDS_CACHE"):
        publish("thing", lambda directory: None)


def test_a_damaged_source_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOTHWORLDS_CACHE", str(tmp_path))
    monkeypatch.setattr(source, "pinned_package", lambda: ("1.0", "00ff"))
    fetched = []

    def vendor(directory: Path, version: str) -> None:
        fetched.append(version)
        package(directory)

    monkeypatch.setattr(source, "_vendor", vendor)
    made = fetch_kernel_source().parent
    assert (fetch_kernel_source().parent, fetched) == (made, ["1.0"])
    content = (made / "f.c").read_text()
    # The same number of bytes, and in no list of contents: only the package's own checksums tell.
    (made / "f.c").write_text("x" * len(content))
    (made / CONTENTS).unlink()
    fetch_kernel_source()
    assert fetched == ["1.0", "1.0"]
    assert (made / "f.c").read_text() == content
