# SPDX-License-Identifier: BSD-2-Clause
"""Planted bugs in a night: each stored program must be caught, or the harness is blind.

They are built on the series alone, in the debug kernel if the night has one: what is asked is
whether the harness sees, not whether tonight's kernel is right.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from fuzz.nightly.plan import Plan
from fuzz.nightly.record import Caught, Night, PlantedRecord
from fuzz.nightly.retry import bench
from fuzz.nightly.words import first_line
from harness.build.planted import PlantedBug, planted_bugs
from harness.build.system import build
from harness.configs import MachineConfig
from harness.errors import BothworldsError, OutputError
from harness.findings.signature import Signature


def chosen(plan: Plan) -> list[PlantedBug]:
    """The planted bugs whose stored programs the plan asks for."""
    return [bug for bug in planted_bugs() if any(fnmatchcase(bug.name, p) for p in plan.planted.programs)]


def in_turn(bugs: Sequence[PlantedBug], nights: Sequence[Night], how: str) -> list[PlantedBug]:
    """The same bugs, those first that have not been tried for the longest time; `nights`: earlier ones, in order."""
    tried: dict[str, int] = {}
    for number, night in enumerate(nights, 1):
        tried |= {one.name: number for one in night.planted if one.how == how and one.state is not Caught.POSTPONED}
    return sorted(bugs, key=lambda bug: tried.get(bug.name, 0))


def replay_program(bug: PlantedBug, config: MachineConfig, *, release: bool, directory: Path) -> PlantedRecord:
    """Run the stored program of a planted bug. OutputError is the host's trouble and is raised."""
    started = time.monotonic()
    record = PlantedRecord(name=bug.name, expected=bug.expected, state=Caught.ERROR)
    try:
        artefacts = build(bug.on(config), release=release, extra_patches=[bug.path])
        with bench(artefacts, directory) as machine:
            record.shown = machine.shown(machine.load(bug.program))
    except OutputError:
        raise
    except BothworldsError as problem:
        record.message = first_line(problem)
    else:
        judge(record, bug.catches(release=release))
    record.seconds = round(time.monotonic() - started, 3)
    return record


def judge(record: PlantedRecord, catches: Collection[str]) -> None:
    """Whether what was shown is what the bug must give: `catches` names invariants and outcomes."""
    caught = any(Signature.parse(signature).name in catches for signature in record.shown)
    record.state = Caught.CAUGHT if caught else Caught.MISSED
    if not caught:
        instead = f"; it showed {', '.join(record.shown)}" if record.shown else "; it showed nothing"
        record.message = f"{record.expected} did not catch its stored program{instead}"


def postponed(bug: PlantedBug, how: str = "program") -> PlantedRecord:
    """The record of a bug that there was no time for."""
    record = PlantedRecord(name=bug.name, expected=bug.expected, state=Caught.POSTPONED)
    record.message = "no time was left for it; the next night begins with it"
    if how == "campaign":
        record.how = "campaign"
    return record


def run_campaign_against(
    bug: PlantedBug, config: MachineConfig, directory: Path, *, release: bool, seconds: float, seed: int, workers: int
) -> PlantedRecord:
    """A campaign from an empty corpus against a planted bug."""
    from fuzz.planted import PlantedSettings, run_planted

    record = PlantedRecord(name=bug.name, expected=bug.expected, how="campaign", state=Caught.ERROR)
    settings = PlantedSettings(config, directory, seconds=seconds, workers=workers, seed=seed, release=release)
    try:
        result, _ = run_planted(bug, settings, again=True)
    except OutputError:
        raise
    except BothworldsError as problem:
        record.message = first_line(problem)
        return record
    record.state = Caught.CAUGHT if result.caught else Caught.MISSED
    record.seconds, record.executions = result.seconds, result.executions
    record.shown = [result.signature] if result.signature else []
    if not result.caught:
        record.message = f"not found within {seconds:.0f} s and {result.executions} executions"
    return record
