# SPDX-License-Identifier: BSD-2-Clause
"""The firmware under the kernel: what programs get from it, with a host and out of flash."""

from __future__ import annotations

import dataclasses
import types
import zlib
from pathlib import Path

import numpy as np
import pytest

from harness import protocol
from harness.build.artefacts import PROJECT, Artefacts
from harness.build.firmware import build_firmware
from harness.build.flash import build_flash
from harness.build.smc_functions import load_smc_functions
from harness.execution.executor import Executor
from harness.execution.observation import Observation, Outcome
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CallState
from tests.system.bare import plain_console

EXAMPLES = sorted((PROJECT / "examples").glob("*.yaml"))
SMC = {function.name: function.id for function in load_smc_functions()}
CALL = """
calls:
- call: ARM_SMC_Call
  target: smc
  with: {{x0: {function}, x1: 1, x2: 2, x3: 3}}
"""


@pytest.fixture(scope="module")
def interface(artefacts: Artefacts) -> Interface:
    return Interface.load(artefacts)


def run(executor: Executor, interface: Interface, function: str) -> Observation:
    """Make one SMC through a capability that allows all functions."""
    return executor.run(Program.from_yaml(CALL.format(function=function), interface).to_bytes())


def test_an_smc_returns_its_results_through_the_capability(executor: Executor, interface: Interface) -> None:
    observation = run(executor, interface, "echo")
    assert observation.status is Outcome.DONE
    assert [int(value) for value in observation.results[0]["mr"][:4]] == [0, 1, 2, 3]
    (entry,) = observation.smc_log
    assert [int(value) for value in entry["arguments"][:4]] == [SMC["echo"], 1, 2, 3]
    assert [int(value) for value in entry["result"]] == [0, 1, 2, 3, *entry["arguments"][4:].tolist()]
    assert int(entry["call"]) == 0


@pytest.mark.parametrize(
    ("function", "outcome"), [("system_off", Outcome.SYSTEM_OFF), ("system_reset", Outcome.SYSTEM_RESET)]
)
def test_a_program_that_ends_the_machine_is_told_apart(
    executor: Executor, interface: Interface, function: str, outcome: Outcome
) -> None:
    assert run(executor, interface, function).status is outcome
    assert run(executor, interface, "echo").status is Outcome.DONE
    assert not executor.audit()


def test_el3_is_configured_as_it_must_be(executor: Executor) -> None:
    report = executor.run(b"").report
    assert int(report["scr_el3"]) == 0x1430
    assert int(report["sctlr_el1"]) >> 16 & 1, "WFI at EL0 must not go to the kernel"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_flash_and_host_agree(executor: Executor, interface: Interface, artefacts: Artefacts, path: Path) -> None:
    program = Program.from_yaml(path.read_text(), interface).to_bytes()
    observation = executor.run(program)
    assert observation.status is Outcome.DONE
    checksum = zlib.crc32(np.ascontiguousarray(observation.results).tobytes())
    calls = len(program) // protocol.CALL_BYTES
    kernel = types.SimpleNamespace(elf=artefacts.kernel_elf)
    guests = types.SimpleNamespace(root_task_elf=artefacts.root_task_elf)
    flash = build_flash(artefacts.config, kernel, guests, build_firmware(artefacts.config), program=program)
    console = plain_console(dataclasses.replace(artefacts, flash=flash), "bothworlds program.*\n")
    returned = int(np.isin(observation.results["state"], (CallState.DONE, CallState.FAULTED)).sum())
    assert f"bothworlds program: done, performed {returned} of {calls} calls, results 0x{checksum:08x}\n" in console
