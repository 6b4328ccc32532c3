# SPDX-License-Identifier: BSD-2-Clause
"""What it costs to judge what programs leave behind."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from fuzz.metrics import Metric
from harness.errors import EnvironmentFailure
from harness.execution.executor import Executor
from harness.execution.observation import Outcome
from harness.findings.judge import Judge
from harness.invariants.world import FAMILY as WORLD
from harness.programs.interfaces import Interface
from harness.programs.program import Program

MANY_OBJECTS = Path(__file__).with_name("thousand_objects.yaml")
WHOLE = 64
"""Programs whose states are judged as a whole."""


def check_costs(executor: Executor, interface: Interface, programs: Sequence[bytes]) -> list[Metric]:
    """Medians of judging the states of some programs: as a whole, the world family alone, what changed."""
    whole, world, changed = [], [], []
    judge = Judge.of(executor)
    checker = judge.checker
    if not checker.follows:
        raise EnvironmentFailure("the snapshot does not hold: nothing can be judged by what programs change")
    for number, program in enumerate(programs):
        observation = executor.run(program)
        if observation.status is not Outcome.DONE:
            continue
        # Each program once, so that no state is known because the same program left it before.
        changed.append(checker.check_changed(observation, everything=True).seconds * 1000)
        if number < WHOLE:
            whole.append(judge.check(observation).seconds * 1000)
            world.append(checker.check(executor.memory, observation, families=[WORLD]).seconds * 1000)
    many = _check_many(executor, interface, judge)
    everything = statistics.median(whole)
    return [
        Metric("check_ms", everything, "ms", statistics.median(world), "the world family alone"),
        Metric("world_check_ms", statistics.median(world), "ms", everything, "all invariants"),
        Metric("incremental_check_ms", statistics.median(changed), "ms", everything, "the whole check"),
        Metric("check_ms_1000_objects", many, "ms", everything, "the states of the mix"),
    ]


def _check_many(executor: Executor, interface: Interface, judge: Judge) -> float:
    """Milliseconds for all invariants on the state that `thousand_objects.yaml` leaves behind."""
    observation = executor.run(Program.load(MANY_OBJECTS, interface).to_bytes())
    seconds = [judge.check(observation) for _ in range(16)]
    made = len(judge.checker.state(executor.memory, observation).caps) - len(judge.checker.snapshot.caps)
    if made < 1000:
        raise EnvironmentFailure(f"{MANY_OBJECTS}: the program made {made} objects, not a thousand")
    return statistics.median(report.seconds for report in seconds) * 1000
