# SPDX-License-Identifier: BSD-2-Clause
"""The monitor against two guests without a kernel: who gets which call, no register is shared, park and restore."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.build import registers
from harness.build.artefacts import Artefacts
from harness.build.registers import switched_registers
from harness.build.smc_functions import NOT_SUPPORTED, Caller, load_smc_functions
from harness.configs import Level, MachineConfig, load_config
from harness.protocol import Command, Dispatcher, NormalState, ParkStatus
from tests.system.bare import Operation
from tests.system.worlds import (
    OF_EL2,
    PASS_TURN,
    SHARED,
    TRUSTED_OS,
    Dump,
    NormalOperation,
    WorldsMachine,
    build_worlds,
    worlds_machine,
)

SMC = {function.name: function.id for function in load_smc_functions()}
DISTINCT = [0x1111_0000_0000_0000 + 0x0101_0101 * number for number in range(31)]
NOT_STORED_BY_QEMU = {"actlr_el1", "amair_el1", "afsr0_el1", "afsr1_el1"}
OF_AARCH32 = set("dacr32_el2 ifsr32_el2 fpexc32_el2 spsr_abt spsr_und spsr_irq spsr_fiq".split())
OF_EL3 = {"elr_el3", "spsr_el3", "sp_el1"}
"""What every dump shows without naming it: both guests go on behind their SMC, and find their stacks."""


def with_level(config: MachineConfig, level: Level, save_el2: bool) -> MachineConfig:
    assert config.normal_world is not None
    normal = config.normal_world.model_copy(update={"level": level, "save_el2": save_el2})
    return config.model_copy(update={"normal_world": normal})


@pytest.fixture(scope="module")
def two_worlds() -> MachineConfig:
    return load_config(TRUSTED_OS)


@pytest.fixture(scope="module", params=["el1", "el2", "el2-saved", "el1-max"])
def worlds(
    two_worlds: MachineConfig, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Artefacts:
    level, _, more = str(request.param).partition("-")
    config = with_level(two_worlds, Level(level), more == "saved")
    if more == "max":
        config = config.model_copy(update={"qemu": config.qemu.model_copy(update={"cpu": "max"})})
    return build_worlds(config, tmp_path_factory.mktemp("worlds"))


@pytest.fixture(scope="module")
def shared_machine(worlds: Artefacts) -> Iterator[WorldsMachine]:
    with worlds_machine(worlds) as machine:
        yield machine


@pytest.fixture
def machine(shared_machine: WorldsMachine) -> WorldsMachine:
    shared_machine.run(Operation.NOTHING)
    return shared_machine


def smc(machine: WorldsMachine, function: int, *arguments: int) -> list[int]:
    """An SMC of the normal world with distinct values in all other registers; checks that only x0-x3 change."""
    values = [function, *arguments, *DISTINCT[1 + len(arguments) :]]
    assert machine.turn(NormalOperation.SMC, values) == ParkStatus.DONE
    assert machine.normal_results[4:] == values[4:]
    return machine.normal_results


# -- who gets a call


def test_the_normal_world_waits_in_the_snapshot(machine: WorldsMachine) -> None:
    assert int(machine.report["scr_el3"]) & 1 == 0
    assert int(machine.account["state"]) == NormalState.CALLING
    assert int(machine.account["entries"]) == int(machine.account["smc_count"]) == 0


@pytest.mark.parametrize(
    "function",
    [
        0x8300_0000, 0xC300_0001, 0xB000_0000, 0xF100_0005, 0xB200_0009, 0xBF00_FF01, 0xFE00_0000, 0xBE01_0000,  # fast
        0x0200_0000, 0x0300_0002, 0x3200_0004, 0x1FFF_FFFF, 0x7FFF_FFFF,  # yielding
    ],
)  # fmt: skip
def test_calls_of_the_trusted_os_reach_it(machine: WorldsMachine, function: int) -> None:
    results = smc(machine, function)
    assert results[:4] == [0xA0, 0xA1, 0xA2, 0xA3]
    arguments = [function, *DISTINCT[1:7], DISTINCT[7] & 0xFFFF_FFFF]
    if not function >> 30 & 1:
        arguments = [argument & 0xFFFF_FFFF for argument in arguments]
    assert machine.requests == [arguments]
    entry = machine.account["smc_log"][0]
    assert [int(value) for value in entry["arguments"]] == [function, *DISTINCT[1:8]]
    assert [int(value) for value in entry["result"]] == results[:8]
    assert int(entry["call"]) == 7
    assert int(machine.report["smc_count"]) == 0, "neither these nor the dispatcher's own are SMCs of S-EL1"


@pytest.mark.parametrize(
    "function",
    [
        # Unknown, or of the other width
        0x8000_0002, 0xC000_0000, 0xC400_0000, 0xC400_0008, 0x8400_0005, 0x8200_0001, 0xC200_0002,
        0x8100_0000, 0x8500_0000, 0x8600_0000, 0x8700_0000, 0xAF00_0000,  # owners that nobody here is
        0x0000_0000, 0x0100_FFFF, 0x0101_0000, 0x01FF_FFFF,  # yielding, reserved
        *(int(call) for call in Dispatcher), 0xBE00_FFFF,  # the dispatcher's own
    ],
)  # fmt: skip
def test_all_others_are_not_supported(machine: WorldsMachine, function: int) -> None:
    assert smc(machine, function)[:4] == [NOT_SUPPORTED, *DISTINCT[1:4]]
    assert not machine.requests
    assert int(machine.account["entries"]) == 1
    assert int(machine.account["smc_log"][0]["result"][0]) == NOT_SUPPORTED


@pytest.mark.parametrize("function", [SMC["psci_version"], 0xB200_0009, 0x0300_0002, PASS_TURN])
def test_an_immediate_is_not_supported(machine: WorldsMachine, function: int) -> None:
    values = [function, *DISTINCT[1:]]
    assert machine.turn(NormalOperation.SMC_IMMEDIATE, values) == ParkStatus.DONE
    assert machine.normal_results == [NOT_SUPPORTED, *values[1:]]
    assert not machine.requests


def test_the_identifier_has_32_bits(machine: WorldsMachine) -> None:
    assert smc(machine, 0x1234_5678_0000_0000 | SMC["psci_version"])[0] == 0x10001
    assert smc(machine, 0x1234_5678_0000_0000 | 0xB200_0009)[0] == 0xA0
    assert machine.requests[0][0] == 0xB200_0009


@pytest.mark.parametrize("function", [Dispatcher.READY, Dispatcher.RESUME, Dispatcher.INTERRUPTED, 0xBE00_0003])
def test_the_dispatcher_may_not_speak_out_of_turn(machine: WorldsMachine, function: int) -> None:
    """In the snapshot the normal world waits for an answer: there is nothing to start, nothing to resume."""
    assert machine.run(Operation.SMC, [function, *DISTINCT[1:]]) == ParkStatus.DONE
    assert machine.results == [NOT_SUPPORTED, *DISTINCT[1:]]
    assert int(machine.report["smc_count"]) == 1
    assert int(machine.account["entries"]) == 0


def test_only_the_dispatcher_answers(machine: WorldsMachine) -> None:
    """Another address space finds that the interface does not exist: its SMC is an ordinary one."""
    assert machine.run(Operation.OTHER_SPACE, [Dispatcher.DONE, *DISTINCT[1:]]) == ParkStatus.DONE
    assert machine.results[0] == NOT_SUPPORTED
    assert int(machine.account["entries"]) == 0
    assert int(machine.report["smc_log"][0]["arguments"][0]) == Dispatcher.DONE


def test_functions_of_one_world_do_not_exist_in_the_other(machine: WorldsMachine) -> None:
    for function in load_smc_functions():
        if Caller.SECURE not in function.callers:
            assert machine.run(Operation.SMC, [function.id, 0, 0x4040_0000]) == ParkStatus.DONE
            assert machine.results[0] == NOT_SUPPORTED
            assert machine.run(Operation.SMC, [SMC["psci_features"], function.id]) == ParkStatus.DONE
            assert machine.results[0] == NOT_SUPPORTED


# -- registers


def not_kept(machine: WorldsMachine) -> set[str]:
    """Registers that a world finds changed when it gets the CPU back."""
    assert machine.turn(NormalOperation.REGISTERS) == ParkStatus.DONE
    changed = set()
    for before, after in (
        (Dump.SECURE_BEFORE, Dump.SECURE_CALLED),
        (Dump.SECURE_BEFORE, Dump.SECURE_AFTER),
        (Dump.NORMAL_BEFORE, Dump.NORMAL_AFTER),
    ):
        # What a call passes, and what it returns
        passed = {f"x{number}" for number in range(8 if before is Dump.SECURE_BEFORE else 4)} | {"nothing"}
        first, second = machine.dump(before), machine.dump(after)
        changed |= {name for name in set(first) - passed if first[name] != second[name]}
    return changed


def test_no_register_is_shared(machine: WorldsMachine) -> None:
    """Each world finds every register as it left it, and each held something else while the other one ran."""
    assert not not_kept(machine)
    secure, normal = machine.dump(Dump.SECURE_BEFORE), machine.dump(Dump.NORMAL_BEFORE)
    equal = {name for name in set(secure) & set(normal) - {"nothing"} if secure[name] == normal[name]}
    assert not equal, "a register that both worlds hold alike shows nothing"
    assert [machine.dump(Dump.NORMAL_AFTER)[f"x{number}"] for number in range(3)] == [0xA0, 0xA1, 0xA2]


def test_every_register_of_the_list_is_tried(worlds: Artefacts) -> None:
    config = worlds.config
    assert config.normal_world is not None
    tried = set(SHARED) | OF_EL3 | NOT_STORED_BY_QEMU
    # At EL1 nothing can write what only AArch32 uses: EL2 could.
    tried |= set(OF_EL2) | {"actlr_el2", "amair_el2", "afsr0_el2", "afsr1_el2", "hacr_el2", "sp_el2"} | OF_AARCH32
    tried |= set(registers.OF_MAX)
    assert set(switched_registers(config)) <= tried
    saved = config.normal_world.save_el2
    assert set(switched_registers(config)) >= set(SHARED) | OF_EL3 | (set(OF_EL2) if saved else OF_AARCH32)


def test_registers_that_are_not_switched_are_noticed(
    two_worlds: MachineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    omitted = {"tpidr_el0", "far_el1", "sp_el0", "mair_el1", "csselr_el1", "contextidr_el1", "fpcr"}
    left = [name for name in switched_registers(two_worlds) if name not in omitted]
    monkeypatch.setattr(registers, "switched_registers", lambda config: left)
    with worlds_machine(build_worlds(two_worlds, tmp_path)) as machine:
        assert not_kept(machine) == omitted


def test_the_bank_of_el2_is_switched(machine: WorldsMachine) -> None:
    """Where the config asks for it: the secure world's bank holds EL2 as it was before the normal world."""
    normal = machine.config.normal_world
    assert normal is not None
    if not normal.save_el2:
        assert not set(OF_EL2) - OF_AARCH32 - {"sp_el1"} & set(switched_registers(machine.config))
        return
    machine.turn(NormalOperation.REGISTERS)
    found = machine.dump(Dump.NORMAL_AFTER)
    for name in set(OF_EL2) - {"sp_el1"}:
        assert machine.bank(name, "normal_world") == found[name], name
        assert machine.bank(name, "secure_world") != found[name], name


def test_what_later_versions_brought_is_switched(machine: WorldsMachine) -> None:
    """Keys of pointer authentication and context numbers, which the secure world cannot read itself."""
    machine.turn(NormalOperation.REGISTERS)
    found = machine.dump(Dump.NORMAL_AFTER)
    there = [(name, code) for name, code in registers.OF_MAX.items() if code in found]
    assert bool(there) == registers.is_max(machine.config)
    for name, code in there:
        assert machine.bank(name, "normal_world") == found[code] != machine.bank(name, "secure_world"), name


# -- memory


@pytest.mark.parametrize("operation", [NormalOperation.LOAD, NormalOperation.STORE])
@pytest.mark.parametrize("region", ["secure-ram", "el3-ram", "flash", "uart1", "secure-gpio"])
def test_secure_memory_faults_in_the_normal_world(
    machine: WorldsMachine, region: str, operation: NormalOperation
) -> None:
    place = machine.config.region(region)
    address = place.base + (0x100000 if place.size > 0x100000 else 0)
    before = machine.memory.read(address, 8) if "ram" in region else b""
    assert machine.turn(operation, [DISTINCT[0], address, *DISTINCT[2:]]) == ParkStatus.DONE
    failed, syndrome, fault = machine.normal_results[:3]
    assert failed == NOT_SUPPORTED
    assert (syndrome >> 26, syndrome & 0x3F) == (0x25, 0x10), "a synchronous external abort of this level"
    assert fault == address
    if before:
        assert machine.memory.read(address, 8) == before


def test_its_own_memory_does_not(machine: WorldsMachine) -> None:
    assert machine.config.normal_world is not None
    address = machine.config.normal_world.shared.base
    machine.turn(NormalOperation.STORE, [DISTINCT[5], address])
    machine.turn(NormalOperation.LOAD, [0, address])
    assert machine.normal_results[0] == DISTINCT[5]
    machine.memory.write(address, bytes(8))


# -- park and restore


def test_the_normal_world_ends_a_program_with_the_nonce(machine: WorldsMachine) -> None:
    assert machine.turn(NormalOperation.WAIT) == ParkStatus.DONE
    assert int(machine.report["scr_el3"]) & 1
    assert machine.config.normal_world is not None
    level = {Level.EL1: 1, Level.EL2: 2}[machine.config.normal_world.level]
    assert int(machine.report["spsr_el3"]) >> 2 & 3 == level
    assert machine.turn(NormalOperation.FORGE) == ParkStatus.FORGED
    assert int(machine.report["scr_el3"]) & 1


def test_it_goes_on_behind_its_park(machine: WorldsMachine) -> None:
    assert machine.turn(NormalOperation.WAIT) == ParkStatus.DONE
    assert machine.send(Command(0)) == ParkStatus.DONE
    assert not int(machine.report["scr_el3"]) & 1, "it passed its turn"


@pytest.mark.parametrize("last", [NormalOperation.WAIT, NormalOperation.FORGE, NormalOperation.REGISTERS])
def test_both_worlds_come_back_to_the_snapshot(machine: WorldsMachine, last: NormalOperation) -> None:
    """Whichever world parked, and whatever it had changed."""

    def seen() -> tuple[object, ...]:
        machine.turn(NormalOperation.REGISTERS)
        account = machine.account
        account = (int(account["entries"]), int(account["smc_count"]), account["smc_log"].tobytes())
        return tuple(tuple(machine.dump(dump).items()) for dump in Dump), machine.requests, account

    expected = seen()
    for _ in range(3):
        machine.turn(last)
        assert seen() == expected


def test_the_log_of_the_normal_world_is_bounded(machine: WorldsMachine) -> None:
    values = [SMC["echo"], 1, 2, 3, *[0] * 15, 100]
    assert machine.turn(NormalOperation.CALLS, values) == ParkStatus.DONE
    account = machine.account
    assert int(account["smc_count"]) == 101  # and the one that passes the turn
    assert {int(entry["arguments"][0]) for entry in account["smc_log"]} == {SMC["echo"]}
    machine.run(Operation.NOTHING)
    assert not machine.account["smc_log"].view(np.uint8).any()
