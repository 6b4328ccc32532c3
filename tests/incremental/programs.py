# SPDX-License-Identifier: BSD-2-Clause
"""Programs without end, which depend on a seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from fuzz.mutators import TypedMutator
from fuzz.shapes import shapes_of
from fuzz.targets import load_target
from harness.build.planted import planted_bugs
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CALL_BYTES

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CALLS = 16
POOL = 512
"""Programs that are kept to be mutated again."""


def handwritten(interface: Interface) -> list[bytes]:
    """The examples, and the stored programs of the planted bugs of the usual machine."""
    paths = [*sorted(EXAMPLES.glob("*.yaml")), *(bug.program for bug in planted_bugs() if not bug.config)]
    return [Program.load(path, interface).to_bytes() for path in paths]


def programs(interface: Interface, seed: int, first: bytes = b"") -> Iterator[bytes]:
    """Programs; `first` is one that is mutated more often than others."""
    choice = random.Random(seed)
    change = TypedMutator(shapes_of(interface, load_target("invocations")), seed=seed, maximum_calls=CALLS)
    by_hand = handwritten(interface)
    pool = list(by_hand)
    if first:
        yield first
    while True:
        way = choice.random()
        if way < 0.05:
            yield choice.randbytes(CALL_BYTES * choice.randrange(1, CALLS + 1))
        elif way < 0.25:
            yield bytes(change.program(choice.randrange(1, CALLS + 1)))
        else:
            program = first if first and choice.random() < 0.3 else choice.choice(pool)
            for _ in range(choice.randrange(1, 4)):
                program = change(program, CALLS * CALL_BYTES, 0)
            if len(pool) < POOL:
                pool.append(program)
            else:
                pool[choice.randrange(len(by_hand), POOL)] = program
            yield program
