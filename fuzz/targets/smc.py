# SPDX-License-Identifier: BSD-2-Clause
"""SMCs through the capability, and the calls that copy, mint and delete it."""

from __future__ import annotations

from fuzz.targets import Target

_WEIGHTS = {"ARM_SMC_Call": 8.0, "CNode_Copy": 0.7, "CNode_Mint": 1.5, "CNode_Move": 0.5, "CNode_Delete": 0.5}


def weight(name: str) -> float:
    """How often a call is made; calls that have nothing to do with SMCs are not made at all."""
    return _WEIGHTS.get(name, 0.0)


TARGET = Target("smc", "SMCs through the capability, and what happens to the capability", weight, exclusive=True)
