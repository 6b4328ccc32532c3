# SPDX-License-Identifier: BSD-2-Clause
"""What the world tag costs: the kernel's instructions for map, unmap, retype and IPC, with the option and without.

Without the tag no memory of the normal world is handed out, so there would be nothing to compare: a patch of the boot
code, `kernel_patches/measuring/`, hands it out as ordinary memory. Both are release kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from harness.build.artefacts import Artefacts
from harness.build.patches import PATCH_DIRECTORY
from harness.build.system import build
from harness.configs import MachineConfig
from harness.execution.executor import Executor
from harness.execution.instructions import last_call_instructions
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CallState

OPTION = "ARM_WORLD_TAG"
PATCH = PATCH_DIRECTORY / "measuring" / "normal-ram-without-tag.patch"
OPERATIONS = Path(__file__).with_name("world_cost.yaml")
MOST = 1.02
"""What an operation may cost with the tag, over what it costs without."""
_GROUPS = {"map": "map", "remap": "map", "unmap": "unmap", "retype": "retype"}
"""The first words of operations that are no IPC."""


@dataclass(frozen=True)
class Cost:
    """Instructions of the kernel for one operation."""

    operation: str
    with_tag: int
    without: int

    @property
    def ratio(self) -> float:
        """With the tag over without."""
        return self.with_tag / self.without


def worst_of_groups(costs: Sequence[Cost]) -> dict[str, Cost]:
    """The dearest operation of map (with remap), unmap, retype and IPC."""
    worst: dict[str, Cost] = {}
    for cost in costs:
        group = _GROUPS.get(cost.operation.split()[0], "ipc")
        if group not in worst or cost.ratio > worst[group].ratio:
            worst[group] = cost
    return worst


@cache
def operations() -> Mapping[str, list[dict[str, Any]]]:
    """The calls of each operation, by name."""
    return dict(yaml.safe_load(OPERATIONS.read_text()))


def build_without(config: MachineConfig) -> Artefacts:
    """The release system of a config without the world tag, made to come up."""
    options = {**config.kernel.options, OPTION: False}
    without = config.model_copy(update={"kernel": config.kernel.model_copy(update={"options": options})})
    return build(without, release=True, extra_patches=[PATCH])


def instructions(executor: Executor) -> dict[str, int]:
    """Instructions of each operation. AssertionError if a call does not do what it is for."""
    interface = Interface.load(executor.artefacts)
    found = {}
    for name, calls in operations().items():
        program = Program.from_yaml(yaml.safe_dump({"calls": calls}), interface, name).to_bytes()
        found[name] = last_call_instructions(executor, program)
        results = executor.run(program).results
        assert not results["error"].any() and CallState.NOT_REACHED not in results["state"], name
    return found


def world_costs(config: MachineConfig) -> list[Cost]:
    """Every operation on both kernels; the first time this builds the one without the tag."""
    counted = []
    for artefacts in (build(config, release=True), build_without(config)):
        with Executor(artefacts) as executor:
            counted.append(instructions(executor))
    return [Cost(name, counted[0][name], counted[1][name]) for name in operations()]
