# SPDX-License-Identifier: BSD-2-Clause
"""What EL3 itself answers the normal world: architecture calls, PSCI on one CPU, the echo.

By the SMC Calling Convention (Arm DEN 0028) and PSCI (Arm DEN 0022): a call that does not exist is answered -1 in x0
and leaves all other registers.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.build.smc_functions import (
    CALL_64,
    FAST_CALL,
    NOT_SUPPORTED,
    OWNER_MASK,
    OWNER_SHIFT,
    Caller,
    SmcFunction,
    load_smc_functions,
)
from harness.configs import Kind, MachineConfig, World
from harness.protocol import Dispatcher
from harness.specification.answers import NotCoveredError
from harness.specification.normal_world.memory import MASK, MASK_32

Registers = tuple[int, ...]
"""x0-x3 after a call."""

SUCCESS = 0
INVALID_PARAMETERS, DENIED, ALREADY_ON, INVALID_ADDRESS = ((1 << 64) - n for n in (2, 3, 4, 9))
VERSION_1_1 = 0x10001
"""Of the SMC calling convention, and of PSCI."""
ONE_CPU_CANNOT_MOVE = 1
_POWER_DOWN = 1 << 16
_OEM, _TRUSTED_APPLICATIONS = 3, 48
_FIRST_YIELDING = 1 << 25


class Monitor:
    """EL3's part of a machine's normal-world calls."""

    def __init__(self, config: MachineConfig) -> None:
        self._ram = [
            (region.base, region.end)
            for region in config.regions
            if region.kind is Kind.RAM and region.world is World.NON_SECURE and region.name == "normal-ram"
        ]
        known = [function for function in load_smc_functions() if Caller.NORMAL in function.callers]
        self._functions: dict[int, SmcFunction] = {function.id: function for function in known}
        self._found = {
            name: frozenset(function.id for function in known if name in function.found_by)
            for name in ("smccc_arch_features", "psci_features")
        }

    def is_dispatched(self, function: int) -> bool:
        """Whether a call goes on to the Trusted OS, by its function identifier."""
        if not function & FAST_CALL:
            return function >= _FIRST_YIELDING
        owner = function >> OWNER_SHIFT & OWNER_MASK
        if owner >= _TRUSTED_APPLICATIONS:
            return function >> 16 != Dispatcher.READY >> 16
        return owner == _OEM

    def name(self, function: int) -> str:
        """What a function of EL3 is called; empty for one that does not exist."""
        return self._functions[function].name if function in self._functions else ""

    def answer(self, x: Sequence[int]) -> Registers:
        """x0-x3 after a call with these x0-x7 that is not dispatched; NotCoveredError for one that does not return."""
        function = self._functions.get(x[0] & MASK_32)
        result = NOT_SUPPORTED if function is None else self._result(function, x)
        return (result, *x[1:4])

    def _result(self, function: SmcFunction, x: Sequence[int]) -> int:
        name = function.name.removesuffix("_64")
        mask = MASK if function.id & CALL_64 else MASK_32
        if name in self._found:
            return SUCCESS if x[1] & MASK_32 in self._found[name] else NOT_SUPPORTED
        if name == "cpu_suspend":
            return self._suspend(x[1] & MASK_32, x[2] & mask)
        if name == "cpu_on":
            if x[1] & mask:
                return INVALID_PARAMETERS
            return ALREADY_ON if self._is_entry(x[2] & mask) else INVALID_ADDRESS
        if name == "affinity_info":
            return INVALID_PARAMETERS if x[1] & mask or x[2] & MASK_32 else SUCCESS
        plain = {
            "smccc_version": VERSION_1_1, "psci_version": VERSION_1_1, "echo": SUCCESS, "cpu_off": DENIED,
            "migrate_info_type": ONE_CPU_CANNOT_MOVE, "migrate_info_up_cpu": 0,
        }  # fmt: skip
        if name not in plain:
            raise NotCoveredError(f"{name} does not return")
        return plain[name]

    def _suspend(self, state: int, entry: int) -> int:
        if state & ~_POWER_DOWN:
            return INVALID_PARAMETERS
        return SUCCESS if not state or self._is_entry(entry) else INVALID_ADDRESS

    def _is_entry(self, address: int) -> bool:
        """Whether a CPU may begin there: an instruction in RAM of the caller's world."""
        return not address & 3 and any(base <= address < end for base, end in self._ram)
