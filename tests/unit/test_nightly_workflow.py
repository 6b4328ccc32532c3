# SPDX-License-Identifier: BSD-2-Clause
"""The workflow for continuous integration: it can be read, is bounded in time, and names what exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fuzz.nightly.plan import load_plan
from fuzz.nightly.store import JUNIT_FILE, LATEST, LCOV_FILE

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / ".github" / "workflows" / "nightly.yml").read_text()


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    data: dict[Any, Any] = yaml.safe_load(TEXT)
    return data


@pytest.fixture(scope="module")
def job(workflow: dict[Any, Any]) -> dict[str, Any]:
    (only,) = workflow["jobs"].values()
    assert isinstance(only, dict)
    return only


def test_it_runs_each_night_and_by_hand(workflow: dict[Any, Any]) -> None:
    triggers = workflow[True]  # YAML 1.1 reads `on` as a truth value
    (schedule,) = triggers["schedule"]
    assert re.fullmatch(r"[0-9]+ [0-9]+ \* \* \*", schedule["cron"]) and "workflow_dispatch" in triggers


def test_it_ends_in_time_and_leaves_room_for_the_set_up(workflow: dict[Any, Any], job: dict[str, Any]) -> None:
    seconds = float(workflow[True]["workflow_dispatch"]["inputs"]["seconds"]["default"])
    assert seconds == load_plan().seconds and job["timeout-minutes"] * 60 >= seconds + 1800
    assert f"'{seconds:.0f}'" in TEXT, "the night that the schedule starts is as long"


def test_each_step_is_either_an_action_of_a_version_or_a_script_that_bash_understands(job: dict[str, Any]) -> None:
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step), step
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+(/[\w-]+)*@v\d+", step["uses"]), step["uses"]
        else:
            script = re.sub(r"\$\{\{.*?\}\}", "x", step["run"])
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_reports_are_kept_however_the_night_ends(job: dict[str, Any]) -> None:
    steps = job["steps"]
    night = next(i for i, step in enumerate(steps) if "bothworlds nightly" in step.get("run", ""))
    assert all(step.get("if") == "always()" for step in steps[night + 1 :])
    later = "\n".join(yaml.safe_dump(step) for step in steps[night + 1 :])
    nights = load_plan().nights.name
    for name in (JUNIT_FILE, LCOV_FILE):
        assert f"{nights}/{LATEST}/{name}" in later
    assert "actions/cache/save" in later and "actions/upload-artifact" in later
    kept = next(step for step in steps if "cache/save" in step.get("uses", ""))
    taken = next(step for step in steps if "cache/restore" in step.get("uses", ""))
    assert kept["with"]["path"] == taken["with"]["path"] == nights
    prefix = taken["with"]["restore-keys"]
    assert kept["with"]["key"].startswith(prefix) and taken["with"]["key"].startswith(prefix)
    assert steps.index(taken) < night


def test_the_words_for_the_summary_are_the_last_part_of_the_output(job: dict[str, Any]) -> None:
    script = next(step["run"] for step in job["steps"] if "bothworlds nightly" in step.get("run", ""))
    program = re.search(r"awk '(.*?)'", script)
    assert program is not None
    text = "a: 1 s\n\nb: 2 s\n\nnothing new\n  night 0001\n"
    result = subprocess.run(["awk", program[1]], input=text, text=True, capture_output=True, check=True)
    assert result.stdout == "nothing new\n  night 0001\n"
