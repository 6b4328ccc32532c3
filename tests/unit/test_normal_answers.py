# SPDX-License-Identifier: BSD-2-Clause
"""What the specification says about the normal world's calls, and what it finds wrong."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.configs import NormalWorld, load_config
from harness.programs.program import Program
from harness.programs.trusted_messages import load_trusted_services
from harness.protocol import EXCHANGE_PROGRAM, PAGE, RESULT, CallState
from harness.specification.answers import NotCoveredError
from harness.specification.normal_world.memory import Buffer, SharedMemory, extent
from harness.specification.normal_world.monitor import Monitor
from harness.specification.normal_world.oracle import Comparison, NormalOracle
from harness.specification.normal_world.trusted_os import Functions, TrustedOS
from tests.unit.programs_support import two_worlds_interface

CONFIG = load_config("trusted-os")
NOT_SUPPORTED = (1 << 64) - 1
INVALID_PARAMETERS, DENIED, ALREADY_ON, INVALID_ADDRESS = (NOT_SUPPORTED - n for n in (1, 2, 3, 8))
CPU_ON, CPU_ON_64, SUSPEND = 0x8400_0003, 0xC400_0003, 0x8400_0001
NORMAL_RAM, SECURE_RAM = 0x4040_0000, 0x0E00_0000


def normal() -> NormalWorld:
    assert CONFIG.normal_world is not None
    return CONFIG.normal_world


SHARED = normal().shared.base
BASE, END = extent(normal())


@pytest.mark.parametrize(
    ("x", "answer"),
    [
        pytest.param([0x8000_0000], 0x10001, id="version"),
        pytest.param([0xDEAD_BEEF_8000_0000], 0x10001, id="only w0 is the identifier"),
        pytest.param([0x8000_0001, 0x8000_0000], 0, id="a function that is found"),
        pytest.param([0x8000_0001, 0x8400_0000], NOT_SUPPORTED, id="of another owner"),
        pytest.param([0x8400_000A, CPU_ON], 0, id="PSCI finds its functions"),
        pytest.param([0xC400_0000], NOT_SUPPORTED, id="a function of 32 bits asked with 64"),
        pytest.param([0x0100_0000], NOT_SUPPORTED, id="a yielding call of the reserved range"),
        pytest.param([CPU_ON, 0, NORMAL_RAM], ALREADY_ON, id="the CPU is on"),
        pytest.param([CPU_ON, 1, NORMAL_RAM], INVALID_PARAMETERS, id="there is no other CPU"),
        pytest.param([CPU_ON, 1 << 32, NORMAL_RAM], ALREADY_ON, id="32 bits of the CPU"),
        pytest.param([CPU_ON_64, 1 << 32, NORMAL_RAM], INVALID_PARAMETERS, id="64 bits of the CPU"),
        pytest.param([CPU_ON, 0, SECURE_RAM], INVALID_ADDRESS, id="secure memory"),
        pytest.param([CPU_ON, 0, NORMAL_RAM + 2], INVALID_ADDRESS, id="no instruction"),
        pytest.param([SUSPEND, 0, SECURE_RAM], 0, id="standby has no entry"),
        pytest.param([SUSPEND, 1 << 16, SECURE_RAM], INVALID_ADDRESS, id="power-down has one"),
        pytest.param([SUSPEND, 1, NORMAL_RAM], INVALID_PARAMETERS, id="no such state"),
        pytest.param([0x8400_0002], DENIED, id="off"),
        pytest.param([0x8400_0004, 0, 1], INVALID_PARAMETERS, id="affinity level"),
    ],
)
def test_answers_of_el3(x: list[int], answer: int) -> None:
    monitor, x = Monitor(CONFIG), [*x, *range(8 - len(x))]
    assert not monitor.is_dispatched(x[0] & 0xFFFF_FFFF)
    assert monitor.answer(x) == (answer, *x[1:4])


def test_owners_whose_calls_go_on() -> None:
    monitor = Monitor(CONFIG)
    dispatched = [0x8300_FF01, 0xB000_0001, 0xBF00_FF01, 0x3200_0004, 0x0200_0000, 0xFF00_0000]
    kept = [0x8200_0001, 0x8400_0000, 0x8500_0000, 0xBE00_0001, 0x0100_0000, 0xC600_0000]
    assert all(monitor.is_dispatched(function) for function in dispatched)
    assert not any(monitor.is_dispatched(function) for function in kept)
    with pytest.raises(NotCoveredError):
        monitor.answer([0x8400_0008, *range(7)])


def test_sessions_belong_to_clients_and_interfaces() -> None:
    memory = SharedMemory(normal(), bytes(END - BASE))
    functions, system = Functions((SHARED, normal().shared.size)), TrustedOS(memory)
    (uuid,) = (service.register_words for service in load_trusted_services() if service.name == "counter")

    def answer(function: int, client: int, *w: int) -> tuple[int, ...] | None:
        return functions.answer(system, function, client, [*w, *range(6 - len(w))])

    assert [answer(0xB000_0001, client, *uuid) for client in (1, 2)] == [(0, 1, 0, 0), (0, 2, 0, 0)]
    assert answer(0xB000_0002, 1, 1, 0, 5, 0) == (0, 0, 0, 0)
    assert answer(0xB000_0002, 2, 1, 1, 0, 0) == (0xFFFF_0006, 0, 0, 0), "another client's session"
    assert [answer(0xB000_0002, client, client, 1, 0, 0) for client in (1, 2)] == [(0, 5, 1, 0), (0, 0, 0, 0)]
    assert answer(0xB000_0003, 1, 1) == (0, 0, 0, 0)
    assert answer(0xB000_0003, 1, 1) == (0xFFFF_0008, 0, 0, 0)
    assert answer(0xF000_0003, 1, 2, 3) == (NOT_SUPPORTED, 2, 3, 0), "64-bit calls do not exist"
    assert answer(0xBF00_FF03, 1, 7, 8, 9) == (2, 0, 8, 9)
    assert answer(0x3200_0004, 1) is None


def test_buffers_of_pages_that_lie_apart() -> None:
    memory = SharedMemory(normal(), bytes(END - BASE))
    buffer = Buffer(0, 16, PAGE - 8, (SHARED + 2 * PAGE, SHARED))
    buffer.write(memory, 4, bytes(range(1, 9)))
    assert memory.read(SHARED + 3 * PAGE - 4, 4) == bytes((1, 2, 3, 4))
    assert memory.read(SHARED, 4) == bytes((5, 6, 7, 8))
    assert buffer.part(2, 8).read(memory, 2, 4) == bytes((1, 2, 3, 4))
    with pytest.raises(NotCoveredError):
        memory.is_normal(normal().memory.base, 8)
    assert not memory.is_normal(SHARED, normal().shared.size + 1) and not memory.is_normal(SECURE_RAM, 1)
    assert memory.is_normal(SECURE_RAM, 0)


class Machine:
    """Memory and results that a program might have left."""

    def __init__(self, text: str, answers: Mapping[int, tuple[int, ...]], shared: dict[int, int]) -> None:
        self.program = Program.from_yaml(f"config: trusted-os\ncalls:\n{text}", two_worlds_interface()).to_bytes()
        self.calls = len(self.program) // 32
        self.status = "done"
        self.results = np.zeros(self.calls, RESULT)
        self.results["state"] = CallState.DONE
        for index, answer in answers.items():
            self.results["mr"][index][: len(answer)] = answer
        self.shared = bytearray(END - BASE)
        for offset, word in shared.items():
            at = SHARED - BASE + offset
            self.shared[at : at + 8] = word.to_bytes(8, "little")
        self.changed = np.arange(BASE, END, PAGE)

    def read(self, address: int, size: int) -> bytes:
        if address == CONFIG.exchange.base + EXCHANGE_PROGRAM:
            return self.program[:size]
        return bytes(self.shared[address - BASE : address - BASE + size])


def compare(text: str, answers: Mapping[int, tuple[int, ...]], shared: dict[int, int] | None = None) -> Comparison:
    """Judge what is said to have happened; the snapshot's shared pages hold zeros."""
    start: Any = SimpleNamespace(read=lambda _, size: bytes(size))
    oracle = NormalOracle(CONFIG, normal(), two_worlds_interface(), start)
    machine = Machine(text, answers, shared or {})
    return oracle.compare(machine, machine)


VERSION = "- {call: NormalSMC, with: {x0: psci_version, x1: 1, x2: 2, x3: 3}}\n"
WRITE = "- {call: NormalWrite, target: shared-page-2, with: {offset: 0x100, value: 7}}\n"


def test_an_answer_that_is_wrong_is_found() -> None:
    assert not compare(VERSION, {0: (0x10001, 1, 2, 3)}).wrong
    for answer in ((0x10000, 1, 2, 3), (0x10001, 1, 2, 4)):
        comparison = compare(VERSION, {0: answer})
        (wrong,) = comparison.wrong
        assert comparison.judged == 1 and wrong.label == "psci_version"


def test_memory_that_nobody_was_to_write_is_found() -> None:
    assert not compare(WRITE, {}, {2 * PAGE + 0x100: 7}).wrong
    for shared in ({2 * PAGE + 0x100: 6}, {2 * PAGE + 0x100: 7, 0x3_0000: 1}):
        (wrong,) = compare(WRITE, {}, shared).wrong
        assert wrong.label == "shared memory"


def test_judgement_ends_where_it_cannot_follow() -> None:
    interrupted = {0: (0xFFFF_0004, 0, 0, 0), 1: (5, 5, 5, 5)}
    assert compare("- {call: NormalSMC, with: {x0: optee_call_with_arg}}\n" + VERSION, interrupted).judged == 0
    own = f"- {{call: NormalSMC, with: {{x0: optee_call_with_arg, x2: {normal().memory.base:#x}}}}}\n"
    assert not compare(own + VERSION, {1: (5, 5, 5, 5)}).wrong


MESSAGE = "- {call: NormalMessage, target: shared, with: {command: cancel, session: 1}}\n"
CHANGE = "- {call: NormalChange, target: shared, with: {offset: 0, width: 4, value: 6, reads: 1}}\n"
CALL = "- {call: NormalSMC, with: {x0: optee_call_with_arg, x2: shared}}\n"


@pytest.mark.parametrize(
    ("answer", "command", "result", "holds"),
    [
        pytest.param((0, 0, 0, 0), 3, 0xFFFF_0006, True, id="nothing changed"),
        pytest.param((0, 0, 0, 0), 6, 0xFFFF_0006, True, id="it changed after it was read"),
        pytest.param((5, 0, SHARED, 0), 6, 0x4E57_4E57, True, id="it changed before"),
        pytest.param((5, 0, SHARED, 0), 3, 0x4E57_4E57, False, id="what was never there was read"),
        pytest.param((0, 0, 0, 0), 6, 0x4E57_4E57, False, id="it was served, and not told"),
    ],
)
def test_memory_that_changes_has_several_outcomes(
    answer: tuple[int, ...], command: int, result: int, holds: bool
) -> None:
    header = {0: command, 8: 1, 16: result << 32, 24: 3 if result >> 16 == 0xFFFF else 0}
    comparison = compare(MESSAGE + CHANGE + CALL, {2: answer}, header)
    assert (not comparison.wrong) == holds
