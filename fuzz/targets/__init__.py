# SPDX-License-Identifier: BSD-2-Clause
"""Fuzz targets: which calls a campaign makes, and how often.

A target is a `Target`. The project's own are modules of this package with a `TARGET`; other
packages add theirs through the entry point group `bothworlds.targets`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from harness import plugins
from harness.configs import DEFAULT_CONFIG
from harness.errors import InputError

ENTRY_POINTS = "bothworlds.targets"
OWN = ("invocations", "normal-world-smc", "smc")
DEFAULT_TARGET = "invocations"


@dataclass(frozen=True)
class Target:
    """What a campaign aims at.

    `weight(name)`: how often a typed mutator chooses a call of the table, relative to 1; 0: never.
    Where `exclusive` is true, native mutators' calls are replaced by those of positive weight, too.
    `moves`: slot types of the capabilities that calls copy, move, delete and send, as a rule; none: all.
    `config`: the machine config that it is for, where none is named. `main`: a call without which it makes no sense.
    """

    name: str
    description: str
    weight: Callable[[str], float]
    exclusive: bool = False
    moves: tuple[str, ...] = ()
    config: str = DEFAULT_CONFIG
    main: str = ""


def target_names() -> list[str]:
    """Names of all targets."""
    return sorted({*OWN, *(entry.name for entry in plugins.entries(ENTRY_POINTS))})


def load_target(name: str) -> Target:
    """The target of that name; raises InputError with the nearest name if there is none."""
    target: object = None
    if name in OWN:
        target = import_module(f"fuzz.targets.{name.replace('-', '_')}").TARGET
    else:
        for entry in plugins.entries(ENTRY_POINTS):
            if entry.name == name:
                target = plugins.load(entry)
    if target is None:
        near = difflib.get_close_matches(name, target_names(), 1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(target_names())}"
        raise InputError(f"no fuzz target '{name}'; {hint}")
    if not isinstance(target, Target):
        raise InputError(f"the fuzz target '{name}' is a {type(target).__name__}, not a fuzz.targets.Target")
    return target
