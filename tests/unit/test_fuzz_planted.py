# SPDX-License-Identifier: BSD-2-Clause
"""Series of campaigns against planted bugs: what is kept, what is done again, what the tables say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from fuzz import planted, planted_series
from fuzz.mutators import Choice
from fuzz.planted import PlantedResult, PlantedSettings, PreservingResult
from fuzz.state import Campaign, CampaignSettings, FindingSummary, State
from harness.build.patches import PATCH_DIRECTORY
from harness.build.planted import PlantedBug, planted_bugs, preserving_patches
from harness.configs import load_config
from harness.errors import InputError
from harness.findings.judge import LIVENESS_FINDINGS
from harness.findings.oracles import alone
from harness.invariants.registry import invariants
from tests.planted_table import seen_by

BUG = PlantedBug("one", "what", "hang-kernel", Path("one.patch"), "smc", also=("assertion",), also_release=("lost",))


def test_there_are_twenty_bugs_and_each_says_what_must_find_it() -> None:
    bugs = planted_bugs()
    known = {checked.id for checked in invariants()} | LIVENESS_FINDINGS
    assert len(bugs) >= 20 and len({bug.name for bug in bugs}) == len(bugs)
    for bug in bugs:
        assert bug.path.stem == bug.name and bug.program.is_file()
        assert bug.catches() | bug.catches(release=True) <= known, bug.name
    assert {path.stem for path in (PATCH_DIRECTORY / "planted").glob("*.yaml")} == {bug.name for bug in bugs}
    assert len(preserving_patches()) >= 5


def test_every_oracle_alone_sees_some_bug() -> None:
    """What the table says; that it is right says the system test of each bug."""
    table = seen_by()
    assert set(table) == {bug.name for bug in planted_bugs()}
    assert all(bug.expected in table[bug.name] for bug in planted_bugs())
    known = {checked.id for checked in invariants()} | LIVENESS_FINDINGS
    assert set().union(*table.values()) <= known
    assert known - set(alone(table)) == set()


def test_a_bug_that_shows_at_boot_is_caught_before_any_call(campaigns: Campaigns, settings: PlantedSettings) -> None:
    ended: list[bool] = []

    def shows_at_boot(campaign: Campaign, until: Callable[[Campaign, FindingSummary], bool]) -> None:
        ended.append(until(campaign, finding("hang-kernel:-:start", "hang-kernel", None)))

    campaigns.until = shows_at_boot
    planted.run_planted(replace(BUG, at_boot=True), settings)
    planted.run_planted(BUG, settings, again=True)
    assert ended == [True, False]


def test_an_outcome_is_a_catch_in_the_kernel_that_it_is_for() -> None:
    assertion = finding("assertion:f:Copy", "assertion", None)
    assert planted.is_catch(assertion, BUG) and not planted.is_catch(assertion, BUG, release=True)
    assert planted.is_catch(finding("lost:-:Copy", "lost", None), BUG, release=True)
    assert planted.is_catch(finding("hang-kernel:-:Copy", "hang-kernel", None), BUG, release=True)
    assert not planted.is_catch(finding("no_mloop:-:Copy", "violation", "no_mloop"), BUG)


def finding(signature: str, kind: str, invariant: str | None) -> FindingSummary:
    return FindingSummary(signature, kind, invariant, "why", Path("nowhere"), 2, 1, 4.0, 70)


class Campaigns:
    """Stands for `run_campaign`: what the next campaign does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[CampaignSettings] = []
        self.act: Callable[[Campaign], None] = lambda campaign: None
        self.until: Callable[..., None] = lambda campaign, until: None
        hashes = dict.fromkeys(("kernel", "firmware", "root_task", "victim", "config"), "0")
        monkeypatch.setattr(planted, "build", lambda *_, **__: SimpleNamespace(hashes=hashes, release=False))
        monkeypatch.setattr(planted, "run_campaign", self.run)

    def run(self, settings: CampaignSettings, watch: Any = None, until: Any = None) -> Campaign:
        assert list(settings.directory.iterdir()) == [], "a campaign starts from an empty directory"
        (settings.directory / "corpus").mkdir()
        self.ran.append(settings)
        campaign = Campaign(settings, seconds=settings.seconds, state=State.FINISHED)
        self.act(campaign)
        self.until(campaign, until)
        return campaign


@pytest.fixture
def campaigns(monkeypatch: pytest.MonkeyPatch) -> Campaigns:
    return Campaigns(monkeypatch)


@pytest.fixture
def settings(tmp_path: Path) -> PlantedSettings:
    return PlantedSettings(load_config(), tmp_path / "out", seconds=5)


def caught(campaign: Campaign) -> None:
    campaign.findings["hang-kernel:-:Copy"] = finding("hang-kernel:-:Copy", "hang-kernel", None)


def interrupted(campaign: Campaign) -> None:
    campaign.state = State.INTERRUPTED


def test_a_result_is_kept_and_the_target_follows_the_bug(campaigns: Campaigns, settings: PlantedSettings) -> None:
    campaigns.act = caught
    result, kept = planted.run_planted(BUG, settings)
    assert result.caught and result.invariant == "hang-kernel" and result.executions == 70 and not kept
    assert (result.mode, result.seed, campaigns.ran[0].target) == ("coverage", 1, "smc")
    assert planted.run_planted(BUG, settings) == (result, True)
    assert planted.run_planted(BUG, replace(settings, seconds=500)) == (result, True)
    assert len(campaigns.ran) == 1
    planted.run_planted(BUG, replace(settings, seed=2))
    planted.run_planted(BUG, settings, again=True)
    assert len(campaigns.ran) == 3


def test_a_bug_that_was_not_caught_gets_the_longer_time(campaigns: Campaigns, settings: PlantedSettings) -> None:
    assert not planted.run_planted(BUG, settings)[0].caught
    assert planted.run_planted(BUG, replace(settings, seconds=4))[1]
    assert not planted.run_planted(BUG, replace(settings, seconds=6))[1]


def test_half_a_campaign_is_done_again(campaigns: Campaigns, settings: PlantedSettings) -> None:
    campaigns.act = interrupted
    with pytest.raises(KeyboardInterrupt):
        planted.run_planted(BUG, settings)
    assert (settings.directory / "one" / "corpus").is_dir()
    campaigns.act = caught
    result, kept = planted.run_planted(BUG, settings)
    assert result.caught and not kept
    (settings.directory / "one" / planted.RESULT_FILE).write_text('{"identity": ')
    assert not planted.run_planted(BUG, settings)[1], "half a file is no result"


def test_a_preserving_patch_must_give_nothing(campaigns: Campaigns, settings: PlantedSettings) -> None:
    patch = preserving_patches()[0]
    result, kept = planted.run_preserving(patch, settings)
    assert result == PreservingResult(patch.name, 0, 5, [], 1) and not kept
    assert planted.run_preserving(patch, settings) == (result, True)
    campaigns.act = caught
    assert planted.run_preserving(patch, settings, again=True)[0].findings == ["hang-kernel:-:Copy"]


def test_an_interrupted_series_shows_what_it_has_and_goes_on(
    campaigns: Campaigns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.cli import application

    names = [bug.name for bug in planted_bugs()[:2]]
    monkeypatch.setattr(planted, "_reproduce", lambda *_: None)
    arguments = ["planted", *names, "--seeds", "2", "--out", str(tmp_path), "--json", str(tmp_path / "result.json")]

    def stop_at_the_third(campaign: Campaign) -> None:
        if len(campaigns.ran) == 3:
            campaign.state = State.INTERRUPTED

    campaigns.act = stop_at_the_third
    result = CliRunner().invoke(application(), arguments)
    assert result.exit_code == 130 and "2 campaigns are left; the same command goes on with them" in result.output
    assert len(json.loads((tmp_path / "result.json").read_text())) == 2
    result = CliRunner().invoke(application(), arguments)
    assert result.exit_code == 1, "neither bug was caught"
    assert len(campaigns.ran) == 5 and result.output.count("(result of an earlier run)") == 2
    rows = json.loads((tmp_path / "result.json").read_text())
    assert [(row["name"], row["seed"]) for row in rows] == [(name, seed) for name in names for seed in (1, 2)]


def row(name: str, mode: str, seed: int, seconds: float | None, executions: int = 100) -> PlantedResult:
    return PlantedResult(
        name, seconds is not None, "sym_refs" if seconds else None, "sym_refs", executions, seconds or 60.0, 1, "", "",
        mode=mode, seed=seed,
    )  # fmt: skip


def test_tables_give_the_median_and_each(settings: PlantedSettings) -> None:
    rows = [row("a", "coverage", 1, 1.0, 10), row("a", "coverage", 2, 9.0, 90), row("a", "coverage", 3, None)]
    rows += [row("b", "coverage", seed, None) for seed in (1, 2, 3)]
    assert planted_series.summary_rows(rows) == [
        ("a", "coverage", "2 of 3", "sym_refs", "90", "9.0", "1.0 9.0 -"),
        ("b", "coverage", "0 of 3", "NO (expected sym_refs)", "-", "-", "- - -"),
    ]


def test_modes_are_compared_whichever_way_it_goes(settings: PlantedSettings) -> None:
    modes = [planted.mode_name(mode) for mode in planted_series.compared_modes(settings)]
    assert modes == ["coverage", "no-coverage", "native"]
    assert planted.mode_name(replace(settings, mutators=Choice.NATIVE, coverage=False)) == "native-no-coverage"
    rows = [row("a", "coverage", 1, 2.0, 200), row("a", "no-coverage", 1, 1.0, 100), row("a", "native", 1, None)]
    headers, table = planted_series.comparison_rows(rows)
    assert headers == ("planted bug", "coverage", "no-coverage", "native")
    assert table == [("a", "1/1  200 ex. 2.0 s", "1/1  100 ex. 1.0 s", "0/1  -")]
    assert planted_series.comparison_lines(rows) == [
        "coverage: 1 of 1 campaigns caught their bug",
        "no-coverage: 1 of 1 campaigns caught their bug",
        "native: 0 of 1 campaigns caught their bug",
        "coverage against no-coverage: fewer executions on 0 of 1 bugs, more on 1, the same or never on 0",
        "coverage against native: fewer executions on 1 of 1 bugs, more on 0, the same or never on 0",
    ]


def test_names_that_are_not_there_are_named(tmp_path: Path) -> None:
    from harness.cli import application

    for arguments, message in (
        (["planted", "nothing"], "no planted bug 'nothing'; there are: "),
        (["planted", "--preserving", "nothing"], "no preserving patch 'nothing'; there are: "),
        (["planted", "--compare", "--no-coverage"], "--compare: runs all ways of guidance"),
    ):
        result = CliRunner().invoke(application(), [*arguments, "--out", str(tmp_path)])
        assert isinstance(result.exception, InputError) and message in str(result.exception)
