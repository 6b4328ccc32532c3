# SPDX-License-Identifier: BSD-2-Clause
"""The world tag costs at most 2 % of the kernel's instructions in any operation that knows of it."""

from __future__ import annotations

import pytest

from fuzz.world_cost import MOST, instructions, world_costs, worst_of_groups
from harness.build.artefacts import Artefacts
from harness.configs import MachineConfig
from harness.errors import MachineError
from harness.execution.executor import Executor
from harness.execution.instructions import kernel_instructions
from harness.programs.interfaces import Interface
from harness.programs.program import Program


def test_instructions_with_and_without_the_tag(config: MachineConfig) -> None:
    costs = world_costs(config)
    for cost in costs:
        print(f"{cost.operation:32} {cost.without:6} {cost.with_tag:6} {100 * (cost.ratio - 1):+.2f} %")
    assert {cost.operation: round(cost.ratio, 4) for cost in costs if cost.ratio > MOST} == {}
    assert set(worst_of_groups(costs)) == {"map", "unmap", "retype", "ipc"}
    assert any(cost.with_tag != cost.without for cost in costs), "two different kernels"


def test_the_count_is_exact_and_the_same_every_time(executor: Executor) -> None:
    """A system call that does nothing costs the same each time; two of them twice as much."""
    interface = Interface.load(executor.artefacts)

    def count(times: int) -> int:
        text = "calls:\n" + "- {call: NBSend, target: doorbell}\n" * times
        return kernel_instructions(executor, Program.from_yaml(text, interface).to_bytes())

    one = count(1)
    assert one == count(1) > 50
    assert count(3) - count(2) == count(2) - one
    assert instructions(executor) == instructions(executor)


def test_what_cannot_be_counted_is_refused(artefacts: Artefacts, executor: Executor) -> None:
    interface = Interface.load(artefacts)
    text = "calls:\n" + "- {call: Yield}\n" * 255
    with pytest.raises(MachineError, match="not counted"):
        kernel_instructions(executor, Program.from_yaml(text, interface).to_bytes())
