# SPDX-License-Identifier: BSD-2-Clause
"""Every call of the table: system calls, invocations and the SMC capability."""

from __future__ import annotations

from fuzz.targets import Target

# Yield, Load and the calls that can block change nothing by themselves, and a victim that waits for
# ever makes no more calls; cleaning caches changes nothing on this machine.
_RARE = {
    "Yield": 0.1, "Load": 0.3, "Send": 0.4, "Recv": 0.4, "NBSend": 0.5, "NBRecv": 0.5, "Call": 0.3, "ReplyRecv": 0.3,
    "Reply": 0.5, "DebugPutChar": 0.1, "DebugCapIdentify": 0.1, "Jump": 0.1, "UndefinedInstruction": 0.1,
    "UnknownSystemCall": 0.1, "Store": 0.5, "FloatingPoint": 0.3,
}  # fmt: skip
_CACHES = ("Clean_Data", "Invalidate_Data", "CleanInvalidate_Data", "Unify_Instruction")
# Most objects come from Retype, and mappings are where the worlds meet.
_OFTEN = {
    "Untyped_Retype": 4.0,
    "ARM_Page_Map": 4.0,
    "ARM_Page_Remap": 2.0,
    "ARM_PageTable_Map": 2.0,
    "ARM_SMC_Call": 2.0,
    "CNode_Copy": 1.5,
    "CNode_Mint": 1.5,
    "CNode_Delete": 1.5,
    "CNode_Revoke": 1.5,
}


def weight(name: str) -> float:
    """How often a call is made."""
    if name.endswith(_CACHES):
        return 0.2
    return _RARE.get(name, _OFTEN.get(name, 1.0))


TARGET = Target("invocations", "system calls and invocations of the kernel, SMCs included", weight)
