# SPDX-License-Identifier: BSD-2-Clause
"""What a measurement is, and what each has to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fuzz.world_cost import MOST

AT_LEAST = {
    "executions_per_second": 6000.0,
    "invocations_per_second": 100_000.0,
    "smc_per_second": 100_000.0,
    "success_rate": 0.5,
    "strict_executions_per_second": 1000.0,
    "workers2_speedup": 1.8,
    "normal_world_executions_per_second": 3000.0,
    "dispatcher_round_trips_per_second": 40_000.0,
    "dispatcher_round_trips_el2_per_second": 20_000.0,
}
AT_MOST = {
    "restore_us": 50.0,
    "coverage_overhead": 1.3,
    "check_ms": 10.0,
    "world_check_ms": 1.0,
    "incremental_check_ms": 1.0,
    "check_ms_1000_objects": 50.0,
    "mutation_us": 100.0,
    "boot_seconds": 1.0,
    "world_tag_map": MOST,
    "world_tag_unmap": MOST,
    "world_tag_retype": MOST,
    "world_tag_ipc": MOST,
}
"""What a metric has to be on a two-core machine without other load; the report says where it is not."""


@dataclass(frozen=True)
class Metric:
    """One measurement; `ratio` is value over baseline."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    meaning: str = ""
    """What the baseline is."""

    @property
    def ratio(self) -> float | None:
        """Value over baseline; None without one."""
        return self.value / self.baseline if self.baseline else None

    @property
    def target(self) -> str:
        """What the value has to be, and whether it is missed; empty where nothing is asked for."""
        if (least := AT_LEAST.get(self.name)) is not None:
            return f">= {_number(least)}" + ("" if self.value >= least else ", missed")
        if (most := AT_MOST.get(self.name)) is not None:
            return f"<= {_number(most)}" + ("" if self.value <= most else ", missed")
        return ""

    def to_json(self) -> dict[str, Any]:
        """What `bench --json` writes for it."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "baseline": self.baseline,
            "ratio": self.ratio,
            "baseline_is": self.meaning,
            "target": self.target,
        }

    def row(self) -> tuple[str, ...]:
        """Cells of its row in the table."""
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        baseline = "" if self.baseline is None else _number(self.baseline)
        return self.name, _number(self.value), self.unit, self.target, baseline, ratio, self.meaning


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
