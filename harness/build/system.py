# SPDX-License-Identifier: BSD-2-Clause
"""One whole system from its parts: kernel, guests, firmware, flash image, plugin."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from harness.build.artefacts import NO_OWN_CODE, Artefacts, OwnCode
from harness.build.firmware import build_firmware, own_firmware
from harness.build.flash import build_flash
from harness.build.guests import build_root_task
from harness.build.kernel import build_kernel
from harness.build.normal_world import build_normal_world
from harness.build.patches import Part, part_of
from harness.build.plugin import build_plugin
from harness.configs import MachineConfig
from harness.errors import PatchError
from harness.machine.version import PROGRAM, check_version
from harness.packages import tool
from harness.programs.interfaces import Interface


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def config_hash(config: MachineConfig) -> str:
    """SHA-256 of what a config says, whatever its comments and layout."""
    return hashlib.sha256(config.model_dump_json(by_alias=True, exclude_none=True).encode()).hexdigest()


def build(
    config: MachineConfig, *, release: bool = False, extra_patches: Sequence[Path] = (), own: OwnCode = NO_OWN_CODE
) -> Artefacts:
    """Build the system that a config describes, or take its parts from the cache.

    `extra_patches` are applied on top of the series, or to the project's firmware or Trusted OS; `own` says what of it
    is the user's. Raises PatchError for a patch that does not apply, BuildFailure with the tool's output,
    MissingPackage for a tool that is not installed.
    """
    version = check_version(config, tool(PROGRAM))
    patches: dict[Part, list[Path]] = {part: [] for part in Part}
    for path in extra_patches:
        patches[part_of(path)].append(path)
    of_firmware, of_trusted_os = patches[Part.FIRMWARE], patches[Part.TRUSTED_OS]
    if of_firmware and own.firmware is not None:
        raise PatchError(f"{of_firmware[0]}: changes the project's firmware, and another one was given")
    if of_trusted_os and config.normal_world is None:
        raise PatchError(f"{of_trusted_os[0]}: changes the Trusted OS, and config '{config.name}' has none")
    kernel = build_kernel(config, release=release, extra_patches=patches[Part.KERNEL], own=own)
    guests = build_root_task(config, kernel, trusted_os_patches=of_trusted_os)
    firmware = build_firmware(config, of_firmware) if own.firmware is None else own_firmware(config, own.firmware)
    normal_world = None
    if config.normal_world is not None:
        normal_world = build_normal_world(config, Interface.load(guests.root_task_elf.parent))
    flash = build_flash(config, kernel, guests, firmware, normal_world=normal_world)
    plugin = build_plugin(version)
    return Artefacts(
        config=config,
        release=release,
        kernel_elf=kernel.elf,
        kernel_generated=kernel.generated,
        kernel_source=kernel.source,
        firmware_elf=firmware.elf,
        root_task_elf=guests.root_task_elf,
        victim_elf=guests.victim_elf,
        flash=flash,
        plugin=plugin,
        hashes={
            "kernel": file_hash(kernel.elf),
            "firmware": file_hash(firmware.elf),
            "root_task": file_hash(guests.root_task_elf),
            "victim": file_hash(guests.victim_elf),
            "flash": file_hash(flash),
            "plugin": file_hash(plugin),
            "patches": kernel.patches_hash,
            "config": config_hash(config),
            **({} if normal_world is None else {"normal_world": file_hash(normal_world)}),
        },
        extra_patches=tuple(extra_patches),
        own=own,
        normal_world_elf=normal_world,
        trusted_os_elf=guests.trusted_os_elf,
    )
