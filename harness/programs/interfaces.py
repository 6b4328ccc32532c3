# SPDX-License-Identifier: BSD-2-Clause
"""The interface of one build: its call table, pools and population.

The build of the root task generates it once (`Interface.generate`), compiles it into the
victims' decoder and keeps it as `interface.json` beside `root_task.elf`, so that the host
decodes a program with exactly the tables that the guest has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.build.artefacts import Artefacts
from harness.build.smc_functions import described_smc_functions
from harness.configs import MachineConfig
from harness.errors import BuildFailure, ImageError
from harness.programs import descriptions
from harness.programs.descriptions import NORMAL_ACTIONS, Action, CallType, Parameter, Place
from harness.programs.normal_calls import normal_calls, normal_pools
from harness.programs.pools import Pool, make_pools
from harness.programs.population import Population

__all__ = ["Action", "CallType", "Interface", "Parameter", "Place", "Pool"]

INTERFACE_FILE = "interface.json"


@dataclass(frozen=True)
class Interface:
    """Call table, pools by kind, and the population whose slots the calls name."""

    calls: tuple[CallType, ...]
    pools: Mapping[str, Pool]
    population: Population

    @classmethod
    def generate(
        cls,
        source: Path,
        macros: Mapping[str, int],
        *,
        population: Population | None = None,
        smc: Mapping[str, int] | None = None,
        names: tuple[str, ...] = (),
        config: MachineConfig | None = None,
    ) -> Interface:
        """Generate from a kernel source tree; `macros` are its configuration macros with their values.

        The normal world of a `config` adds its calls. Raises BuildFailure for an interface description that cannot
        be used.
        """
        normal = None if config is None else config.normal_world
        if population is None:
            population = Population.load(normal_world=normal is not None)
        if smc is None:
            smc = {function.name: function.id for function in described_smc_functions()}
        calls = descriptions.select_calls(descriptions.all_calls(source, macros), names)
        labels = {call.name: call.label for call in calls if call.action is Action.INVOKE}
        pools = make_pools(population, smc, labels)
        if config is not None and normal is not None:
            calls = (*calls, *normal_calls())
            pools |= normal_pools(config, normal)
        for call in calls:
            for kind in [call.target, *(p.kind for p in call.parameters)]:
                if kind not in pools and kind not in ("", "slot"):
                    raise BuildFailure(f"{call.name}: there is no pool of values of kind '{kind}'")
        return cls(calls, pools, population)

    @classmethod
    def load(cls, build: Artefacts | Path) -> Interface:
        """The interface of a build, or of a directory that holds its `interface.json`; raises ImageError."""
        directory = build if isinstance(build, Path) else build.root_task_elf.parent
        path = directory / INTERFACE_FILE if directory.is_dir() else directory
        try:
            return cls.from_data(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ImageError(f"{path}: not the interface of a build: {error}; build again") from error

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Interface:
        """The inverse of `to_data`."""
        pools = {}
        for item in data["pools"]:
            names = tuple((str(name), int(value)) for name, value in item["names"])
            pools[item["kind"]] = Pool(item["kind"], tuple(item["values"]), names, item["closed"])
        calls = tuple(descriptions.call_from_data(item) for item in data["calls"])
        normal_world = any(call.action in NORMAL_ACTIONS for call in calls)
        return cls(calls, pools, Population(data["population"], INTERFACE_FILE, normal_world=normal_world))

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "calls": [descriptions.call_to_data(call) for call in self.calls],
            "pools": [asdict(pool) for pool in self.pools.values()],
            "population": self.population.data,
        }

    @cached_property
    def identity(self) -> str:
        """16 hexadecimal digits of a hash over call table, pools and population: what the bytes of a program mean.

        Where it differs, a program's bytes mean other calls; its YAML means the same.
        """
        return hashlib.sha256(json.dumps(self.to_data(), sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def index(self) -> dict[str, int]:
        """Index of each call in the table, by name."""
        return {call.name: i for i, call in enumerate(self.calls)}

    @cached_property
    def first_normal_call(self) -> int:
        """Index in the call table from which on the normal world makes the calls; the table's length without one."""
        normal = [index for index, call in enumerate(self.calls) if call.action in NORMAL_ACTIONS]
        return normal[0] if normal else len(self.calls)

    def performer(self, call: int, victim: int) -> int:
        """Who makes the call of that index in the table, where a record names that victim: its number modulo the
        victims', or their number, which stands for the normal world.
        """
        victims = len(self.population.victims)
        return victims if call >= self.first_normal_call else victim % victims

    def call(self, name: str) -> CallType:
        """The call of that name; KeyError if the table does not have it."""
        return self.calls[self.index[name]]
