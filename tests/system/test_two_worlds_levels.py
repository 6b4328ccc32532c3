# SPDX-License-Identifier: BSD-2-Clause
"""The whole system with a normal world at EL2: programs repeat, whichever world parks, and from cold boots, too."""

from __future__ import annotations

import random

import pytest

from harness.build.system import build
from harness.configs import Level, load_config
from harness.execution.executor import Executor
from harness.execution.observation import Observation
from harness.findings.reproduce import cold_build
from harness.protocol import CALL_BYTES
from tests.system.worlds import TRUSTED_OS

PROGRAMS = 25
CALLS = 16


def seen(observation: Observation) -> tuple[str, bytes, int, int]:
    """How it ended, the results, and the world and the exception level that parked."""
    results, report = observation.results.tobytes(), observation.report
    return observation.status.value, results, int(report["scr_el3"]) & 1, int(report["spsr_el3"]) >> 2 & 3


@pytest.mark.parametrize("save_el2", [False, True])
def test_a_normal_world_at_el2(save_el2: bool) -> None:
    config = load_config(TRUSTED_OS)
    assert config.normal_world is not None
    normal = config.normal_world.model_copy(update={"level": Level.EL2, "save_el2": save_el2})
    artefacts = build(config.model_copy(update={"normal_world": normal}))
    source = random.Random(11)
    programs = [source.randbytes(CALL_BYTES * CALLS) for _ in range(PROGRAMS)]
    with Executor(artefacts) as executor:
        first = [seen(executor.run(program)) for program in programs]
        again = [seen(executor.run(program)) for program in reversed(programs)]
        assert first == again[::-1]
        assert {(world, level) for _, _, world, level in first} >= {(0, 0), (1, 2)}
        assert not executor.audit()
    with Executor(cold_build(artefacts, programs[0])) as executor:
        assert seen(executor.observe_boot(CALLS)) == first[0]
