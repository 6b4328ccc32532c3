# SPDX-License-Identifier: BSD-2-Clause
"""Power management and the functions of EL3 itself, as the normal world finds them on a machine with one CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.build.artefacts import Artefacts
from harness.build.smc_functions import NOT_SUPPORTED, Caller, load_smc_functions
from harness.configs import load_config
from harness.protocol import Command, ParkStatus
from tests.system.worlds import TRUSTED_OS, NormalOperation, WorldsMachine, build_worlds, worlds_machine

FUNCTIONS = {function.name: function for function in load_smc_functions()}
SMC = {name: function.id for name, function in FUNCTIONS.items()}
SUCCESS, INVALID_PARAMETERS, DENIED, ALREADY_ON, INVALID_ADDRESS = 0, -2, -3, -4, -9
ENTRY = 0x4040_0000
POWER_DOWN = 1 << 16
DIRTY = 0xDEAD_BEEF << 32
"""In the upper half of a register, which a function of 32 bits does not see."""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Artefacts:
    return build_worlds(load_config(TRUSTED_OS), tmp_path_factory.mktemp("worlds"))


@pytest.fixture(scope="module")
def machine(worlds: Artefacts) -> Iterator[WorldsMachine]:
    with worlds_machine(worlds) as machine:
        yield machine


def call(machine: WorldsMachine, function: int, *arguments: int) -> int:
    """What x0 says, with its sign; all other registers stay."""
    values = [function, *arguments, *(0x5000 + number for number in range(1 + len(arguments), 31))]
    assert machine.turn(NormalOperation.SMC, values) == ParkStatus.DONE
    assert machine.normal_results[1:] == values[1:]
    assert not machine.requests
    result = machine.normal_results[0]
    return result - (1 << 64) if result >> 63 else result


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("psci_version", (), 0x10001),
        ("smccc_version", (), 0x10001),
        ("echo", (1, 2, 3), SUCCESS),
        ("cpu_suspend", (0, 0, 0), SUCCESS),
        ("cpu_suspend", (0, 0x0E00_0000, 0), SUCCESS),  # a standby has no entry
        ("cpu_suspend", (POWER_DOWN, ENTRY, 1), SUCCESS),
        ("cpu_suspend", (DIRTY | POWER_DOWN, DIRTY | ENTRY, 1), SUCCESS),
        ("cpu_suspend", (POWER_DOWN, 0x0E00_0000, 1), INVALID_ADDRESS),
        ("cpu_suspend", (1, ENTRY, 1), INVALID_PARAMETERS),
        ("cpu_suspend", (POWER_DOWN | 1 << 24, ENTRY, 1), INVALID_PARAMETERS),
        ("cpu_suspend_64", (POWER_DOWN, ENTRY, 1), SUCCESS),
        ("cpu_suspend_64", (POWER_DOWN, DIRTY | ENTRY, 1), INVALID_ADDRESS),
        ("cpu_off", (), DENIED),
        ("cpu_on", (0, ENTRY, 5), ALREADY_ON),
        ("cpu_on", (DIRTY, DIRTY | ENTRY, 5), ALREADY_ON),
        ("cpu_on", (1, ENTRY, 5), INVALID_PARAMETERS),
        ("cpu_on", (1 << 31, ENTRY, 5), INVALID_PARAMETERS),
        ("cpu_on", (0, 0x0E00_0000, 5), INVALID_ADDRESS),
        ("cpu_on", (0, 0x0EE0_0000, 5), INVALID_ADDRESS),
        ("cpu_on", (0, 0, 5), INVALID_ADDRESS),
        ("cpu_on", (0, 0x0800_0000, 5), INVALID_ADDRESS),
        ("cpu_on", (0, ENTRY + 2, 5), INVALID_ADDRESS),
        ("cpu_on", (0, 0x401F_FFFC, 5), INVALID_ADDRESS),
        ("cpu_on", (0, 0x4020_0000, 5), ALREADY_ON),
        ("cpu_on", (0, 0xBFFF_FFFC, 5), ALREADY_ON),
        ("cpu_on", (0, 0xC000_0000, 5), INVALID_ADDRESS),
        ("cpu_on_64", (0, ENTRY, 5), ALREADY_ON),
        ("cpu_on_64", (1 << 32, ENTRY, 5), INVALID_PARAMETERS),
        ("cpu_on_64", (0, DIRTY | ENTRY, 5), INVALID_ADDRESS),
        ("cpu_on_64", (0, (1 << 64) - 4, 5), INVALID_ADDRESS),
        ("affinity_info", (0, 0), 0),
        ("affinity_info", (DIRTY, DIRTY), 0),
        ("affinity_info", (1, 0), INVALID_PARAMETERS),
        ("affinity_info", (0, 1), INVALID_PARAMETERS),
        ("affinity_info_64", (1 << 32, 0), INVALID_PARAMETERS),
        ("affinity_info_64", (0, 0), 0),
        ("migrate_info_type", (), 1),
        ("migrate_info_up_cpu", (), 0),
        ("migrate_info_up_cpu_64", (), 0),
    ],
)
def test_results(machine: WorldsMachine, name: str, arguments: tuple[int, ...], result: int) -> None:
    assert call(machine, SMC[name], *arguments) == result


def test_features_names_what_is_there(machine: WorldsMachine) -> None:
    for features in ("psci_features", "smccc_arch_features"):
        for function in FUNCTIONS.values():
            there = features in function.found_by and Caller.NORMAL in function.callers
            assert call(machine, SMC[features], function.id) == (0 if there else -1), function.name
        for unknown in (0x8400_0005, 0xC400_0000, 0x8400_0014, 0xB200_0009):
            assert call(machine, SMC[features], unknown) == -1


@pytest.mark.parametrize(
    "name", sorted(n for n, f in FUNCTIONS.items() if f.width == 32 and f"{n}_64" not in FUNCTIONS)
)
def test_the_other_width_does_not_exist(machine: WorldsMachine, name: str) -> None:
    assert call(machine, SMC[name] | 1 << 30) == NOT_SUPPORTED - (1 << 64)


@pytest.mark.parametrize(
    ("name", "status"), [("system_off", ParkStatus.SYSTEM_OFF), ("system_reset", ParkStatus.SYSTEM_RESET)]
)
def test_a_program_cannot_end_the_machine(machine: WorldsMachine, name: str, status: ParkStatus) -> None:
    assert machine.turn(NormalOperation.SMC, [SMC[name]]) == status
    assert int(machine.report["scr_el3"]) & 1
    assert machine.send(Command(0)) == status, "a program that ended can only be restored"
    assert call(machine, SMC["psci_version"]) == 0x10001
