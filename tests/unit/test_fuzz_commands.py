# SPDX-License-Identifier: BSD-2-Clause
"""The commands of fuzzing refuse what they cannot do, and say what was found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fuzz import metrics, planted, progress
from fuzz.campaign import Campaign, CampaignSettings, FindingSummary
from fuzz.commands import app
from fuzz.commands.options import write_json
from fuzz.statistics import ERRORS, Totals
from harness.build.blocks import StaticBlocks
from harness.build.planted import PlantedBug
from harness.errors import InputError, OutputError


def blocks() -> StaticBlocks:
    zeros = np.zeros(4, np.int64)
    component, phase = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0])
    return StaticBlocks(
        ("kernel", "firmware"), ("f",), ("",), component, zeros, zeros, zeros, zeros, zeros, zeros, phase, zeros
    )


def campaign(tmp_path: Path, *findings: tuple[str, str, float]) -> Campaign:
    artefacts: Any = SimpleNamespace(release=False)
    one = Campaign(CampaignSettings(artefacts, tmp_path, seconds=1), blocks=blocks(), labels=("Copy", "Yield", "Send"))
    one.errors = {8: "seL4_DeleteFirst"}
    done = np.zeros((3, ERRORS), np.int64)
    done[0, 0], done[0, 8], done[1, 0] = 6, 2, 4
    one.parts[0] = Totals(
        executions=10,
        started=np.array([0, 1, 0]),
        done=done,
        hit=np.array([1, 0, 1, 0], np.uint8),
        invariants={"no_mloop": (3, 30)},
        outcomes=Counter({"blocked": 1}),
    )
    one.worker_seconds[0], one.seconds = 2.0, 3.0
    one.built = None
    for signature, invariant, seconds in findings:
        path = tmp_path / signature.replace(":", "-")
        path.mkdir(exist_ok=True)
        one.findings[signature] = FindingSummary(signature, "violation", invariant, "why", path, 1, 5, seconds, 7)
    return one


def test_the_json_of_a_campaign_has_the_documented_fields(tmp_path: Path) -> None:
    result = campaign(tmp_path, ("a:b:c", "a", 0.5)).to_json()
    assert result["executions"] == 10 and result["calls"] == 13 and result["executions_per_second"] == 5.0
    assert result["coverage"] == {
        "kernel": {"blocks_hit": 1, "blocks_total": 2},
        "firmware": {"blocks_hit": 0, "blocks_total": 1},
    }
    assert result["labels"]["Copy"] == {"attempted": 8, "succeeded": 6, "errors": {"seL4_DeleteFirst": 2}}
    assert result["kernel"] == "debug" and result["never_succeeded"] == ["Send"] == result["never_attempted"]
    assert result["outcomes"] == {"done": 9, "blocked": 1} and result["restarts"]["machines"] == 0
    assert result["invariants"] == {"no_mloop": {"checks": 3, "objects": 30}}
    (finding,) = result["findings"]
    wanted = {"signature": "a:b:c", "kind": "violation", "invariant": "a", "count": 5, "first_seen_seconds": 0.5}
    assert wanted.items() <= finding.items() and finding["path"].endswith("a-b-c")


def test_the_summary_tells_a_person_how_to_reproduce(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = campaign(tmp_path, ("a:b:c", "a", 0.5))
    with progress.Progress("invocations") as shown:
        shown.watch(one)
        shown.watch(one)
    progress.summary(one)
    output = capsys.readouterr().out
    assert output.count("finding after 0.5 s: a:b:c") == 1
    assert "1 of 2 reachable blocks (50.0%; 0 more cannot be reached)" in output and "done 9, blocked 1" in output
    assert f"bothworlds repro {tmp_path / 'a-b-c'}" in output
    (tmp_path / "a-b-c").rmdir()
    one.findings["a:b:c"].program_yaml = "calls:\n- call: Yield\n"
    one.notes.add("machine lost, and replaced", "QEMU ended")
    one.notes.add("machine lost, and replaced", "QEMU ended again")
    progress.summary(one)
    output = capsys.readouterr().out
    assert "its directory is not there; its program:\n      calls:\n      - call: Yield" in output
    assert "machine lost, and replaced (2 times, first after 0.0 s, last after 0.0 s): QEMU ended again" in output
    assert "never attempted: Send\n" in output and "never succeeded" not in output
    progress.summary(campaign(tmp_path))
    assert "Nothing was found." in capsys.readouterr().out


BUG = PlantedBug("one", "what", "expected", Path("one.patch"))


def test_a_planted_bug_is_caught_by_its_invariant_only(tmp_path: Path) -> None:
    result = planted.judge_campaign(BUG, campaign(tmp_path, ("other:x:Copy", "other", 0.1)))
    assert not result.caught and result.invariant == "other"
    caught = campaign(
        tmp_path,
        ("expected:x:start", "expected", 0.1),
        ("expected:x:Copy", "expected", 2.0),
        ("other:x:Copy", "other", 1),
    )
    result = planted.judge_campaign(BUG, caught)
    assert result.caught and result.signature == "expected:x:Copy" and result.seconds == 2.0
    assert result.others == ["expected:x:start", "other:x:Copy"]
    assert not planted.judge_campaign(BUG, campaign(tmp_path)).caught


def test_a_metric_stands_beside_its_baseline() -> None:
    metric = metrics.Metric("restore_us", 20.0, "us", 100.0, "all")
    assert metric.to_json() | {"ratio": 0.2} == metric.to_json() and metric.row()[5] == "0.2"
    assert metric.target == "<= 50" and metrics.Metric("restore_us", 51.0, "us").target == "<= 50, missed"
    assert metrics.Metric("success_rate", 0.4, "of calls").target == ">= 0.5, missed"
    assert metrics.Metric("check_us_per_execution", 1.0, "us").target == ""
    assert metrics.Metric("success_rate", 0.5, "of calls").to_json()["ratio"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fuzz", "invocation"], "did you mean 'invocations'"),
        (["planted", "nothing"], "no planted bug 'nothing'; there are: "),
        (["corpus", "minimise", "/nonexistent"], "no such corpus"),
        (["fuzz", "--config", "spanning"], "spanning-el1"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InputError) and message in str(result.exception)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["fuzz", "--out", str(tmp_path / "file")])
    assert isinstance(result.exception, OutputError) and "choose another with --out" in str(result.exception)
    with pytest.raises(OutputError, match="--json"):
        write_json(tmp_path / "file" / "result.json", {})
