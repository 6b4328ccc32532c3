# SPDX-License-Identifier: BSD-2-Clause
"""A fixed mix of programs of the normal world, for measurements: what the target's typed mutators make of nothing."""

from __future__ import annotations

from fuzz.mutators import TypedMutator
from fuzz.shapes import shapes_of
from fuzz.targets import load_target
from harness.programs.descriptions import NORMAL_ACTIONS
from harness.programs.encodings import Decoder
from harness.programs.interfaces import Interface
from harness.programs.normal_calls import functions

TARGET = "normal-world-smc"
_ENDS = ("system_off", "system_reset")
_WORD = (1 << 32) - 1


def normal_programs(interface: Interface, count: int, calls: int, seed: int = 1) -> list[bytes]:
    """`count` programs of so many calls, all of the normal world's and none that ends the machine."""
    typed = TypedMutator(shapes_of(interface, load_target(TARGET)), seed=seed, maximum_calls=calls)
    decoder, known = Decoder(interface), functions()
    ends = {known[name] for name in _ENDS}
    made: list[bytes] = []
    while len(made) < count:
        program = bytes(typed.program(calls))
        decoded = decoder.decode(program)
        normal = all(interface.calls[call.call].action in NORMAL_ACTIONS for call in decoded)
        if normal and not any(call.words[0] & _WORD in ends for call in decoded):
            made.append(program)
    return made
