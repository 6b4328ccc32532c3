# SPDX-License-Identifier: BSD-2-Clause
"""Nights without machines: one that was lost is closed by the next, one that is taken up must be the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fuzz.nightly import planted, run
from fuzz.nightly.plan import Plan
from fuzz.nightly.record import CampaignRecord, Caught, Night, NightState, Ran, Retried
from fuzz.nightly.store import Store, read_record
from harness.build.planted import PlantedBug, planted_bugs
from harness.errors import FindingError, InputError
from harness.files import write_whole
from harness.findings.bundle import read_bundle
from tests.unit.nightly_support import DEBUG, HASHES, caught, night, retried
from tests.unit.test_nightly_reports import check_schema

KEPT = Path(__file__).resolve().parents[1] / "findings" / "remap-without-table"


def lost_night(store: Store) -> tuple[Path, Night]:
    """A night that was killed in the middle of a campaign that had filed a finding."""
    path = store.directory / "0001-2026-03-14"
    name = f"campaigns/{DEBUG}-invocations"
    shutil.copytree(KEPT, path / name / KEPT.name)
    (path / name / ".incomplete-x").mkdir()
    finding = read_bundle(KEPT).finding
    entry = {"signature": finding.signature, "kind": finding.kind, "message": finding.message, "count": 2, "calls": 2}
    result = {
        "executions": 700,
        "executions_per_second": 70,
        "findings": [{**entry, "path": str(path / name / KEPT.name)}],
    }
    (path / name / "campaign.json").write_text(json.dumps(result))
    one = night(path.name, state=NightState.RUNNING)
    one.campaigns = [CampaignRecord(build=DEBUG, target="invocations", directories=[name], state=Ran.RUNNING)]
    write_whole(path / "nightly.json", one.model_dump_json())
    return path, one


def test_a_lost_night_is_closed_and_what_it_found_is_known(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path, _ = lost_night(store)
    unfinished = store.unfinished()
    assert unfinished is not None
    run._close(Plan().resolved(tmp_path), store, *unfinished)
    closed = read_record(path)
    assert closed is not None and closed.state is NightState.INTERRUPTED and closed.exit_code == 130
    assert closed.campaigns[0].executions == 700 and closed.campaigns[0].state is Ran.INTERRUPTED
    signature = read_bundle(KEPT).finding.signature
    assert [one.signature for one in closed.comparison.new] == [signature]
    assert [read_bundle(known).finding.signature for _, known in store.known()] == [signature]
    check_schema((path / "junit.xml").read_text())
    assert signature in (path / "summary.html").read_text()
    assert any("was lost before its end" in trouble for trouble in closed.troubles)


def test_a_lost_night_without_anything_written_is_closed_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path, one = lost_night(store)
    shutil.rmtree(path / "campaigns")
    run._close(Plan().resolved(tmp_path), store, path, one)
    assert one.state is NightState.INTERRUPTED and not one.findings and (path / "summary.html").is_file()


def test_a_night_is_taken_up_only_with_the_same_systems(tmp_path: Path) -> None:
    path, one = lost_night(Store(tmp_path))
    one.retried = [retried("a:b:c", Retried.NOT_JUDGED), retried("d:e:f", Retried.FIXED)]

    class Built:
        def __init__(self, hashes: dict[str, str]) -> None:
            self.hashes = hashes

    same: Any = {name: Built(HASHES) for name in one.builds}
    other: Any = {name: Built({**HASHES, "kernel": "dd"}) for name in one.builds}
    with pytest.raises(InputError, match=r"0001-2026-03-14: was begun with another build of spanning-el1-debug"):
        run._take_up(one, path, other)
    run._take_up(one, path, same)
    assert one.campaigns[0].state is Ran.INTERRUPTED and one.campaigns[0].executions == 700
    assert [record.signature for record in one.retried] == ["d:e:f"], "what was not judged is tried again"


def test_there_must_be_a_night_to_take_up(tmp_path: Path) -> None:
    plan = Plan().resolved(tmp_path)
    with pytest.raises(InputError, match="nights: no night there was interrupted; leave out --resume"):
        run.run_night(plan, resume=True)
    path = plan.nights / "0001-2026-03-14"
    write_whole(path / "nightly.json", night(path.name).model_dump_json())
    with pytest.raises(InputError, match="no night there was interrupted"):
        run.run_night(plan, resume=True)


def test_a_damaged_kept_finding_ends_the_night_before_it_begins(tmp_path: Path) -> None:
    shutil.copytree(KEPT, tmp_path / "kept" / KEPT.name)
    (tmp_path / "kept" / KEPT.name / "program.bytes").write_bytes(b"x")
    plan = Plan.model_validate({"findings": {"directories": [str(tmp_path / "kept")]}}).resolved(tmp_path)
    with pytest.raises(FindingError, match=r"remap-without-table/program\.bytes"):
        run.run_night(plan)
    assert Store(plan.nights).nights() == []


BUG = PlantedBug("one", "what", "smc_authority", Path("one.patch"), also=("assertion",), also_release=("hang-kernel",))


@pytest.mark.parametrize(
    ("shown", "release", "state"),
    [
        (["smc_authority:-:ARM_SMC_Call"], False, Caught.CAUGHT),
        (["assertion:f:Copy", "valid_untyped:ut:Copy"], False, Caught.CAUGHT),
        (["assertion:f:Copy"], True, Caught.MISSED),
        (["hang-kernel:-:Copy"], True, Caught.CAUGHT),
        (["valid_untyped:ut:Copy"], False, Caught.MISSED),
        ([], False, Caught.MISSED),
    ],
)
def test_only_what_a_planted_bug_must_give_is_a_catch(shown: list[str], release: bool, state: Caught) -> None:
    record = caught("one", Caught.ERROR)
    record.shown = shown
    planted.judge(record, BUG.catches(release=release))
    assert record.state is state
    assert bool(record.message) is (state is Caught.MISSED)


def test_the_next_night_begins_with_what_there_was_no_time_for() -> None:
    bugs = planted_bugs()[:3]
    names = [bug.name for bug in bugs]
    first = night(planted=[caught(names[0]), caught(names[1], Caught.POSTPONED), caught(names[2], Caught.POSTPONED)])
    second = night(planted=[caught(names[1]), caught(names[2], Caught.POSTPONED), caught(names[0], Caught.POSTPONED)])

    def order(*nights: Night) -> list[str]:
        return [bug.name for bug in planted.in_turn(bugs, nights, "program")]

    assert order() == names
    assert order(first) == [names[1], names[2], names[0]]
    assert order(first, second) == [names[2], names[0], names[1]], "nobody waits for ever"
    assert planted.postponed(bugs[0], "campaign").how == "campaign"


def test_patterns_choose_planted_bugs(tmp_path: Path) -> None:
    names = [bug.name for bug in planted_bugs()]
    plan = Plan.model_validate({"planted": {"programs": ["world_*"]}})
    assert [bug.name for bug in planted.chosen(plan)] == [name for name in names if name.startswith("world_")]
    assert planted.chosen(Plan.model_validate({"planted": {"programs": []}})) == []
