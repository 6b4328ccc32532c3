# SPDX-License-Identifier: BSD-2-Clause
"""A few mutants of the kernel: one is noticed at once, one has the kernel's own code, one is not noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fuzz.commands import app
from fuzz.mutants.generate import Mutant
from fuzz.mutants.run import MutantSettings, candidates
from harness.build.artefacts import Artefacts
from harness.configs import MachineConfig

NOTICED = ("finaliseCap", "1 << cap_cnode_cap_get_capCNodeRadix(cap), => 2 <<")
"""A zombie that claims twice the slots."""
IDENTICAL = ("x", "y")
UNNOTICED = ("transferCaps", "seL4_MessageInfo_get_capsUnwrapped(info) | (2 << i)")
"""A message that tells wrongly which of its capabilities were unwrapped."""


@pytest.mark.slow
def test_mutants_are_told_apart(artefacts: Artefacts, config: MachineConfig, tmp_path: Path) -> None:
    order = candidates(artefacts, MutantSettings(config, tmp_path))
    chosen = {kind: _named(order, *kind) for kind in (NOTICED, IDENTICAL, UNNOTICED)}
    names = [argument for mutant in chosen.values() for argument in ("--name", mutant.name)]
    arguments = ["mutants", *names, "--time", "2", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "json")]
    first = CliRunner().invoke(app, arguments)
    data = json.loads((tmp_path / "json").read_text())
    rows = {row["name"]: row for row in data["mutants"]}
    noticed = rows[chosen[NOTICED].name]
    assert (noticed["fate"], noticed["stage"]) == ("killed", "replay") and "mdb_cte_at" in noticed["oracles"]
    assert rows[chosen[IDENTICAL].name]["fate"] == "identical code"
    unnoticed = rows[chosen[UNNOTICED].name]
    assert unnoticed["fate"] == "survived" and unnoticed["executions"] > 10
    assert (data["killed"], data["counted"]) == (1, 2)
    assert "score: 1 of 2 killed, 50.0 %" in first.output
    assert (tmp_path / "out" / "debug" / chosen[UNNOTICED].name / "mutant.patch").is_file()
    # What is known already is only shown again.
    second = CliRunner().invoke(app, arguments)
    assert second.output.count("(result of an earlier run)") == 3
    assert second.exit_code == first.exit_code


def _named(order: list[Mutant], function: str, change: str) -> Mutant:
    return next(mutant for mutant in order if mutant.function == function and change in mutant.change)
