# SPDX-License-Identifier: BSD-2-Clause
"""A few mutants of the kernel: one is noticed at once, one is not, one has the kernel's own code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fuzz.commands import app
from fuzz.mutants.generate import Mutant
from fuzz.mutants.result import Fate
from fuzz.mutants.run import Basis, MutantSettings, candidates, run_mutant
from harness.build.artefacts import Artefacts
from harness.configs import MachineConfig

NOTICED = ("finaliseCap", "1 << cap_cnode_cap_get_capCNodeRadix(cap), => 2 <<")
"""A zombie that claims twice the slots."""
UNNOTICED = ("provide_cap", "if (ndks_boot.slot_pos_cur > ndks_boot.slot_pos_max) {")
"""Boot would have to run out of slots exactly."""


@pytest.mark.slow
def test_what_is_noticed_is_told_from_what_is_not(artefacts: Artefacts, config: MachineConfig, tmp_path: Path) -> None:
    order = candidates(artefacts, MutantSettings(config, tmp_path))
    noticed, unnoticed = (_named(order, *kind) for kind in (NOTICED, UNNOTICED))
    out, report = tmp_path / "out", tmp_path / "report.json"
    runner, arguments = CliRunner(), ["mutants", "--out", str(out), "--parallel", "1", "--name", noticed]
    first = runner.invoke(app, [*arguments, "--time", "30"])
    assert first.exit_code == 0 and "score: 1 of 1 killed, 100.0 %" in first.output
    second = runner.invoke(app, [*arguments, "--name", unnoticed, "--time", "2", "--json", str(report)])
    assert second.output.count("(result of an earlier run)") == 1, "what is known already is only shown again"
    data = json.loads(report.read_text())
    rows = {row["name"]: row for row in data["mutants"]}
    assert (rows[noticed]["fate"], rows[noticed]["stage"]) == ("killed", "replay")
    assert "mdb_cte_at" in rows[noticed]["oracles"]
    assert rows[unnoticed]["fate"] == "survived"
    assert (data["killed"], data["counted"]) == (1, 2)
    assert "score: 1 of 2 killed, 50.0 %" in second.output
    assert (out / "debug" / unnoticed / "mutant.patch").is_file()


def _named(order: list[Mutant], function: str, change: str) -> str:
    return next(mutant.name for mutant in order if mutant.function == function and change in mutant.change)


def test_other_words_for_the_same_are_no_mutant(artefacts: Artefacts, config: MachineConfig, tmp_path: Path) -> None:
    settings = MutantSettings(config, tmp_path)
    order = candidates(artefacts, settings)
    real = next(mutant for mutant in order if mutant.after == "false")
    result = run_mutant(replace(real, after="(1 == 1)"), Basis(artefacts, {}, {}), settings)
    assert result.fate is Fate.IDENTICAL and not result.counts
