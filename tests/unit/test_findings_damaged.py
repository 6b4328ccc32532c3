# SPDX-License-Identifier: BSD-2-Clause
"""Findings that were truncated, edited or come from elsewhere: read as they are, or refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.build.artefacts import PROJECT
from harness.errors import InputError
from harness.findings.bundle import FINDING_FILE, PROGRAM_YAML, read_bundle
from harness.findings.report import describe, details
from harness.findings.reproduce import encoded_for
from tests.unit.programs_support import interface

KEPT = sorted(path for path in (PROJECT / "tests" / "findings").iterdir() if path.is_dir())
FILES = sorted(str(path.relative_to(KEPT[0])) for path in KEPT[0].rglob("*") if path.is_file())


def use(path: Path) -> None:
    """Everything that commands do with a finding before they build anything."""
    bundle = read_bundle(path)
    assert describe(bundle) and details(bundle)
    encoded_for(bundle, interface())
    bundle.memory()


def refused_or_used(path: Path) -> None:
    try:
        use(path)
    except InputError as error:
        message = str(error)
        assert "\n" not in message and len(message) < 1000, message
        assert str(path.name) in message or "config" in message or "/" in message


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT[0], tmp_path / "finding"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_findings_of_the_first_format_are_read(path: Path) -> None:
    bundle = read_bundle(path)
    text = "\n".join(describe(bundle))
    assert bundle.finding.kernel == "debug" and "-> " in text
    use(path)


@settings(max_examples=40)
@given(name=st.sampled_from(FILES), data=st.data())
def test_a_damaged_file(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    finding = Path(shutil.copytree(KEPT[0], tmp_path_factory.mktemp("damaged") / "finding"))
    file = finding / name
    content = bytearray(file.read_bytes())
    how = data.draw(st.sampled_from(["truncate", "flip", "insert", "random", "remove", "directory", "swap"]))
    if how == "truncate":
        content = content[: data.draw(st.integers(0, len(content)))]
    elif how == "flip" and content:
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "insert":
        at = data.draw(st.integers(0, len(content)))
        content[at:at] = data.draw(st.binary(min_size=1, max_size=40))
    elif how == "random":
        content = bytearray(data.draw(st.binary(max_size=300)))
    elif how == "swap":
        content = bytearray((finding / data.draw(st.sampled_from(FILES))).read_bytes())
    file.unlink()
    if how == "directory":
        file.mkdir()
    elif how != "remove":
        file.write_bytes(content)
    refused_or_used(finding)
    shutil.rmtree(finding)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("../../../etc/passwd"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40)
@given(data=st.data())
def test_an_edited_field(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever a field of `finding.yaml` is changed to, in either format."""
    finding = tmp_path_factory.mktemp("edited") / "finding"
    shutil.copytree(KEPT[0], finding)
    file = finding / FINDING_FILE
    fields: dict[str, Any] = yaml.safe_load(file.read_text())
    if data.draw(st.booleans()):
        fields = yaml.safe_load(read_bundle(finding).finding.to_text())
    name = data.draw(st.sampled_from(sorted(fields)))
    if data.draw(st.booleans()):
        del fields[name]
    else:
        fields[name] = data.draw(values)
    file.write_text(yaml.safe_dump(fields, allow_unicode=True))
    refused_or_used(finding)
    shutil.rmtree(finding)


def test_a_program_that_names_what_is_gone(copy: Path) -> None:
    file = copy / PROGRAM_YAML
    file.write_text(file.read_text().replace("CNode_Mint", "CNode_Mnit"))
    with pytest.raises(InputError, match=r"program\.yaml:2: call 0: call: there is no call 'CNode_Mnit'.*'CNode_Mint'"):
        encoded_for(read_bundle(copy), interface())


def test_a_program_of_another_call_table_is_encoded_again(copy: Path) -> None:
    told: list[str] = []
    bundle = read_bundle(copy)
    again = encoded_for(bundle, interface(), told.append)
    assert told == ["program.bytes is for another call table: the program was encoded again from program.yaml"]
    fields = yaml.safe_load((copy / FINDING_FILE).read_text()) | {"interface": interface().identity, "format": 1}
    (copy / FINDING_FILE).write_text(yaml.safe_dump(fields))
    bundle = read_bundle(copy)
    assert encoded_for(bundle, interface(), told.append) is bundle and len(told) == 1
    assert again.program and len(again.program) == len(bundle.program)


def test_a_program_without_the_call_that_shows_it(copy: Path) -> None:
    (copy / PROGRAM_YAML).write_text("calls: []\n")
    with pytest.raises(InputError, match=r"program\.yaml: has no call 0"):
        encoded_for(read_bundle(copy), interface())
