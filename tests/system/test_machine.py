# SPDX-License-Identifier: BSD-2-Clause
"""The machine: stages, channels, and what is said when it fails. Runs on the toy."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pexpect
import pytest

from harness.build.artefacts import Artefacts
from harness.configs import MachineConfig
from harness.errors import EnvironmentFailure, ImageError, LaunchFailure, MachineLost, MissingPackage, StageTimeout
from harness.execution.executor import Executor
from harness.machine.boot import BootEvent, Stage, boot
from harness.machine.qemu import Qemu, QemuSettings, Shared
from tests.system.toy import TOY_RANGES, build_toy


def test_boots_in_stages(toy: Artefacts) -> None:
    with Executor(toy, ranges=TOY_RANGES) as executor:
        events = executor.boot_events
        assert [event.stage for event in events] == list(Stage)
        assert all(before.seconds <= after.seconds for before, after in pairwise(events))
        assert "toy: booted" in "".join(event.console for event in events) + executor.machine.secure_console.text()


def test_stops_before_the_first_instruction(toy: Artefacts) -> None:
    with Qemu(toy, Shared.create(toy)) as qemu:
        boot(qemu, until=Stage.LAUNCHED)
        assert qemu.qmp("query-status")["status"] == "prelaunch"
        with qemu.gdb() as gdb:
            gdb.attach(qemu.gdb_target)
            assert gdb.registers()["pc"] == 0


def test_console_is_read_with_pexpect(toy: Artefacts) -> None:
    with Executor(toy, ranges=TOY_RANGES) as executor:
        console = executor.machine.secure_console
        assert console.expect([pexpect.TIMEOUT, r"toy: (\w+)"], timeout=5) == 1
        assert console.match.group(1) == "booted"  # type: ignore[union-attr]
        with pytest.raises(pexpect.TIMEOUT):
            console.expect("never", timeout=0.05)


def test_qmp_and_gdb_answer_while_parked(toy_executor: Executor) -> None:
    start = time.perf_counter()
    for _ in range(20):
        assert toy_executor.machine.qmp("query-status")["running"]
    assert (time.perf_counter() - start) / 20 < 0.02
    with toy_executor.debugger() as gdb:
        registers = gdb.registers()
        assert registers["pc"] == gdb_address(toy_executor)
        assert "SCR_EL3" in registers or "SCR" in registers
        assert "park_pc" in gdb.backtrace()
        start = time.perf_counter()
        for _ in range(20):
            gdb.evaluate("$x0")
        assert (time.perf_counter() - start) / 20 < 0.02
    assert toy_executor.run(b"").status == "done"


def gdb_address(executor: Executor) -> int:
    from harness.kernel_state.elf import Elf

    return Elf(executor.artefacts.firmware_elf).symbol("park_pc").address


def test_memory_of_both_worlds(toy_executor: Executor) -> None:
    memory = toy_executor.memory
    assert memory.read(0x0E000000, 4) == bytes.fromhex("c0035fd6")
    assert memory.read(0x40400000, 4) == bytes.fromhex("c0035fd6")
    memory.write(0x40500000, b"here")
    assert memory.read(0x40500000, 4) == b"here"
    memory.write(0x40500000, bytes(4))
    for address in (0x09040000, 0x0EFFFFFF, 0xC0000000):
        with pytest.raises(ImageError):
            memory.read(address, 8)


def test_deadline_of_a_stage(config: MachineConfig, tmp_path: Path) -> None:
    deadlines = config.deadlines.model_copy(update={"kernel": 0.4, "firmware": 5.0})
    stuck = build_toy(config.model_copy(update={"deadlines": deadlines}), tmp_path, hang_in_boot=True)
    with pytest.raises(StageTimeout) as caught, Executor(stuck, ranges=TOY_RANGES):
        pass
    assert caught.value.stage == "kernel"
    assert "QEMU's output" in str(caught.value)


def test_qemu_that_does_not_start(toy: Artefacts) -> None:
    with pytest.raises(LaunchFailure) as caught, Executor(toy, settings=QemuSettings(extra=("-no-such-option",))):
        pass
    assert "no-such-option" in str(caught.value)
    assert caught.value.qemu_exit_code == 1
    assert "qemu-system-aarch64" in " ".join(caught.value.command)


def test_missing_qemu(toy: Artefacts) -> None:
    with pytest.raises(MissingPackage, match="apt-get install qemu-system-arm"):
        Executor(toy, settings=QemuSettings(binary="qemu-of-nobody"), ranges=TOY_RANGES).__enter__()


def test_old_qemu(toy: Artefacts) -> None:
    demanding = toy.config.model_copy(update={"qemu": toy.config.qemu.model_copy(update={"minimum_version": "99.1"})})
    with pytest.raises(EnvironmentFailure, match=r"needs 99\.1 or newer"):
        Executor(replace(toy, config=demanding), ranges=TOY_RANGES).__enter__()


@pytest.mark.parametrize("stage", list(Stage))
def test_killed_at_any_stage(toy: Artefacts, stage: Stage) -> None:
    """Whenever QEMU is killed, the error says so, and a new machine works."""

    def kill(event: BootEvent) -> None:
        if event.stage is stage and not executor.replacements:
            os.kill(executor.machine.pid, signal.SIGKILL)
            while executor.machine.running:
                time.sleep(0.001)

    executor = Executor(toy, ranges=TOY_RANGES, listener=kill)
    with pytest.raises(MachineLost) as caught:
        executor.__enter__()
        executor.run(b"")
    assert "toy: booted" in str(caught.value) or stage in (Stage.LAUNCHED, Stage.FIRMWARE, Stage.KERNEL)
    try:
        executor.replace()
        assert executor.run(b"").status == "done"
        assert not executor.audit()
    finally:
        executor.__exit__()
