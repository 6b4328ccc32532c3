# SPDX-License-Identifier: BSD-2-Clause
"""Every call of the table: system calls, invocations and the SMC capability."""

from __future__ import annotations

from fuzz.targets import Target

# Yield, Load and the calls that can block change nothing by themselves, and a victim that waits for
# ever makes no more calls.
_RARE = {"Yield": 0.1, "Load": 0.4, "Send": 0.3, "Recv": 0.3, "NBSend": 0.5, "NBRecv": 0.5}
# Most objects come from Retype, and mappings are where the worlds meet.
_OFTEN = {
    "Untyped_Retype": 3.0,
    "ARM_Page_Map": 3.0,
    "ARM_Page_Remap": 1.5,
    "ARM_PageTable_Map": 1.5,
    "ARM_SMC_Call": 1.5,
}


def weight(name: str) -> float:
    """How often a call is made."""
    return _RARE.get(name, _OFTEN.get(name, 1.0))


TARGET = Target("invocations", "system calls and invocations of the kernel, SMCs included", weight)
