# SPDX-License-Identifier: BSD-2-Clause
"""What loads and stores come to, on tables made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from harness.kernel_state.state import KernelState
from harness.protocol import RESULT, CallState
from harness.specification.accesses import Access, wrong_access
from harness.specification.answers import NotCoveredError
from tests.unit.kernel_state_support import Machine

VM_FAULT = 5
READ_WRITE, READ_ONLY, NOBODY = 1 << 6, 3 << 6, 0
READ, LARGE, UPPER = 0x92000000, 1 << 21, 1 << 39
WRITE = READ | 1 << 6


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    for index, access in enumerate((READ_WRITE, READ_ONLY, NOBODY), 4):
        machine.entry(machine.pt, index, machine.page | 0x403 | access)
    machine.entry(machine.pd, 2, machine.large | 0x401 | READ_ONLY)
    machine.memory.put(machine.page, 0x1234)
    return machine


def judged(machine: Machine, access: Access, *, value: int = 0, fault: tuple[int, ...] = (), error: int = 0) -> str:
    result = np.zeros(1, RESULT)[0]
    result["state"] = CallState.FAULTED if fault else CallState.DONE
    result["error"] = VM_FAULT if fault else error
    result["mr"][:4] = (0x400000, *fault) if fault else (value, 0, 0, 0)
    state = KernelState(machine.layout, machine.config, machine.memory)
    return wrong_access(state, machine.pgd, access, result, VM_FAULT)


@pytest.mark.parametrize(
    ("address", "write", "syndrome"),
    [
        (0x3000, False, READ | 7),
        (0x3000, True, WRITE | 7),
        (0x5000, True, WRITE | 0xF),
        (0x6000, False, READ | 0xF),
        (3 * LARGE, False, READ | 6),
        (2 * LARGE, True, WRITE | 0xE),
        (5 << 30, False, READ | 5),
        (UPPER, False, READ | 4),
    ],
)
def test_what_is_not_allowed_faults_with_its_level(machine: Machine, address: int, write: bool, syndrome: int) -> None:
    access = Access(address, write)
    assert judged(machine, access, fault=(address, 0, syndrome)) == ""
    assert "not fault" in judged(machine, access)
    for wrong in ((address + 8, 0, syndrome), (address, 1, syndrome), (address, 0, syndrome ^ 1)):
        assert "ended with" in judged(machine, access, fault=wrong)


def test_a_load_gives_what_lies_there(machine: Machine) -> None:
    for address in (0x4000, 0x5000):
        assert judged(machine, Access(address, write=False), value=0x1234) == ""
        assert "0x1234" in judged(machine, Access(address, write=False), value=0x1235)
        assert "faulted" in judged(machine, Access(address, write=False), fault=(address, 0, READ | 7))
    assert judged(machine, Access(0x4000, write=True)) == ""


def test_a_store_that_the_victim_refused_was_none(machine: Machine) -> None:
    assert judged(machine, Access(0x5000, write=True), error=1) == ""


@pytest.mark.parametrize("address", [1 << 48, 0x4004])
def test_other_addresses_are_not_judged(machine: Machine, address: int) -> None:
    with pytest.raises(NotCoveredError):
        judged(machine, Access(address, write=False))


def test_the_value_of_a_device_is_not_judged(machine: Machine) -> None:
    machine.entry(machine.pt, 9, machine.device | 0x423 | READ_WRITE)
    with pytest.raises(NotCoveredError):
        judged(machine, Access(0x9000, write=False))
