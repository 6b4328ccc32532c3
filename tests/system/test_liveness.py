# SPDX-License-Identifier: BSD-2-Clause
"""Each way in which a machine can stop is told apart, within a second, and the next program runs on a good machine.

The kernel and the victims do nothing of this kind when asked, so instructions are written over
code that has not run yet.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest

from harness import protocol
from harness.build.artefacts import Artefacts
from harness.build.planted import planted_bugs
from harness.build.system import build
from harness.configs import MachineConfig
from harness.execution.executor import Executor
from harness.execution.observation import Observation, Outcome
from harness.findings.judge import Judge
from harness.kernel_state.elf import Elf
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CALL_BYTES, PopulationKind

LOOP = 0x14000000


def branch_and_link(source: int, target: int) -> int:
    return 0x94000000 | ((target - source) >> 2) & 0x03FFFFFF


def smc_program(artefacts: Artefacts) -> bytes:
    """A call that reaches the kernel's decoder of SMC capabilities."""
    text = "calls:\n- {call: ARM_SMC_Call, target: smc, with: {}}\n"
    return Program.from_yaml(text, Interface.load(artefacts)).to_bytes()


def kernel_code(executor: Executor, words: list[int]) -> None:
    """Write instructions at the start of the decoder of SMC capabilities."""
    elf = Elf(executor.artefacts.kernel_elf)
    address = elf.physical(elf.symbol("decodeARMSMCInvocation").address)
    executor.memory.write(address, b"".join(word.to_bytes(4, "little") for word in words))


def halt(executor: Executor) -> None:
    elf = Elf(executor.artefacts.kernel_elf)
    at = elf.symbol("decodeARMSMCInvocation").address
    kernel_code(executor, [branch_and_link(at, elf.symbol("halt").address)])


def assertion(executor: Executor) -> None:
    elf = Elf(executor.artefacts.kernel_elf)
    at = elf.symbol("decodeARMSMCInvocation").address
    wanted = b"seL4 failed assertion"
    string = next(s.address + s.data.find(wanted) for s in elf.sections if wanted in s.data)
    # ldr x0/x1/x3, behind the code; mov w2, #0; bl _assert_fail; nop
    load = [0x58000000 | (24 - 4 * index) // 4 << 5 | register for index, register in enumerate((0, 1, 3))]
    words = [*load, 0x52800002, branch_and_link(at + 16, elf.symbol("_assert_fail").address), 0xD503201F]
    kernel_code(executor, [*words, string & 0xFFFFFFFF, string >> 32])


def kernel_fault(executor: Executor) -> None:
    kernel_code(executor, [0xD2800000, 0xF9400000])  # mov x0, #0; ldr x0, [x0]


def kernel_loop(executor: Executor) -> None:
    kernel_code(executor, [LOOP])


def victim_loop(executor: Executor) -> None:
    """The first victim loops where it wakes up."""
    report = executor.control.report[0]
    code = population_entry(executor, PopulationKind.CODE, 0)
    first = min(section.address for section in Elf(executor.artefacts.victim_elf).sections if section.executable)
    page = first & -protocol.PAGE
    executor.memory.write(code + int(report["elr_el3"]) + 4 - page, LOOP.to_bytes(4, "little"))


def population_entry(executor: Executor, kind: PopulationKind, victim: int) -> int:
    data = executor.memory.read(
        executor.config.exchange.base + protocol.POPULATION_OFFSET, protocol.POPULATION.itemsize
    )
    report = np.frombuffer(data, protocol.POPULATION, 1)[0]
    entries = report["entry"][: int(report["entries"])]
    return next(int(e["address"]) for e in entries if e["kind"] == kind and e["victim"] == victim)


CASES: list[tuple[Outcome, Callable[[Executor], None], str]] = [
    (Outcome.KERNEL_HALT, halt, "halt"),
    (Outcome.ASSERTION, assertion, "_assert_fail"),
    (Outcome.KERNEL_FAULT, kernel_fault, ""),
    (Outcome.HANG_KERNEL, kernel_loop, "decodeARMSMCInvocation"),
    (Outcome.HANG_VICTIM, victim_loop, ""),
]


def run_broken(executor: Executor, breaks: Callable[[Executor], None]) -> Observation:
    breaks(executor)
    executor.memory.written = False
    program = smc_program(executor.artefacts)
    observation = executor.run(program)
    assert observation.status
    return observation


@pytest.mark.parametrize(("outcome", "breaks", "function"), CASES, ids=[str(case[0]) for case in CASES])
@pytest.mark.parametrize("release", [False, True], ids=["debug", "release"])
def test_told_apart(
    artefacts: Artefacts,
    release_artefacts: Artefacts,
    outcome: Outcome,
    breaks: Callable[[Executor], None],
    function: str,
    release: bool,
) -> None:
    if release and outcome is Outcome.ASSERTION:
        pytest.skip("a release kernel has no assertions")
    with Executor(release_artefacts if release else artefacts) as executor:
        observation = run_broken(executor, breaks)
        assert observation.status is outcome
        functions = [frame.function for frame in observation.backtrace]
        assert function in functions or not function
        assert bool(functions) == (outcome is not Outcome.HANG_VICTIM)
        if outcome in (Outcome.HANG_KERNEL, Outcome.HANG_VICTIM):
            assert observation.gdb_backtrace.startswith("#0")
        kept = observation.keep()
        executor.replace()
        assert executor.run(b"").status is Outcome.DONE
        assert not executor.audit()
        assert kept.status is outcome


def test_a_call_that_does_not_return_from_el3(config: MachineConfig) -> None:
    """A firmware in which one SMC never ends: neither the kernel nor the victim is blamed."""
    bug = next(bug for bug in planted_bugs() if bug.expected == Outcome.HANG_EL3)
    artefacts = build(config, extra_patches=[bug.path])
    interface = Interface.load(artefacts)
    with Executor(artefacts) as executor:
        judge = Judge.of(executor)
        verdict = judge.judge(Program.load(bug.program, interface).to_bytes())
        assert verdict.observation.status is Outcome.HANG_EL3
        (symptom,) = verdict.symptoms
        assert (symptom.kind, symptom.message) == ("hang-el3", "hang-el3 in -")
        assert "smc_psci_features" in verdict.observation.gdb_backtrace
        assert judge.judge(smc_program(artefacts)).symptoms == ()
        assert not executor.audit()


def test_everything_blocked(executor: Executor) -> None:
    """Victims that receive from an endpoint to which nobody sends."""
    names = [call.name for call in Interface.load(executor.artefacts).calls]
    receive = names.index("Recv")
    calls = [struct.pack("<BBBB", receive, slot & 1, 0, slot >> 1).ljust(CALL_BYTES, b"\0") for slot in range(256)]
    observation = executor.run(b"".join(calls))
    assert observation.status is Outcome.BLOCKED
    assert executor.run(b"").status is Outcome.DONE
