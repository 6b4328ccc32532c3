# SPDX-License-Identifier: BSD-2-Clause
"""The directory of the nights: numbers, the last complete night, what is known, and who may write."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fuzz.nightly.record import Night, NightState
from fuzz.nightly.store import Store, read_record
from harness.errors import InputError, OutputError
from harness.files import write_whole
from harness.findings.bundle import FINDING_FILE, read_bundle
from tests.unit.nightly_support import DEBUG, campaign, found, functions, night, retried

KEPT = Path(__file__).resolve().parents[1] / "findings"


def make(store: Store, name: str, state: NightState = NightState.COMPLETE) -> Path:
    path = store.directory / name
    path.mkdir(parents=True)
    write_whole(path / "nightly.json", night(name, state=state).model_dump_json())
    return path


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = night(
        findings=[found("a:b:c")],
        retried=[retried("a:b:c")],
        campaigns=[campaign(labels={"Copy": (2, 1)})],
        functions={DEBUG: functions(f=(1, 2))},
    )
    write_whole(tmp_path / "nightly.json", one.model_dump_json())
    assert read_record(tmp_path) == one


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"format": 1}', '{"format": 99}', "\udcff"])
def test_a_damaged_record_is_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "nightly.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_record(tmp_path) is None


def test_numbers_go_up_whatever_the_clock_says(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "0009-2030-01-01")
    make(store, "0010-2020-01-01")
    make(store, "10000-2020-01-01")
    (tmp_path / "corpus").mkdir()
    assert [store.number(path) for path in store.nights()] == [9, 10, 10000]
    new = store.new_night()
    assert store.number(new) == 10001 and (new / "campaigns").is_dir()


def test_the_next_night_compares_with_the_last_complete_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "0001-2026-03-13")
    make(store, "0002-2026-03-14")
    make(store, "0003-2026-03-15", NightState.INTERRUPTED)
    make(store, "0004-2026-03-16", NightState.INCOMPLETE)
    lost = make(store, "0005-2026-03-17", NightState.RUNNING)
    last = store.last_complete(store.new_night())
    assert last is not None and last.night == "0002-2026-03-14"
    assert store.last_complete(tmp_path / "0001-2026-03-13") is None
    shutil.rmtree(store.nights()[-1])
    unfinished = store.unfinished()
    assert unfinished is not None and unfinished[0] == lost
    make(store, "0006-2026-03-18")
    assert store.unfinished() is None


def test_two_nights_at_once_are_refused(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "nights"), Store(tmp_path / "nights")
    with one.locked(), pytest.raises(InputError, match="nights: another night runs there; wait"), other.locked():
        pass
    with other.locked():
        assert other.nights() == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file: cannot be written: .*--out"), Store(tmp_path / "file").locked():
        pass


def test_latest_moves(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("0001-2026-03-13", "0002-2026-03-14"):
        store.point_latest_to(make(store, name))
        assert (tmp_path / "latest").resolve().name == name


def test_old_nights_go_and_the_last_complete_one_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "0001-2026-03-13")
    complete = make(store, "0002-2026-03-14")
    for number in range(3, 6):
        make(store, f"000{number}-2026-03-15", NightState.INTERRUPTED)
    removed = store.tidy(2)
    assert [path.name for path in removed] == ["0001-2026-03-13", "0003-2026-03-15"]
    assert complete.is_dir() and len(store.nights()) == 3


def test_findings_become_known_once_and_the_shorter_one_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.known() == []
    bundle = read_bundle(KEPT / "remap-without-table")
    path = store.keep(DEBUG, bundle)
    assert store.known() == [(DEBUG, path)] and read_bundle(path).program == bundle.program
    (path / "note").write_text("")
    assert store.keep(DEBUG, bundle) == path and not (path / "note").exists(), "as short and newer: replaced"
    # A damaged one is no reason to lose the new one.
    (path / FINDING_FILE).write_text("{")
    assert read_bundle(store.keep(DEBUG, bundle)).finding.signature == bundle.finding.signature
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "nothing half done is left"


def test_the_schema_in_the_documentation_is_that_of_the_record() -> None:
    text = (KEPT.parents[1] / "docs" / "nightly.md").read_text()
    missing = [name for name in Night.model_fields if f"`{name}`" not in text]
    assert not missing
