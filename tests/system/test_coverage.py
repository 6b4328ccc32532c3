# SPDX-License-Identifier: BSD-2-Clause
"""Coverage of the real kernel and firmware: the list of what cannot be reached, and what a campaign leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuzz.campaign import CampaignSettings, run_campaign
from harness.build.artefacts import Artefacts
from harness.cli import execute
from harness.coverage.record import RECORD_FILE, BuildCoverage
from harness.coverage.report import by_component, to_json


def test_every_entry_of_the_list_fits_both_builds(artefacts: Artefacts, release_artefacts: Artefacts) -> None:
    builds = [BuildCoverage.of(artefacts), BuildCoverage.of(release_artefacts)]
    for coverage in builds:
        assert coverage.unreachable.stale() == []
    # An entry may cover nothing in one build, whose compiler has merged the code with other code, but not in both.
    idle = [set(map(str, coverage.unreachable.idle())) for coverage in builds]
    either = [set(map(str, coverage.unreachable.entries)) for coverage in builds]
    assert (idle[0] & idle[1]) | (idle[0] - either[1]) | (idle[1] - either[0]) == set()


def test_a_campaign_leaves_its_coverage(
    artefacts: Artefacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = run_campaign(CampaignSettings(artefacts, tmp_path / "out", runs=600, seconds=60, seed=3))
    campaign.save_coverage()
    campaign.write_lcov(tmp_path / "coverage.info")
    result = json.loads(json.dumps(campaign.to_json()))
    assert result["unreachable_but_hit"] == []
    for name, part in result["coverage"].items():
        functions = result["functions"][name].values()
        assert sum(function["hit"] for function in functions) == part["blocks_hit"] > 0
        assert sum(function["total"] for function in functions) == part["blocks_total"]
        assert sum(function["unreachable"] for function in functions) == part["blocks_unreachable"] > 0
    assert result["functions"]["kernel"]["decodeCNodeInvocation"]["hit"] > 5

    text = (tmp_path / "coverage.info").read_text()
    files = [Path(line.removeprefix("SF:")) for line in text.splitlines() if line.startswith("SF:")]
    assert {"cnode.c", "traps.S", "smc.S"} <= {path.name for path in files}
    assert all(path.is_file() for path in files)

    assert (tmp_path / "out" / RECORD_FILE).is_file()
    capsys.readouterr()
    assert execute(["coverage", str(tmp_path / "out"), "--function", "cteSwap", "--all"]) == 0
    output = capsys.readouterr().out
    assert "kernel cteSwap (source/src/object/cnode.c:" in output and "next_ptr = mdb_node_get_mdbNext" in output
    part = by_component(campaign.functions())["kernel"]
    assert f"{part.hit}  " in output and f"{part.reachable}  " in output
    assert to_json(campaign.functions()) == result["functions"]


def test_coverage_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["coverage", str(tmp_path)]) == 2
    assert "give the directory of a campaign that counted coverage" in capsys.readouterr().err
