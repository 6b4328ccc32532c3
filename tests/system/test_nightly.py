# SPDX-License-Identifier: BSD-2-Clause
"""Short nights from beginning to end: a bug is new, then fixed; a night that is interrupted goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fuzz.corpus import add_program
from fuzz.nightly.record import Difference, Night, NightState, Ran, Retried
from fuzz.nightly.store import Store, read_record
from harness.build.artefacts import PROJECT, Artefacts
from harness.build.planted import planted_bugs
from harness.errors import InputError
from harness.findings.bundle import read_bundle
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from tests.unit.test_nightly_reports import Page, check_schema

pytestmark = pytest.mark.slow

BUILD = "spanning-el1-debug"
BUG = next(bug for bug in planted_bugs() if bug.name == "smc_badge_not_compared")
CALL = ":ARM_SMC_Call"
OTHER_BUG = "world_lost_on_remap"
KEPT_NAME = "remap-without-table"
KEPT = PROJECT / "tests" / "findings" / KEPT_NAME
PLAN = """
nights: nights
checks_share: 1
kernels: {{debug: 1, release: 0}}
targets: {{invocations: 1}}
workers: 1
runs: {runs}
findings: {{directories: {kept}}}
planted: {{programs: {planted}}}
minimise: {{seconds: 1, times: 1, cold: 0}}
"""


def by_the_bug(rows: list[Difference]) -> list[Difference]:
    """What the planted bug gives: its invariant, after the call that it is in."""
    return [row for row in rows if row.signature.startswith(f"{BUG.expected}:") and row.signature.endswith(CALL)]


def write_plan(directory: Path, *, kept: list[str], planted: list[str], runs: int) -> Path:
    path = directory / f"plan-{runs}.yaml"
    path.write_text(PLAN.format(kept=json.dumps(kept), planted=json.dumps(planted), runs=runs))
    return path


def command(plan: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "harness.cli", "nightly", str(plan), *options]


def run(plan: Path, *options: str) -> tuple[int, str]:
    result = subprocess.run(command(plan, *options), capture_output=True, text=True, cwd=PROJECT, timeout=240)
    return result.returncode, result.stdout + result.stderr


def record_of(directory: Path) -> Night:
    night = read_record(directory)
    assert night is not None
    return night


def kinds(night: Path) -> dict[str, str]:
    root: ElementTree.Element = check_schema((night / "junit.xml").read_text())
    return {case.attrib["name"]: case[0].tag if len(case) else "passed" for case in root.iter("testcase")}


@pytest.fixture(scope="module")
def nights(artefacts: Artefacts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str]]]:
    """Two nights: one with a planted bug as the suspected patch, one without it."""
    directory = tmp_path_factory.mktemp("nightly")
    (directory / "kept").mkdir()
    (directory / "kept" / KEPT_NAME).symlink_to(KEPT)
    plan = write_plan(directory, kept=["kept"], planted=[OTHER_BUG], runs=500)
    # What earlier nights left in the corpus is tried first, so the bug is found at once.
    program = Program.load(BUG.program, Interface.load(artefacts)).to_bytes()
    add_program(Store(directory / "nights").corpus(BUILD, "invocations"), program)
    first = run(plan, "--time", "120", "--extra-patch", str(BUG.path))
    second = run(write_plan(directory, kept=[], planted=[], runs=1000), "--time", "120")
    return directory / "nights", [first, second]


def test_a_bug_that_comes_in_is_new_and_the_exit_code_says_so(
    nights: tuple[Path, list[tuple[int, str]]],
) -> None:
    directory, ((code, output), _) = nights
    assert code == 1, output
    path = Store(directory).nights()[0]
    night = record_of(path)
    assert night.state is NightState.COMPLETE and night.exit_code == 1
    (kept,) = night.retried
    assert kept.state is Retried.FIXED and kept.control is True
    assert [(one.name, one.state) for one in night.planted] == [(OTHER_BUG, "caught")]
    (campaign,) = night.campaigns
    assert campaign.state is Ran.DONE and campaign.executions > 100
    new, *_ = by_the_bug(night.comparison.new)
    assert new.calls == 1 and new.reproduced.startswith("1 of 1")
    bundle = read_bundle(path / new.path)
    assert [patch.name for patch in bundle.patches] == [f"00-{BUG.path.name}"]
    assert kinds(path)["invocations"] == "failure" and kinds(path)[OTHER_BUG] == "passed"
    assert new.signature in output and "nothing to compare with" in output
    page = Page((path / "summary.html").read_text())
    assert page.text.index("new finding") < page.text.index(new.signature)
    assert new.path in page.links and (path / new.path).is_dir()


def test_the_night_after_its_removal_calls_it_fixed(nights: tuple[Path, list[tuple[int, str]]]) -> None:
    directory, (_, (code, output)) = nights
    assert code == 0, output
    path = Store(directory).nights()[1]
    night = record_of(path)
    assert (directory / "latest").resolve() == path.resolve()
    assert night.comparison.with_night == Store(directory).nights()[0].name
    assert by_the_bug(night.comparison.fixed) and not night.comparison.new and not night.comparison.still_there
    known = [one for one in night.retried if one.origin == "known"]
    assert known and {(one.state, *one.shown, one.nights_fixed) for one in known} == {(Retried.FIXED, 1)}
    assert "nothing new" in output and f"fixed: {len(night.comparison.fixed)}" in output
    assert set(kinds(path).values()) == {"passed"}


def test_coverage_of_both_nights_is_there_by_function_and_by_line(
    nights: tuple[Path, list[tuple[int, str]]],
) -> None:
    directory, _ = nights
    for path in Store(directory).nights():
        night = record_of(path)
        table = night.functions[BUILD]
        assert {"kernel", "firmware"} <= set(table)
        assert table["kernel"]["decodeARMFrameInvocation"]["hit"] > 5
        text = (path / "coverage.lcov").read_text()
        sources = [line[3:] for line in text.splitlines() if line.startswith("SF:")]
        assert any(source.endswith("src/arch/arm/64/kernel/vspace.c") for source in sources)
        assert all(Path(source).is_file() for source in sources), "genhtml needs the source"
        assert text.count("end_of_record") == len(sources) == len(set(sources))
    totals = {total.component: total for total in night.comparison.coverage}
    assert totals["kernel"].before is not None and 100 < totals["kernel"].after[0] < totals["kernel"].after[1]


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it did not come that far"
        time.sleep(0.1)


def test_an_interrupted_night_writes_its_reports_and_goes_on(artefacts: Artefacts, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, kept=[], planted=[], runs=0)
    store = Store(tmp_path / "nights")
    process = subprocess.Popen(
        command(plan, "--time", "120"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=PROJECT
    )
    corpus = store.corpus(BUILD, "invocations")
    wait_for(lambda: corpus.is_dir() and len(os.listdir(corpus)) > 20, process)
    with pytest.raises(InputError, match="another night runs there"), store.locked():
        pass
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130, output
    (path,) = store.nights()
    night = record_of(path)
    assert night.state is NightState.INTERRUPTED and night.campaigns[0].state is Ran.INTERRUPTED
    before = night.campaigns[0].executions
    assert before > 0 and "interrupted" in Page((path / "summary.html").read_text()).text
    assert kinds(path) == {"invocations": "error"}

    code, output = run(write_plan(tmp_path, kept=[], planted=[], runs=500), "--resume", "--time", "240")
    assert code == 0, output
    assert store.nights() == [path]
    night = record_of(path)
    assert night.state is NightState.COMPLETE and night.campaigns[0].state is Ran.DONE
    assert len(night.campaigns[0].results) == 2 and night.campaigns[0].executions > before
