# SPDX-License-Identifier: BSD-2-Clause
"""The firmware against a guest that is no kernel: SMCs, timer, park, restore, panics, programs in flash."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness import protocol
from harness.build.artefacts import Artefacts
from harness.build.firmware import build_firmware
from harness.build.flash import build_flash
from harness.build.registers import BANK, bank_register
from harness.build.smc_functions import NOT_SUPPORTED, load_smc_functions
from harness.configs import MachineConfig
from harness.kernel_state.elf import Elf
from harness.machine.qemu import Qemu, Shared
from harness.protocol import Command, ParkStatus
from tests.system.bare import (
    FULL,
    NONCE,
    VIRTUAL,
    BareMachine,
    Operation,
    bare_machine,
    build_bare,
    build_guest,
    guest_artefacts,
    plain_console,
    program_bytes,
    with_flash,
)

SMC = {function.name: function.id for function in load_smc_functions()}
DISTINCT = [0x1111_0000_0000_0000 + 0x0101_0101 * number for number in range(31)]
# Changed by the guest, each to a value of its own; ACTLR, AMAIR and AFSR are not stored by QEMU, and
# what only AArch32 uses cannot be written from AArch64 at EL1, nor can SCR_EL3.
UNCHANGED = set("actlr_el1 amair_el1 afsr0_el1 afsr1_el1 dacr32_el2 ifsr32_el2 fpexc32_el2".split()) | set(
    "spsr_abt spsr_und spsr_irq spsr_fiq scr_el3".split()
)


@pytest.fixture(scope="module")
def bare(config: MachineConfig, tmp_path_factory: pytest.TempPathFactory) -> Artefacts:
    return build_bare(config, tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def shared_machine(bare: Artefacts) -> Iterator[BareMachine]:
    with bare_machine(bare) as machine:
        yield machine


@pytest.fixture
def machine(shared_machine: BareMachine) -> BareMachine:
    shared_machine.run(Operation.NOTHING)
    return shared_machine


def smc(machine: BareMachine, function: int, *arguments: int, operation: Operation = Operation.SMC) -> list[int]:
    """Make an SMC with distinct values in all other registers; checks that only its results change."""
    values = [function, *arguments, *DISTINCT[1 + len(arguments) :]]
    assert machine.run(operation, values) == ParkStatus.DONE
    first = 8 if function == SMC["rotate"] else 4
    assert machine.results[first:] == values[first:]
    return machine.results


# -- boot


def test_boot_contract(bare: Artefacts, config: MachineConfig) -> None:
    with bare_machine(bare) as machine:
        assert machine.status == ParkStatus.SNAPSHOT
        assert machine.qemu.secure_console.text() == "bothworlds EL3\n"
        elf, root_task = Elf(bare.kernel_elf), Elf(bare.root_task_elf)
        words = np.frombuffer(machine.memory.read(elf.physical(elf.symbol("arguments").address), 48), "<u8")
        start, end, offset, entry, sctlr, counter_access = (int(word) for word in words)
        image_end = elf.segments[-1].physical + elf.segments[-1].memory_bytes
        assert start == (image_end + protocol.PAGE - 1) & -protocol.PAGE
        assert end - start == protocol.PAGE
        assert (entry, counter_access) == (root_task.entry, 0)
        assert (root_task.entry + offset) & (1 << 64) - 1 == start + root_task.entry % protocol.PAGE
        assert b"root task" in machine.memory.read(start, end - start)
        assert sctlr & 1, "the kernel must start with its MMU on"
        # The boot tables map the kernel's image and nothing else.
        tables = np.frombuffer(machine.memory.read(config.secure_ram.end - 4 * protocol.PAGE, 4 * protocol.PAGE), "<u8")
        tables = tables.reshape(4, 512)
        assert [np.count_nonzero(table) for table in tables] == [1, 1, 1, 0]
        assert int(tables[2][(VIRTUAL >> 21) & 511]) & 0xFFFF_FFE0_0000 == config.secure_ram.base
        report = machine.report
        assert int(report["scr_el3"]) == 0x1430  # RES1, RW, TWI; not NS, IRQ, FIQ, EA, SIF, ST
        assert int(report["elr_el3"]) == elf.physical(elf.symbol("user").address)


# -- SMCs


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("smccc_version", (), 0x10001),
        ("psci_version", (), 0x10001),
        ("smccc_arch_features", (SMC["smccc_version"],), 0),
        ("smccc_arch_features", (SMC["smccc_arch_features"],), 0),
        ("smccc_arch_features", (SMC["echo"],), NOT_SUPPORTED),
        ("smccc_arch_features", (SMC["psci_version"],), NOT_SUPPORTED),
        ("psci_features", (SMC["system_off"],), 0),
        ("psci_features", (SMC["system_reset"],), 0),
        ("psci_features", (SMC["psci_features"],), 0),
        ("psci_features", (SMC["smccc_version"],), 0),
        ("psci_features", (SMC["smccc_arch_features"],), NOT_SUPPORTED),
        ("psci_features", (0xFFFF_FFFF_8400_0000,), 0),  # the argument has 32 bits
        ("echo", (1, 2, 3), 0),
    ],
)
def test_smc_functions(machine: BareMachine, name: str, arguments: tuple[int, ...], result: int) -> None:
    results = smc(machine, SMC[name], *arguments)
    expected = [*arguments, *DISTINCT[1 + len(arguments) : 8]]
    assert results[:8] == [result, *expected]


def test_rotate_changes_all_that_can_be_a_result(machine: BareMachine) -> None:
    """Each result is what its name in the description says."""
    arguments = [0x1000 * number for number in range(1, 8)]
    results = smc(machine, SMC["rotate"], *arguments)
    assert results[:8] == [0, 0x2001, 0x3002, 0x4003, 0x5004, 0x6005, 0x7006, 0x1007]
    (rotate,) = (function for function in load_smc_functions() if function.name == "rotate")
    places = {argument.name: number for number, argument in enumerate(rotate.arguments, 1)}
    named = [name.split("_plus_") for name in rotate.returns]
    assert results[1:8] == [0x1000 * places[argument] + int(added) for argument, added in named]
    assert [int(value) for value in machine.report["smc_log"][0]["result"]] == results[:8]


def test_the_function_identifier_has_32_bits(machine: BareMachine) -> None:
    assert smc(machine, 0x1234_5678_0000_0000 | SMC["psci_version"])[0] == 0x10001


@pytest.mark.parametrize("function", [0, 0x8000_0002, 0x8400_0002, 0xC400_0000, 0x0400_0000, 0xC200_0003, 0xFFFF_FFFF])
def test_other_functions_are_not_supported(machine: BareMachine, function: int) -> None:
    assert smc(machine, function)[:4] == [NOT_SUPPORTED, *DISTINCT[1:4]]


def test_an_immediate_is_not_supported(machine: BareMachine) -> None:
    assert smc(machine, SMC["psci_version"], operation=Operation.SMC_IMMEDIATE)[0] == NOT_SUPPORTED


def test_smcs_are_logged(machine: BareMachine) -> None:
    smc(machine, SMC["echo"], 1, 2, 3)
    report = machine.report
    assert int(report["smc_count"]) == 1
    entry = report["smc_log"][0]
    assert [int(value) for value in entry["arguments"]] == [SMC["echo"], 1, 2, 3, *DISTINCT[4:8]]
    assert [int(value) for value in entry["result"]] == [0, 1, 2, 3, *DISTINCT[4:8]]
    assert int(entry["call"]) == 7
    assert int(entry["elr_el3"]) >= VIRTUAL
    machine.run(Operation.NOTHING)
    assert int(machine.report["smc_count"]) == 0
    assert not machine.report["smc_log"].view(np.uint8).any(), "the log is cleared by a restore"


def test_the_log_counts_what_it_cannot_hold(machine: BareMachine) -> None:
    calls = protocol.SMC_LOG_ENTRIES + 6
    values = [SMC["echo"], 1, 2, 3]
    machine.run(Operation.SMC, values)
    for _ in range(calls - 1):
        machine.run(Operation.SMC, values, command=Command(0))
    assert int(machine.report["smc_count"]) == calls
    assert [int(e["arguments"][3]) for e in machine.report["smc_log"]] == [3] * protocol.SMC_LOG_ENTRIES
    address = machine.firmware.symbol("message").address
    assert int.from_bytes(machine.memory.read(address, 8), "little") == machine.sequence


@pytest.mark.parametrize(
    ("name", "status"), [("system_off", ParkStatus.SYSTEM_OFF), ("system_reset", ParkStatus.SYSTEM_RESET)]
)
def test_a_program_cannot_end_the_machine(machine: BareMachine, name: str, status: ParkStatus) -> None:
    values = [SMC[name], *DISTINCT[1:]]
    assert machine.run(Operation.SMC, values) == status
    assert [int(value) for value in machine.report["x"]] == values
    assert machine.send(Command(0)) == status, "a program that ended can only be restored"
    assert machine.run(Operation.NOTHING) == ParkStatus.DONE


@pytest.mark.parametrize("name", ["system_off", "system_reset"])
def test_before_the_snapshot_the_machine_ends(config: MachineConfig, tmp_path: Path, name: str) -> None:
    guest, firmware = build_guest(config, tmp_path, SMC[name]), build_firmware(config)
    artefacts = guest_artefacts(config, guest, build_flash(config, guest, guest, firmware), firmware)
    shared = Shared.create(artefacts)
    with Qemu(artefacts, shared) as qemu:
        qemu.launch()
        qemu.qmp("cont")
        deadline = time.monotonic() + 10
        greetings = 0
        while qemu.running and greetings < 3 and time.monotonic() < deadline:
            greetings = qemu.secure_console.text().count("bothworlds EL3")
            time.sleep(0.01)
        if name == "system_off":
            qemu_ended = not qemu.running
            assert qemu_ended and greetings <= 1
            assert qemu.exit_code == 0
        else:
            assert qemu.running and greetings >= 3
    shared.close()


# -- timer


def test_the_timer_is_emulated(machine: BareMachine) -> None:
    values = list(DISTINCT)
    values[0], values[1], values[30], values[16] = 0xFFFF_FFFF, 0x1234_5678_9ABC, 0xAAAA_0000_8000_0001, 0x77
    assert machine.run(Operation.TIMER, values) == ParkStatus.DONE
    expected = list(values)
    expected[10] = 3  # control: ENABLE and IMASK exist, it never fires
    expected[11], expected[12] = values[1], values[1] & 0xFFFF_FFFF
    expected[13], expected[8] = 0xFFFF_FFFF_8000_0001, 0x8000_0001  # 32 bits with a sign, relative to 0
    expected[9] = 0
    assert machine.results == expected
    assert (int(machine.report["timer_control"]), int(machine.report["timer_value"])) == (3, 0x77)
    machine.run(Operation.NOTHING)
    assert (int(machine.report["timer_control"]), int(machine.report["timer_value"])) == (0, 0)


# -- park


def test_only_the_nonce_ends_a_program(machine: BareMachine) -> None:
    assert machine.run(Operation.FORGE) == ParkStatus.FORGED
    assert int(machine.report["nonce"]) == 0
    assert machine.run(Operation.NOTHING, nonce=NONCE + 1) == ParkStatus.FORGED
    assert machine.run(Operation.NOTHING) == ParkStatus.DONE
    assert int(machine.report["nonce"]) == NONCE


def test_waiting_at_el1_is_told_apart(machine: BareMachine) -> None:
    assert machine.run(Operation.WAIT, DISTINCT) == ParkStatus.WAIT_EL1
    report = machine.report
    assert [int(value) for value in report["x"]] == DISTINCT
    assert int(report["elr_el3"]) >= VIRTUAL
    assert int(report["spsr_el3"]) & 0xF == 5
    assert machine.run(Operation.NOTHING) == ParkStatus.DONE


def test_a_finished_program_can_go_on(machine: BareMachine) -> None:
    parks = int(machine.report["parks"])
    assert machine.run(Operation.SMC, [SMC["psci_version"]], command=Command(0)) == ParkStatus.DONE
    assert machine.results[0] == 0x10001
    assert int(machine.report["parks"]) == parks + 1
    assert int(machine.report["sequence"]) == machine.sequence


# -- restore


def current_registers(machine: BareMachine) -> dict[str, int]:
    """All registers as the last program left them (the firmware keeps them where a register is left out)."""
    machine.run(Operation.NOTHING, omit_register=len(BANK) + 1)
    return {register.name: machine.bank(register.name, "current_bank") for register in BANK}


def test_every_register_comes_back(machine: BareMachine) -> None:
    snapshot = {register.name: machine.bank(register.name) for register in BANK}
    assert snapshot["x0"] == 0
    machine.run(Operation.CHANGE_REGISTERS)
    changed = current_registers(machine)
    same = {name for name in snapshot if changed[name] == snapshot[name]}
    assert same == UNCHANGED
    machine.run(Operation.NOTHING)
    restored = current_registers(machine)
    # The guest's own few instructions between waking and waiting change x0-x2 and the place.
    own = {"x0", "x1", "x2", "elr_el3"}
    assert {name for name in snapshot if restored[name] != snapshot[name]} <= own
    machine.run(Operation.NOTHING)
    assert current_registers(machine) == restored


@pytest.mark.parametrize("name", ["tpidr_el0", "mair_el1", "cntps_cval_el1", "x25", "q0", "q31", "fpcr"])
def test_a_register_that_is_left_out_stays_changed(machine: BareMachine, name: str) -> None:
    machine.run(Operation.CHANGE_REGISTERS)
    machine.run(Operation.NOTHING, omit_register=1 + bank_register(name).index)
    found = {n: v for n, v in current_registers(machine).items() if n not in ("x0", "x1", "x2", "elr_el3")}
    assert {n for n, value in found.items() if value != machine.bank(n)} == {name}


def test_interrupts_come_back_when_asked(machine: BareMachine) -> None:
    def interrupts(command: Command = FULL) -> list[int]:
        assert machine.run(Operation.READ_INTERRUPTS, command=command) == ParkStatus.DONE
        data = machine.memory.read(machine.config.exchange.base + protocol.EXCHANGE_RESULTS, 40)
        return [int(value) for value in np.frombuffer(data, "<u4")]

    before = interrupts()
    # Group, enabled, pending, active, priority, target, configuration, software, mask, binary point
    words = [0x0F00, 0x100, 0x100, 0x100, 0x50, 1, 0x20000, 0x01000000, 0x70, 5]
    packed = [low | high << 32 for low, high in zip(words[::2], words[1::2], strict=True)]
    machine.run(Operation.CHANGE_INTERRUPTS, packed)
    changed = interrupts()
    # The target of an interrupt cannot be chosen with one CPU.
    assert [i for i, (old, new) in enumerate(zip(before, changed, strict=True)) if old == new] == [5]
    assert interrupts() == changed, "they stay unless the message asks for them"
    assert interrupts(FULL | Command.RESTORE_INTERRUPTS) == before


# -- panics


def test_panic_while_booting(bare: Artefacts, tmp_path: Path, config: MachineConfig) -> None:
    nowhere = 0x0B00_0000
    assert config.region_at(nowhere) is None
    fields = protocol.FLASH_HEADER.fields
    assert fields is not None
    offset = protocol.FLASH_HEADER_OFFSET + int(fields["kernel"][1]) + 8
    broken = with_flash(bare, {offset: nowhere.to_bytes(8, "little")}, tmp_path / "flash.bin")
    console = plain_console(broken, "panic.*\n")
    line = re.search(r"bothworlds EL3 panic: ESR 0x(\w{16}) ELR 0x(\w{16}) FAR 0x(\w{16})", console)
    assert line
    syndrome, place, address = (int(value, 16) for value in line.groups())
    assert (syndrome >> 26, address) == (0x25, nowhere)  # data abort without a change of level
    function = Elf(bare.firmware_elf).function_at(place)
    assert function is not None and function.name == "copy_image"


def test_panic_in_a_program(bare: Artefacts, tmp_path: Path) -> None:
    echo = Elf(bare.firmware_elf).symbol("smc_echo").address
    with bare_machine(with_flash(bare, {echo: bytes(4)}, tmp_path / "flash.bin")) as machine:
        values = [SMC["echo"], *DISTINCT[1:]]
        assert machine.run(Operation.SMC, values) == ParkStatus.EL3_PANIC
        report = machine.report
        assert int(report["elr_el3"]) == echo
        assert int(report["esr_el3"]) >> 26 == 0  # undefined instruction
        text = machine.qemu.secure_console.text()
        assert re.search(rf"^bothworlds EL3 panic: ESR 0x0*2000000 ELR 0x{echo:016x} FAR 0x\w{{16}}$", text, re.M)
        assert machine.send(Command(0)) == ParkStatus.EL3_PANIC, "it can only be restored"
        # The host can still take it back to the snapshot.
        assert machine.run(Operation.NOTHING) == ParkStatus.DONE
        assert machine.run(Operation.SMC, [SMC["psci_version"]]) == ParkStatus.DONE
        assert machine.results[0] == 0x10001


# -- programs in flash


def test_a_program_runs_from_flash(config: MachineConfig, tmp_path: Path) -> None:
    program = program_bytes(Operation.SMC, [SMC["echo"], 11, 22, 33, *DISTINCT[4:]])
    artefacts = build_bare(config, tmp_path, program=program)
    with bare_machine(artefacts) as machine:
        assert machine.status == ParkStatus.DONE
        assert machine.results[:4] == [0, 11, 22, 33]
        calls = len(program) // protocol.CALL_BYTES
        results = config.exchange.base + protocol.EXCHANGE_RESULTS
        checksum = zlib.crc32(machine.memory.read(results, calls * protocol.RESULT.itemsize))
        expected = f"bothworlds program: done, performed 1 of {calls} calls, results 0x{checksum:08x}\n"
        assert machine.qemu.secure_console.text().endswith(expected)
    assert expected in plain_console(artefacts, "bothworlds program.*\n")


def test_a_program_in_flash_that_ends_badly(config: MachineConfig, tmp_path: Path) -> None:
    program = program_bytes(Operation.SMC, [SMC["system_off"]])
    artefacts = build_bare(config, tmp_path, program=program)
    console = plain_console(artefacts, "bothworlds program.*\n")
    assert "bothworlds program: system-off, performed 1 of 8 calls" in console
