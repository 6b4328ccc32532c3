# SPDX-License-Identifier: BSD-2-Clause
"""What the normal world may see of the interrupt controller."""

from __future__ import annotations

import pytest

from harness.configs import load_config
from harness.invariants.controller_view import ControllerView

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
