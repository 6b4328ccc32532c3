# SPDX-License-Identifier: BSD-2-Clause
"""The machine config beside QEMU's own device tree, and a config that is made from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.build.artefacts import PROJECT
from harness.build.kernel import platform_regions
from harness.configs import Kind, MachineConfig, Region, World, load_config
from harness.errors import MachineError
from harness.machine.device_tree import Answer, answers, dump_device_tree
from harness.machine.memory_map import config_text, differences, regions_of


@pytest.fixture(scope="module")
def found(config: MachineConfig) -> list[Answer]:
    return answers(dump_device_tree(config))


def test_worlds_are_those_of_secure_status(found: list[Answer]) -> None:
    """Secure where only `secure-status` is okay, banked for the interrupt controller, else non-secure."""
    of = {(answer.name, answer.base): (answer.world, answer.kind) for answer in found}
    assert of["secflash", 0] == (World.SECURE, Kind.FLASH)
    assert of["flash", 0x4000000] == (World.NON_SECURE, Kind.FLASH)
    assert of["secram", 0xE000000] == (World.SECURE, Kind.RAM)
    assert of["memory", 0x40000000] == (World.NON_SECURE, Kind.RAM)
    assert of["pl011", 0x9000000] == (World.NON_SECURE, Kind.DEVICE)
    assert of["pl011", 0x9040000] == (World.SECURE, Kind.DEVICE)
    assert of["intc", 0x8000000] == of["intc", 0x8010000] == (World.BANKED, Kind.DEVICE)
    (virtio,) = [answer for answer in found if answer.name == "virtio_mmio"]
    assert (virtio.base, virtio.size) == (0xA000000, 0x4000), "its 32 slots lie side by side"


def test_where_the_config_differs(config: MachineConfig, found: list[Answer]) -> None:
    """It leaves out buses that nobody gets, and keeps a device reserved that QEMU has without firmware only."""
    different = differences(config, found)
    assert not any(item.contradiction for item in different)
    assert {item.machine.split()[0] for item in different if item.config == "nothing"} == {
        "v2m", "intc", "platform-bus", "pcie",
    }  # fmt: skip
    assert [item.config.split()[0] for item in different if item.machine == "nothing"] == ["gpio"]


def test_a_config_is_made_from_the_tree(config: MachineConfig, found: list[Answer], tmp_path: Path) -> None:
    """To the kernel it is the same machine as the project's config; every region has the same world, kind and use."""
    path = tmp_path / "made.yaml"
    path.write_text(config_text(config, found))
    made = load_config(path)
    assert platform_regions(made) == platform_regions(config)
    assert differences(made, found) == []
    theirs = {region.name: region for region in made.regions}
    assert {r.name: r for r in config.regions if r.name != "gpio"}.items() <= theirs.items()
    assert made.model_copy(update={"regions": config.regions}) == config
    assert list(made.regions) == regions_of(found)


def test_the_command_tells_a_wrong_world(config: MachineConfig, tmp_path: Path) -> None:
    """A secure device that a config takes for a non-secure one: exit code 1, and a line that says where."""

    def wrong(region: Region) -> Region:
        return region.model_copy(update={"world": World.NON_SECURE}) if region.name == "secure-gpio" else region

    path = tmp_path / "wrong.yaml"
    data = config.model_copy(update={"regions": tuple(wrong(region) for region in config.regions)})
    path.write_text(data.model_dump_json(by_alias=True))
    made = tmp_path / "made.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "config", str(path), "--write", str(made)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    line = "0x90b0000 to 0x90b1000: the config says secure-gpio (non-secure, device), QEMU's device tree pl061 (secure,"
    assert line in done.stdout
    assert load_config(made).region("secure-gpio").world == World.SECURE


def test_what_is_no_device_tree_is_refused() -> None:
    for data in (b"", b"no tree" * 20, bytes(64)):
        with pytest.raises(MachineError, match="not a device tree"):
            answers(data)
