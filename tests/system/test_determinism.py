# SPDX-License-Identifier: BSD-2-Clause
"""One program does the same every time: results, coverage by static block, memory; from the snapshot and from boot."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator

import pytest

from harness.build.artefacts import Artefacts
from harness.build.system import build
from harness.configs import DEFAULT_CONFIG, load_config
from harness.execution.executor import Executor
from harness.execution.observation import Observation
from harness.protocol import CALL_BYTES
from tests.system.worlds import TRUSTED_OS

TIMES = 100
COLD_BOOTS = int(os.environ.get("BOTHWORLDS_COLD_BOOTS", "5"))
"""The evidence was taken with 100."""


@pytest.fixture(scope="module", params=[DEFAULT_CONFIG, TRUSTED_OS])
def artefacts(request: pytest.FixtureRequest) -> Artefacts:
    """The debug build without a normal world, then with one."""
    return build(load_config(str(request.param)))


@pytest.fixture(scope="module")
def shared_executor(artefacts: Artefacts) -> Iterator[Executor]:
    """One parked machine of it."""
    with Executor(artefacts) as machine:
        yield machine


def programs(count: int) -> list[bytes]:
    source = random.Random(7)
    return [source.randbytes(CALL_BYTES * 16) for _ in range(count)]


def fingerprint(observation: Observation) -> str:
    """Everything that an execution shows and changes, but the time it takes."""
    digest = hashlib.sha256()
    report = observation.report
    # Not its number: how many programs ran before, and how often the machine parked.
    report["sequence"] = report["parks"] = 0
    parts = [observation.status.value.encode(), observation.results.tobytes(), observation.coverage.tobytes()]
    parts += [observation.changed.tobytes(), *(page.tobytes() for page in observation.pages)]
    parts += [report.tobytes(), observation.smc_log.tobytes(), observation.console.encode()]
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def test_from_the_snapshot(executor: Executor) -> None:
    """100 of 100, with other programs in between."""
    noise = random.Random(8)
    for program in programs(5):
        seen = set()
        for _ in range(TIMES):
            seen.add(fingerprint(executor.run(program)))
            executor.run(noise.randbytes(CALL_BYTES * noise.randrange(1, 17)))
        assert len(seen) == 1


def test_from_cold_boots(artefacts: Artefacts) -> None:
    """The same on another machine each time, and the same as on one that has run other programs."""
    chosen = programs(3)
    seen = set()
    for boot in range(COLD_BOOTS):
        with Executor(artefacts) as executor:
            if boot == 0:
                for program in programs(200):
                    executor.run(program)
            seen.add(tuple(fingerprint(executor.run(program)) for program in chosen))
    assert len(seen) == 1


@pytest.mark.parametrize("release", [False, True])
def test_step_by_step(artefacts: Artefacts, release: bool) -> None:
    """A program that stops after k calls has done what the whole program's first k calls do."""
    with Executor(build(artefacts.config, release=True) if release else artefacts) as executor:
        program = programs(1)[0]
        whole = executor.run(program).results.copy()
        for k in range(1, 17):
            observation = executor.run(program, stop_after=k)
            if observation.status != "done":
                break
            assert observation.results[:k].tobytes() == whole[:k].tobytes()
