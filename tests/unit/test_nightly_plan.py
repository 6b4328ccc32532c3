# SPDX-License-Identifier: BSD-2-Clause
"""Plans of nights: the one that comes with the project, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from fuzz.commands import app
from fuzz.nightly.budget import Time, next_share
from fuzz.nightly.plan import DEFAULT_PLAN, FailOn, Plan, load_plan
from harness.build.artefacts import PROJECT
from harness.errors import PatchError, PlanError

TEXT = DEFAULT_PLAN.read_text()


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def error_of(tmp_path: Path, text: str) -> str:
    (tmp_path / "tests" / "findings").mkdir(parents=True, exist_ok=True)
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    return str(caught.value)


def test_the_plan_that_comes_with_the_project_says_what_the_defaults_are(tmp_path: Path) -> None:
    (tmp_path / "tests" / "findings").mkdir(parents=True)
    (tmp_path / "nightly.yaml").write_text(TEXT)
    assert load_plan(tmp_path / "nightly.yaml") == Plan().resolved(tmp_path)
    assert load_plan() == Plan().resolved(PROJECT)


def test_every_field_has_a_comment_in_it() -> None:
    lines = TEXT.splitlines()

    def check(model: type[BaseModel], data: dict[str, Any], indent: str) -> None:
        assert set(data) == set(model.model_fields)
        for name, field in model.model_fields.items():
            index = next(i for i, line in enumerate(lines) if line.startswith(f"{indent}{name}:"))
            assert lines[index - 1].strip().startswith("#"), name
            inner = field.annotation
            on_one_line = lines[index].rstrip().endswith("}")
            if isinstance(inner, type) and issubclass(inner, BaseModel) and not on_one_line:
                check(inner, data[name], indent + "  ")

    check(Plan, yaml.safe_load(TEXT), "")


def test_paths_start_at_the_plan(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "a.patch").write_text("")
    path = tmp_path / "plan.yaml"
    path.write_text("nights: out\nextra_patches: [a.patch]\nfindings: {directories: [kept]}\n")
    plan = load_plan(path)
    assert plan.nights == tmp_path / "out" and plan.extra_patches == (tmp_path / "a.patch",)
    assert plan.findings.directories == (tmp_path / "kept",)


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    [
        ("seconds: 3600", "second: 3600", "second", "unknown field; did you mean 'seconds'?"),
        ("seconds: 3600", "seconds: soon", "seconds", "number"),
        ("seconds: 3600", "seconds: 1", "seconds", "greater than or equal to 5, not 1"),
        ("seconds: 3600", "seconds: .nan", "seconds", "finite"),
        ("release: 1}", "realease: 1}", "kernels.realease", "did you mean 'release'?"),
        ("{debug: 2, release: 1}", "{debug: 0, release: 0}", "kernels", "no kernel has a share of the time"),
        ("smc: 1}", "smx: 1}", "targets.smx", "no fuzz target 'smx'; did you mean 'smc'?"),
        ("smc: 1}", "smc: -1}", "targets.smc", "greater than or equal to 0, not -1"),
        ("{invocations: 3, smc: 1}", "{}", "targets", "no target has a share of the time"),
        ("fail_on: [new]", "fail_on: [newer]", "fail_on[0]", "did you mean 'new'?"),
        ('programs: ["*"]', "programs: [nothing*]", "planted.programs[0]", "no planted bug is called 'nothing*'"),
        ("configs: [spanning-el1]", "configs: [spaning-el1]", "configs[0]", "did you mean 'spanning-el1'?"),
        ("extra_patches: []", "extra_patches: [x.patch]", "extra_patches[0]", "there is no file"),
        ("[tests/findings]", "[test/findings]", "findings.directories[0]", "there is no directory"),
        ("kernel_source: null", "kernel_source: seL4", "kernel_source", "there is no"),
        ("  nights: 30", "  nights: 0", "retention.nights", "greater than or equal to 1, not 0"),
        ("  campaigns: 0", "  campaigns: -1", "planted.campaigns", "not -1"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(tmp_path: Path, old: str, new: str, field: str, words: str) -> None:
    broken = TEXT.replace(old, new)
    assert broken != TEXT
    message = error_of(tmp_path, broken)
    assert f"plan.yaml:{line_of(broken, new.strip())}: {field}: " in message and words in message


@pytest.mark.parametrize("text", ["- a list", "", "seconds: [", "seconds: 60\nseconds: 70"])
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    assert error_of(tmp_path, text).startswith(f"{tmp_path / 'plan.yaml'}:")


def test_the_command_refuses_a_wrong_plan_before_it_writes_anything(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["nightly", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "nights")])
    assert isinstance(result.exception, PlanError) and "none.yaml: cannot be read" in str(result.exception)
    patch = tmp_path / "bad.patch"
    patch.write_text("no diff\n")
    result = CliRunner().invoke(app, ["nightly", "--out", str(tmp_path / "nights"), "--extra-patch", str(patch)])
    assert isinstance(result.exception, PatchError) and "bad.patch: holds no diff" in str(result.exception)
    assert not list((tmp_path / "nights").glob("0*"))


def test_every_word_of_fail_on_is_explained() -> None:
    comment = TEXT[TEXT.index("# What makes the exit code 1") : TEXT.index("fail_on:")]
    assert all(f"`{name}`" in comment for name in FailOn)


def test_what_one_campaign_leaves_goes_to_the_others() -> None:
    shares = {"a": 3.0, "b": 1.0}
    assert next_share(100, shares, "a") == 75 and next_share(40, {"b": 1.0}, "b") == 40


def test_the_time_of_a_night_keeps_a_reserve_for_what_is_new() -> None:
    clock = Time(1000, used=300)
    assert 599 < clock.left_for_campaigns <= 600 and clock.within(0.35) and not clock.within(0.25)
    over = Time(10, used=20)
    assert over.left == 0 and over.left_for_campaigns == 0
