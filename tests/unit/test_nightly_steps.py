# SPDX-License-Identifier: BSD-2-Clause
"""The steps of a night when something goes wrong: machines, time, the disk, signals."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fuzz.nightly import campaigns, checks, planted, report, run
from fuzz.nightly.budget import Time
from fuzz.nightly.checks import LEAST_PROGRAMS, Checks
from fuzz.nightly.plan import Plan
from fuzz.nightly.record import CampaignRecord, Caught, Night, NightState, PlantedRecord, Ran
from fuzz.nightly.store import Store, read_record
from fuzz.nightly.words import first_line
from harness.build.planted import PlantedBug
from harness.errors import LaunchFailure, MachineLost, OutputError
from tests.unit.nightly_support import DEBUG, caught, night
from tests.unit.test_nightly_reports import check_schema


def started(tmp_path: Path, **plan: Any) -> tuple[Plan, Store, Night, Path]:
    """A night that has just begun, on builds that are not there."""
    chosen = Plan.model_validate({"findings": {"directories": []}, **plan}).resolved(tmp_path)
    store = Store(chosen.nights)
    directory = store.new_night()
    one = night(directory.name, state=NightState.RUNNING)
    one.builds = {DEBUG: one.builds[DEBUG]}
    one.campaigns = campaigns.planned(one.builds, chosen.targets)
    return chosen, store, one, directory


def run_of(tmp_path: Path, **plan: Any) -> run._Run:
    chosen, store, one, directory = started(tmp_path, **plan)
    return run._Run(chosen, store, one, directory, {}, [])


def ends_with(problem: BaseException) -> Callable[[], None]:
    def step() -> None:
        raise problem

    return step


def fixed_checks(tmp_path: Path, used: float) -> tuple[Checks, Night]:
    plan, store, one, directory = started(tmp_path, seconds=100)
    return Checks(plan, one, directory, store, {}, [], None, Time(100, used), lambda: None), one


@pytest.mark.parametrize(("used", "tried"), [(0, None), (99, LEAST_PROGRAMS)])
def test_some_planted_programs_are_run_even_without_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: float, tried: int | None
) -> None:
    def replay(bug: PlantedBug, *_: object, **__: object) -> PlantedRecord:
        return caught(bug.name)

    monkeypatch.setattr(planted, "replay_program", replay)
    step, one = fixed_checks(tmp_path, used)
    step.run()
    states = [record.state for record in one.planted]
    expected = len(planted.chosen(Plan())) if tried is None else tried
    assert states.count(Caught.CAUGHT) == expected
    assert states.count(Caught.POSTPONED) == len(states) - expected
    # Taken up again with time left, only what was postponed is run.
    calls: list[str] = []

    def again(bug: PlantedBug, *_: object, **__: object) -> PlantedRecord:
        calls.append(bug.name)
        return caught(bug.name)

    monkeypatch.setattr(planted, "replay_program", again)
    step._time = Time(100)
    step.run()
    assert len(calls) == len(states) - expected
    assert {record.state for record in one.planted} == {Caught.CAUGHT} and len(one.planted) == len(states)


def test_a_missed_planted_bug_is_shouted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def replay(bug: PlantedBug, *_: object, **__: object) -> PlantedRecord:
        return caught(bug.name, Caught.MISSED, message="it showed nothing")

    monkeypatch.setattr(planted, "replay_program", replay)
    step, one = fixed_checks(tmp_path, 99)
    step.run()
    assert capsys.readouterr().out.count("THE HARNESS IS BLIND: planted bug") == LEAST_PROGRAMS == len(one.blind)


def test_a_machine_that_does_not_boot_leaves_findings_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise LaunchFailure("QEMU did not start", ["qemu"], 1, "no such CPU")

    monkeypatch.setattr(checks, "bench", broken)
    step, one = fixed_checks(tmp_path, 0)
    bundle: Any = SimpleNamespace(
        path=tmp_path / "kept", patches=[], finding=SimpleNamespace(signature="a:b:c", message="why")
    )
    artefacts: Any = None
    step._retry_on(DEBUG, artefacts, [("kept", bundle, "../kept")])
    (record,) = one.retried
    assert record.state.value == "not judged" and record.message == "the machine failed: QEMU did not start"
    assert "no such CPU" in one.troubles[0]


@pytest.fixture
def campaign(tmp_path: Path) -> Callable[[BaseException | None], CampaignRecord]:
    """Run the first campaign of a night, which ends with an error."""
    _, store, one, directory = started(tmp_path)
    built: Any = {DEBUG: None}

    def go(problem: BaseException | None) -> CampaignRecord:
        def failing(*_: object) -> None:
            if problem is not None:
                raise problem

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(campaigns, "run_campaign", failing)
            runner = campaigns.Runner(one, directory, store, built, lambda: None)
            record = one.campaigns[0]
            runner.run(record, 5, runs=0, workers=1, seed=1, check_every=10)
        return record

    return go


def test_a_campaign_that_fails_says_why_and_its_corpus_stays(
    campaign: Callable[[BaseException | None], CampaignRecord], tmp_path: Path
) -> None:
    record = campaign(MachineLost("QEMU was lost", 9))
    assert record.state is Ran.FAILED and record.message.startswith("QEMU was lost (exit code 9)")
    link = Store(tmp_path / "nights").nights()[0] / record.directories[0] / "corpus"
    assert link.is_symlink() and link.resolve() == tmp_path / "nights" / "corpus" / f"{DEBUG}-invocations"


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interruption_ends_the_night_and_not_only_the_campaign(
    campaign: Callable[[BaseException | None], CampaignRecord], tmp_path: Path, end: BaseException
) -> None:
    with pytest.raises(type(end)):
        campaign(end)


@pytest.mark.parametrize(("end", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_an_interrupted_night_has_its_reports(tmp_path: Path, end: BaseException, code: int) -> None:
    one = run_of(tmp_path)
    one._checks = ends_with(end)  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGINT)
    assert one.go() == code
    assert signal.getsignal(signal.SIGINT) is before
    record = read_record(one.directory)
    assert record is not None and record.state is NightState.INTERRUPTED and record.ended
    check_schema((one.directory / "junit.xml").read_text())
    assert (tmp_path / "nights" / "latest" / "summary.html").is_file()
    assert Store(tmp_path / "nights").unfinished() is not None


@pytest.mark.parametrize("problem", [ValueError("a defect"), OutputError("disk full"), MachineLost("QEMU was lost")])
def test_an_error_that_ends_a_night_is_raised_behind_the_reports(tmp_path: Path, problem: Exception) -> None:
    one = run_of(tmp_path)
    one._campaigns = ends_with(problem)  # type: ignore[method-assign]
    one._checks = lambda: None  # type: ignore[method-assign]
    with pytest.raises(type(problem)):
        one.go()
    record = read_record(one.directory)
    assert record is not None and record.state is NightState.INTERRUPTED
    assert any(first_line(problem) in trouble and "--resume" in trouble for trouble in record.troubles)
    assert (one.directory / "summary.html").is_file()


def test_a_disk_that_is_full_at_the_end_is_said_and_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = run_of(tmp_path)
    for step in ("_checks", "_campaigns", "_fresh"):
        setattr(one, step, lambda: None)
    for record in one.night.campaigns:
        record.state = Ran.DONE

    def full(path: Path, _content: str, _option: str = "") -> None:
        raise OutputError(f"{path}: cannot be written: No space left on device")

    real = report.write_record

    def first_works(record: Night, directory: Path) -> None:
        if not (directory / "nightly.json").exists():
            real(record, directory)
            monkeypatch.setattr(report, "write_whole", full)
        else:
            full(directory / "nightly.json", "")

    monkeypatch.setattr(report, "write_record", first_works)
    assert one.go() == 3
    captured = capsys.readouterr()
    assert "No space left on device" in captured.out + captured.err
    assert one.night.state is NightState.INCOMPLETE


def test_a_record_that_cannot_be_written_in_between_does_not_end_the_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = run_of(tmp_path)

    def full(*_: object) -> None:
        raise OutputError("nightly.json: cannot be written: No space left on device")

    monkeypatch.setattr(report, "write_record", full)
    one._save()
    one._save()
    assert one.night.troubles == ["nightly.json: cannot be written: No space left on device"]
