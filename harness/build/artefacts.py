# SPDX-License-Identifier: BSD-2-Clause
"""What a build produces, and where it is kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from harness.configs import MachineConfig

PROJECT = Path(__file__).resolve().parent.parent.parent


def cache_directory() -> Path:
    """Where builds are kept, by content: $BOTHWORLDS_CACHE, else the user's cache directory."""
    if explicit := os.environ.get("BOTHWORLDS_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bothworlds"


@dataclass(frozen=True)
class OwnCode:
    """What a user puts in the place of the project's own code.

    `source_patch` is their kernel tree as a patch on the pinned source; the series is applied behind
    it if `series` is true. `firmware` is an ELF file, or a directory of sources.
    """

    source_patch: Path | None = None
    series: bool = True
    firmware: Path | None = None


NO_OWN_CODE = OwnCode()


@dataclass(frozen=True)
class Artefacts:
    """One built system. Every file is named by the content of what it was built from."""

    config: MachineConfig
    release: bool
    kernel_elf: Path
    kernel_generated: Path
    """Directory of the kernel's generated headers; holds the preprocessed `.pbf` files."""
    kernel_source: Path
    """The patched source tree (interfaces' XML, `syscall.xml`)."""
    firmware_elf: Path
    root_task_elf: Path
    victim_elf: Path
    flash: Path
    plugin: Path
    hashes: dict[str, str]
    """SHA-256 of kernel, firmware, root_task, victim, flash, plugin, patches, config, and normal_world if there."""
    extra_patches: tuple[Path, ...] = ()
    """Patches on top of the series."""
    own: OwnCode = NO_OWN_CODE
    """What of it is the user's own."""
    normal_world_elf: Path | None = None
    """The normal world's program, where the config has that world."""
    trusted_os_elf: Path | None = None
    """The Trusted OS' user level: the dispatcher and its services; where the config has a normal world."""
