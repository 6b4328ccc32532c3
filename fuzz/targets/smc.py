# SPDX-License-Identifier: BSD-2-Clause
"""SMCs through the capability, and the calls that copy, mint, move, send and take it away."""

from __future__ import annotations

from fuzz.targets import Target

_WEIGHTS = {
    "ARM_SMC_Call": 8.0, "CNode_Copy": 0.7, "CNode_Mint": 1.5, "CNode_Mutate": 0.1, "CNode_Move": 0.5,
    "CNode_Rotate": 0.1, "CNode_Delete": 0.5, "CNode_Revoke": 0.5,
    # Capabilities travel in messages, too.
    "NBSend": 0.7, "Send": 0.2, "Call": 0.2, "Recv": 0.4, "NBRecv": 0.3, "ReplyRecv": 0.2, "Reply": 0.2,
}  # fmt: skip


def weight(name: str) -> float:
    """How often a call is made; calls that have nothing to do with SMCs are not made at all."""
    return _WEIGHTS.get(name, 0.0)


TARGET = Target(
    "smc", "SMCs through the capability, and what happens to the capability", weight, exclusive=True, moves=("smc",)
)
