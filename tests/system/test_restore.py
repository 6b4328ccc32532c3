# SPDX-License-Identifier: BSD-2-Clause
"""After a thousand random programs the machine equals the snapshot bit by bit; and this test notices if it does not."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from harness.build.artefacts import Artefacts
from harness.build.registers import bank_register
from harness.build.system import build
from harness.configs import DEFAULT_CONFIG, load_config
from harness.execution.executor import Executor
from harness.execution.observation import Outcome
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CALL_BYTES
from tests.system.worlds import TRUSTED_OS

PROGRAMS = 1000
SEQUENCE_REGISTERS = {"x22", "x23", "w22", "w23"}
"""EL3's loop holds the number of the message that it waits for."""


@pytest.fixture(scope="module", params=[DEFAULT_CONFIG, TRUSTED_OS])
def artefacts(request: pytest.FixtureRequest) -> Artefacts:
    """The debug build without a normal world, then with one."""
    return build(load_config(str(request.param)))


@pytest.fixture(scope="module")
def shared_executor(artefacts: Artefacts) -> Iterator[Executor]:
    """One parked machine of it."""
    with Executor(artefacts) as machine:
        yield machine


def random_programs(seed: int, count: int) -> Iterator[bytes]:
    source = random.Random(seed)
    for _ in range(count):
        yield source.randbytes(CALL_BYTES * source.randrange(1, 17))


def registers_after(executor: Executor, omit_register: int = 0) -> dict[str, int]:
    """All registers that gdb shows, of EL0 to EL3, where an empty program parks."""
    executor.run(b"", omit_register=omit_register)
    with executor.debugger() as gdb:
        registers = gdb.registers() | gdb.vector_registers()
    assert len(registers) > 250
    return {name: value for name, value in registers.items() if name not in SEQUENCE_REGISTERS}


def different(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_equals_the_snapshot(executor: Executor) -> None:
    """RAM of both worlds and every register; GIC and timer show in what the next programs do."""
    probes = list(random_programs(99, 20))
    registers = registers_after(executor)
    expected = [results_of(executor, probe) for probe in probes]
    outcomes, worlds = set(), set()
    for program in random_programs(1, PROGRAMS):
        observation = executor.run(program)
        outcomes.add(observation.status)
        worlds.add(int(observation.report["scr_el3"]) & 1)
    assert {Outcome.DONE, Outcome.BLOCKED} <= outcomes
    assert worlds == ({0} if executor.config.normal_world is None else {0, 1}), "which world parked"
    assert not executor.audit()
    assert not different(registers, registers_after(executor))
    assert [results_of(executor, probe) for probe in probes] == expected
    assert not executor.audit()


def results_of(executor: Executor, program: bytes) -> tuple[str, bytes, bytes]:
    observation = executor.run(program)
    return observation.status.value, observation.results.tobytes(), observation.coverage.tobytes()


@pytest.mark.parametrize("page", [1, 2, 3])
def test_notices_a_page_left_out(executor: Executor, page: int) -> None:
    """One page of each restore is left out on purpose."""
    try:
        for program in random_programs(2, 20):
            observation = executor.run(program)
            assert len(observation.changed) >= page
            left_out = int(observation.changed[page - 1])
            executor.control.set_omit_page(page)
            assert left_out in {difference.page for difference in executor.audit()}
            executor.control.set_omit_page(0)
            executor.memory.written = True
            assert not executor.audit()
    finally:
        executor.control.set_omit_page(0)
        executor.memory.written = True


def test_notices_a_register_left_out(executor: Executor) -> None:
    """One register is left out of every restore on purpose: gdb shows it, where the programs have changed it."""
    registers = registers_after(executor)
    noticed = set()
    for name in ("far_el1", "elr_el1", "spsr_el1", "sp_el0", "tpidr_el0", "x2", "x8", "x30"):
        omitted = bank_register(name).index + 1
        for program in random_programs(3, 30):
            executor.run(program, omit_register=omitted)
        if shown_as(name) in different(registers, registers_after(executor, omit_register=omitted)):
            noticed.add(name)
        assert not different(registers, registers_after(executor))
    assert {"far_el1", "elr_el1", "sp_el0"} <= noticed
    assert any(name.startswith("x") for name in noticed)


def shown_as(register: str) -> str:
    """Gdb's name of a register of the bank."""
    return register if register.startswith("x") else register.upper()


def test_interrupt_controller_is_restored(executor: Executor) -> None:
    """Deleting the handler's capability masks its line at the controller; the next program finds it as it was."""

    def enabled_lines() -> str:
        with executor.debugger() as gdb:
            return gdb.command("x/9xw 0x08000100")

    interface = Interface.load(executor.artefacts)
    text = "calls:\n- {call: CNode_Delete, target: cnode, with: {index: irq}}\n"
    executor.run(b"")
    before = enabled_lines()
    observation = executor.run(Program.from_yaml(text, interface).to_bytes())
    assert list(observation.results["error"]) == [0]
    assert enabled_lines() != before
    executor.run(b"")
    assert enabled_lines() == before
    assert not executor.audit()


def test_snapshots_of_two_boots_are_equal(artefacts: Artefacts) -> None:
    images = []
    for _ in range(2):
        with Executor(artefacts) as executor:
            images.append(executor.snapshot)
    assert list(images[0].parts) == list(images[1].parts)
    assert all(np.array_equal(images[0].parts[base], images[1].parts[base]) for base in images[0].parts)
