# SPDX-License-Identifier: BSD-2-Clause
"""Campaigns: what they count and find, and what they survive."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from fuzz import corpus, reduction
from fuzz.campaign import Campaign, CampaignSettings, run_campaign
from fuzz.crew import Member
from fuzz.mutators import Choice
from harness.build.artefacts import Artefacts
from harness.build.planted import planted_bugs
from harness.build.system import build
from harness.configs import MachineConfig
from harness.errors import InputError, OutputError
from harness.execution.executor import Executor
from harness.findings.bundle import read_bundle
from harness.programs.interfaces import Interface
from tests.system.hosts import PROJECT, alive, descendants, gone_within, qemus_below, report, start


def test_a_campaign_counts_what_it_does(artefacts: Artefacts, tmp_path: Path) -> None:
    settings = CampaignSettings(artefacts, tmp_path, runs=3000, seconds=60, seed=1, check_every=100)
    campaign = run_campaign(settings)
    result = json.loads(json.dumps(campaign.to_json()))
    assert result["executions"] >= 3000 and result["calls"] > 3000 and result["executions_per_second"] > 0
    assert 100 < result["coverage"]["kernel"]["blocks_hit"] <= result["coverage"]["kernel"]["blocks_total"]
    assert set(result["labels"]) == {call.name for call in Interface.load(artefacts).calls}
    for counts in result["labels"].values():
        assert counts["attempted"] == counts["succeeded"] + sum(counts["errors"].values())
    assert sum(counts["attempted"] for counts in result["labels"].values()) == result["calls"]
    assert all(entry["checks"] and entry["objects"] for entry in result["invariants"].values())
    world, whole = result["invariants"]["ns_bit_matches_world"], result["invariants"]["valid_untyped"]
    assert world["checks"] > 2000 and whole["checks"] >= 20
    assert result["audits"] >= 2 and not [f for f in result["findings"] if f["kind"] == "harness-defect"]
    assert len(corpus.read_corpus(tmp_path / "corpus")) > 20


@pytest.mark.slow
def test_a_campaign_goes_on_from_its_corpus_and_workers_share_it(
    artefacts: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: dict[int, list[bytes]] = {0: [], 1: []}
    offer = Member.offer

    def watch_offer(member: Member, programs: list[bytes]) -> None:
        offered[member.number] += programs
        offer(member, programs)

    monkeypatch.setattr(Member, "offer", watch_offer)
    first = run_campaign(CampaignSettings(artefacts, tmp_path, runs=1000, seconds=60, workers=2))
    assert first.programs == first.programs_added == len(corpus.read_corpus(tmp_path / "corpus"))
    ones, others = set(offered[0]), set(offered[1])
    assert not ones & others and ones | others <= set(corpus.read_corpus(tmp_path / "corpus")), "each to the other one"
    assert len(offered[0]) == len(ones) and len(offered[1]) == len(others)
    assert offered[0] and offered[1] and report(tmp_path)["state"] == "finished"
    again = run_campaign(CampaignSettings(artefacts, tmp_path, runs=first.programs + 130, seconds=60))
    assert again.programs_loaded == first.programs
    assert again.totals.executions < first.programs + 130 + 64
    assert ((again.totals.hit != 0) >= (first.totals.hit != 0)).all(), "all that was reached is reached at once"


def test_the_release_kernel_is_fuzzed_as_well(release_artefacts: Artefacts, tmp_path: Path) -> None:
    campaign = run_campaign(CampaignSettings(release_artefacts, tmp_path, runs=500, seconds=60))
    result = campaign.to_json()
    assert result["kernel"] == "release" == report(tmp_path)["kernel"] and result["executions"] >= 500
    assert all(finding["kernel"] == "release" for finding in result["findings"])


def test_a_campaign_finds_a_planted_bug(config: MachineConfig, tmp_path: Path) -> None:
    bug = next(bug for bug in planted_bugs() if bug.name == "world_lost_on_remap")
    artefacts = build(config, extra_patches=[bug.path])
    settings = CampaignSettings(artefacts, tmp_path, seconds=120, seed=1)
    campaign = run_campaign(settings, until=lambda _, finding: finding.invariant == bug.expected)
    found = [finding for finding in campaign.findings.values() if finding.invariant == bug.expected]
    assert found and campaign.seconds < 120
    bundle = read_bundle(found[0].path)
    assert bundle.finding.label == "ARM_Page_Remap" and len(bundle.finding.program.splitlines()) <= 2
    assert bundle.patches[0].read_text() == bug.path.read_text()


@pytest.mark.parametrize("mutators", [Choice.NATIVE, Choice.TYPED])
def test_each_kind_of_mutators_works_alone(artefacts: Artefacts, tmp_path: Path, mutators: Choice) -> None:
    settings = CampaignSettings(artefacts, tmp_path, runs=500, seconds=60, mutators=mutators, coverage=False)
    campaign = run_campaign(settings)
    assert campaign.totals.executions >= 500 and campaign.coverage() == {}


def test_the_target_smc_makes_smcs(artefacts: Artefacts, tmp_path: Path) -> None:
    campaign = run_campaign(CampaignSettings(artefacts, tmp_path, target="smc", runs=1000, seconds=60))
    labels = campaign.to_json()["labels"]
    assert labels["ARM_SMC_Call"]["attempted"] > campaign.totals.calls / 3
    assert labels["ARM_SMC_Call"]["succeeded"] > 100
    assert labels["ARM_Page_Map"]["attempted"] == 0


@pytest.mark.slow
def test_a_lost_worker_and_a_lost_machine_are_replaced(artefacts: Artefacts, tmp_path: Path) -> None:
    killed: list[str] = []

    def watch(campaign: Campaign) -> None:
        executions = campaign.totals.executions
        if not killed and executions > 300:
            worker = next(p for p in multiprocessing.active_children() if p.name == "worker-0")
            assert worker.pid is not None
            killed.append("machine")
            for pid in qemus_below(worker.pid):
                os.kill(pid, signal.SIGKILL)
        elif killed == ["machine"] and executions > 900:
            worker = next(p for p in multiprocessing.active_children() if p.name == "worker-0")
            machines = qemus_below(worker.pid or 0)
            killed.append("worker")
            worker.kill()
            assert gone_within(machines, 5), "its machine ends with it"

    campaign = run_campaign(CampaignSettings(artefacts, tmp_path, runs=2000, seconds=120), watch)
    assert killed == ["machine", "worker"]
    assert campaign.totals.executions >= 2000
    assert any("machine lost" in trouble for trouble in campaign.troubles)
    assert any("worker 0 was lost" in trouble for trouble in campaign.troubles)


def wait_for_machines(pid: int) -> set[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if qemus_below(pid):
            time.sleep(2)
            return descendants(pid)
        time.sleep(0.1)
    raise AssertionError("no machine started")


def test_interrupted_it_says_what_it_found_and_leaves_nothing(artefacts: Artefacts, tmp_path: Path) -> None:
    process = start("--time", "300", "--workers", "1", "--out", str(tmp_path), "--json", str(tmp_path / "result.json"))
    below = wait_for_machines(process.pid)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (1, 130), output
    assert "reachable blocks" in output and "executions of" in output
    assert json.loads((tmp_path / "result.json").read_text())["executions"] > 0
    assert gone_within(below, 5)


def test_killed_it_leaves_no_process(artefacts: Artefacts, tmp_path: Path) -> None:
    process = start("--time", "300", "--workers", "2", "--out", str(tmp_path))
    below = wait_for_machines(process.pid)
    process.kill()
    process.wait()
    assert gone_within(below, 10), [Path(f"/proc/{pid}/cmdline").read_text()[:80] for pid in alive(below)]


def test_what_cannot_work_is_refused_at_once(artefacts: Artefacts, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: cannot be written"):
        run_campaign(CampaignSettings(artefacts, tmp_path / "file", runs=1))
    with pytest.raises(InputError, match="--workers 1000"):
        run_campaign(CampaignSettings(artefacts, tmp_path, workers=1000, runs=1))


def test_corpora_are_minimised_and_merged(executor: Executor, tmp_path: Path) -> None:
    table = Interface.load(executor.artefacts)
    one = corpus.import_files(tmp_path / "one", [PROJECT / "examples"], table)
    assert one.new == one.read > 0 and one.left_out == len(list((PROJECT / "examples/two-worlds").iterdir()))
    twice = corpus.import_files(tmp_path / "one", [PROJECT / "examples"], table)
    assert twice == corpus.Imported(one.read, 0, one.left_out)
    before = len(corpus.read_corpus(tmp_path / "one"))
    corpus.add_program(tmp_path / "one", corpus.read_corpus(tmp_path / "one")[-1] + b"tail")
    reached = reduction.run_all(executor, corpus.read_corpus(tmp_path / "one"))
    done = reduction.minimise(executor, tmp_path / "one")
    assert 0 < done.kept <= before and done.there == before + 1
    again = reduction.run_all(executor, corpus.read_corpus(tmp_path / "one"))
    assert (again.blocks() == reached.blocks()).all() and done.blocks == reached.blocks().sum()
    added, looked = reduction.merge(executor, tmp_path / "two", [tmp_path / "one"], table)
    assert added == looked == done.kept
