# SPDX-License-Identifier: BSD-2-Clause
"""SMCs from the normal world, its messages to the Trusted OS, and what victims do in between."""

from __future__ import annotations

from fuzz.targets import Target

_WEIGHTS = {
    "NormalSMC": 6.0, "NormalMessage": 3.0, "NormalParameter": 1.0, "NormalWrite": 0.7, "NormalLoad": 0.6,
    "NormalStore": 0.6, "NormalRegister": 0.5, "NormalInterrupt": 0.8, "NormalChange": 0.4,
    # The secure world beside it
    "ARM_SMC_Call": 0.3, "Untyped_Retype": 0.1, "ARM_Page_Map": 0.1, "ARM_Page_Unmap": 0.1, "Load": 0.1, "Store": 0.1,
    "NBSend": 0.1, "NBRecv": 0.1, "FloatingPoint": 0.2, "Interrupt": 0.2, "Yield": 0.1,
}  # fmt: skip


def weight(name: str) -> float:
    """How often a call is made."""
    return _WEIGHTS.get(name, 0.0)


TARGET = Target(
    "normal-world-smc",
    "SMCs and messages from the normal world, beside calls of the secure one",
    weight,
    exclusive=True,
    config="trusted-os",
    main="NormalSMC",
)
