# SPDX-License-Identifier: BSD-2-Clause
"""Which oracles see which planted bug, and what is seen by one of them alone. No campaign: stored programs only."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

from harness.build.planted import PlantedBug
from harness.configs import MachineConfig
from harness.findings.judge import LIVENESS_FINDINGS
from harness.findings.oracles import Sight, alone, sight_of
from harness.invariants.checker import load_plugins
from harness.invariants.registry import invariants

HEADERS = ("planted bug", "seen by", "in the snapshot")
ALONE_HEADERS = ("oracle", "bugs that no other one sees")


def measure(bugs: Sequence[PlantedBug], config: MachineConfig, *, release: bool = False) -> dict[str, Sight]:
    """What sees each bug, by its name. All cores take part.

    Raises BothworldsError for a kernel that cannot be built, booted or run.
    """
    cores = min(len(os.sched_getaffinity(0)), max(1, len(bugs)))
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        jobs = {bug.name: pool.submit(sight_of, bug, config, release=release) for bug in bugs}
        try:
            return {name: job.result() for name, job in jobs.items()}
        finally:
            pool.shutdown(cancel_futures=True)


def oracle_names() -> list[str]:
    """Every invariant, and every outcome that is a finding."""
    load_plugins()
    return [*(entry.id for entry in invariants()), *sorted(LIVENESS_FINDINGS)]


def rows(sights: Mapping[str, Sight]) -> list[tuple[str, ...]]:
    """Rows of the matrix; see HEADERS."""
    return [(name, _list(sight.oracles), _list(sight.at_start) or "nothing") for name, sight in sights.items()]


def alone_rows(sights: Mapping[str, Sight]) -> list[tuple[str, ...]]:
    """For each oracle what it alone sees; see ALONE_HEADERS."""
    only = alone({name: sight.oracles for name, sight in sights.items()})
    return [(name, _list(only.get(name, ())) or "none") for name in oracle_names()]


def as_data(sights: Mapping[str, Sight]) -> list[dict[str, object]]:
    """The matrix for JSON: `oracles`, `at_start`, and `by_calls`, a list for each number of calls from 1."""
    return [
        {
            "name": name,
            "oracles": sorted(sight.oracles),
            "at_start": sorted(sight.at_start),
            "by_calls": [sorted(names) for names in sight.by_calls],
        }
        for name, sight in sights.items()
    ]


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
