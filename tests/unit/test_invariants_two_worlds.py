# SPDX-License-Identifier: BSD-2-Clause
"""What the normal world may see of the interrupt controller, and which interrupts must come to it."""

from __future__ import annotations

import numpy as np
import pytest

from harness.configs import load_config
from harness.invariants.controller_view import ControllerView
from harness.invariants.definitions import Judgement
from harness.invariants.world_interrupts import InterruptCall, judge_interrupts
from harness.protocol import RESULT, CallState

GICD, GICC = 0x0800_0000, 0x0801_0000


@pytest.fixture(scope="module")
def view() -> ControllerView:
    """Group 1: 0-15, 25-28, 30, 33, 34, 48-51."""
    config = load_config("trusted-os")
    assert config.normal_world is not None
    return ControllerView(config, config.normal_world)


@pytest.mark.parametrize(
    ("address", "width", "value", "secret"),
    [
        pytest.param(GICD, 4, 0b11, 0b10, id="GICD_CTLR shows EnableGrp1 as bit 0"),
        pytest.param(GICD + 4, 4, 0xFFFF_FFFF, 0, id="GICD_TYPER is for both"),
        pytest.param(GICD + 0x80, 4, 1 << 30, 1 << 30, id="GICD_IGROUPR0 of a line of its own"),
        pytest.param(GICD + 0x100, 4, 0xFFFF_FFFF, 0xFFFF_FFFF ^ 0x5E00_FFFF, id="GICD_ISENABLER0"),
        pytest.param(GICD + 0x104, 4, 0xFFFF_FFFF, 0xFFFF_FFFF ^ 0x000F_0006, id="GICD_ISENABLER1"),
        pytest.param(GICD + 0x284, 4, 0xFFFF_FFFF, 0xFFFF_FFFF ^ 0x000F_0006, id="GICD_ICPENDR1"),
        pytest.param(GICD + 0x120, 4, 1, 1, id="line 256, which no config names"),
        pytest.param(GICD + 0x41D, 1, 0xFF, 0xFF, id="GICD_IPRIORITYR of the secure timer"),
        pytest.param(GICD + 0x41E, 1, 0xFF, 0, id="GICD_IPRIORITYR of the normal world's timer"),
        pytest.param(GICD + 0x41C, 4, 0xFFFF_FFFF, 0xFF00_FF00, id="GICD_IPRIORITYR7"),
        pytest.param(GICD + 0xC04, 4, 0xFFFF_FFFF, 0xFFFF_FFFF ^ 0x33FC_0000, id="GICD_ICFGR1"),
        pytest.param(GICD + 0xF20, 4, 0xFFFF_FFFF, 0, id="GICD_SPENDSGIR0, software interrupts of its own"),
        pytest.param(GICC, 4, 0b1001, 0b1000, id="GICC_CTLR shows nothing of FIQEn"),
        pytest.param(GICC + 4, 4, 0xF0, 0, id="GICC_PMR is for both"),
        pytest.param(GICC + 0x0C, 4, 1023, 0, id="GICC_IAR: nothing is pending"),
        pytest.param(GICC + 0x0C, 4, 30, 0, id="GICC_IAR: a line of its own"),
        pytest.param(GICC + 0x0C, 4, 29, 29, id="GICC_IAR: the secure timer"),
        pytest.param(GICC + 0x18, 4, 90, 90, id="GICC_HPPIR: a secure line"),
        pytest.param(GICC + 0x18, 1, 0xFF, 0, id="a part of a number says nothing"),
        pytest.param(GICC + 0x1C, 4, 3, 3, id="GICC_ABPR does not exist"),
        pytest.param(GICD + 0x100, 8, 1 << 29 | 1 << 34, 1 << 29, id="two registers at once"),
        pytest.param(0x4060_0000, 8, 1 << 63, 0, id="elsewhere"),
    ],
)
def test_secrets_of_the_controller(view: ControllerView, address: int, width: int, value: int, secret: int) -> None:
    assert view.secret(address, width, value) == secret


OWN, SECURE = 30, 90


def raised(line: int, taken: int = 0, *, waits: bool = False) -> InterruptCall:
    """A line that became pending, and how many interrupts the normal world took then."""
    result = np.zeros(1, RESULT)[0]
    result["state"], result["mr"][:2] = CallState.DONE, (taken, line)
    return InterruptCall(0, result, line, waits)


def smc(taken: int = 0) -> InterruptCall:
    result = np.zeros(1, RESULT)[0]
    result["state"], result["badge"] = CallState.DONE, taken << 16 | OWN
    return InterruptCall(1, result)


@pytest.mark.parametrize(
    ("calls", "interrupted", "message"),
    [
        pytest.param([raised(OWN, 1), raised(SECURE), smc()], 1, None, id="as it must be"),
        pytest.param([raised(OWN, waits=True), smc(1)], 0, None, id="it waited for the SMC"),
        pytest.param([raised(OWN, waits=True), raised(OWN, 2), smc()], 0, None, id="another one let it in"),
        pytest.param([raised(OWN, waits=True), raised(SECURE)], 1, None, id="it waits for an SMC that never was"),
        pytest.param([raised(OWN)], 0, "line 30 did not come", id="its own is lost"),
        pytest.param([raised(OWN, waits=True), smc()], 0, "line 30, which was pending", id="lost in the secure world"),
        pytest.param([raised(SECURE, 1)], 1, "when secure line 90 came", id="it takes a secure one"),
        pytest.param([raised(SECURE), smc()], 0, "line 90 did not take the CPU", id="a secure one is lost"),
    ],
)
def test_whose_interrupts_come(calls: list[InterruptCall], interrupted: int, message: str | None) -> None:
    normal = load_config("trusted-os").normal_world
    assert normal is not None
    judgement = Judgement()
    judge_interrupts(normal, calls, interrupted, judgement)
    assert judgement.judged
    assert [message in broken for broken, _, _ in judgement.broken if message] == [True] * (message is not None)
    assert bool(judgement.broken) == (message is not None)
