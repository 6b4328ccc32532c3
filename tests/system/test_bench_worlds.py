# SPDX-License-Identifier: BSD-2-Clause
"""The monitor's speed is measured on each kind of machine; how fast it is, is no matter of a test."""

from __future__ import annotations

import pytest

from fuzz import bench_worlds
from harness.configs import load_config


def test_every_rate_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_worlds, "TIMES", 1)
    monkeypatch.setattr(bench_worlds, "CALLS", dict.fromkeys(bench_worlds.CALLS, 200))
    rates = {rate.name: rate for rate in bench_worlds.world_rates(load_config())}
    assert len(rates) == 5
    assert all(rate.value > 0 and rate.baseline > 0 for rate in rates.values())
    assert rates["el3_smc_per_second"].value > rates["dispatcher_round_trips_per_second"].value
