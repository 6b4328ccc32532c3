# SPDX-License-Identifier: BSD-2-Clause
"""Deliberate bugs, and patches that change nothing: what the harness is measured with.

`kernel_patches/planted/` holds bugs of the kernel, the firmware and the Trusted OS, each with a stored program that
shows it; `kernel_patches/preserving/` holds patches after which everything must be as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.build.patches import PATCH_DIRECTORY, Patch, read_patch
from harness.configs import MachineConfig, load_config
from harness.errors import PatchError

PLANTED = PATCH_DIRECTORY / "planted"
PRESERVING = PATCH_DIRECTORY / "preserving"
_DEFAULT_TARGET = "invocations"
_AT_BOOT = "at boot"


@dataclass(frozen=True)
class PlantedBug:
    """A bug put into the kernel, the firmware or the Trusted OS on purpose, and what must find it.

    `expected`: the invariant that it breaks, or the liveness outcome that it leads to. `also`: further outcomes
    that are a catch in the debug kernel, since a bug can stop it before anything is judged; `also_release` those of the
    release kernel, which has no assertions. `target`: the fuzz target whose calls reach it. `at_boot`: it shows before
    any call. `config`: the machine config that has what it is in; empty if all have.
    """

    name: str
    what: str
    expected: str
    path: Path
    target: str = _DEFAULT_TARGET
    also: tuple[str, ...] = ()
    also_release: tuple[str, ...] = ()
    at_boot: bool = False
    config: str = ""

    def on(self, usual: MachineConfig) -> MachineConfig:
        """The config that shows it: its own, otherwise the usual one."""
        return load_config(self.config) if self.config else usual

    @property
    def program(self) -> Path:
        """The stored program that shows it."""
        return self.path.with_suffix(".yaml")

    def catches(self, *, release: bool = False) -> frozenset[str]:
        """Names of the invariants and outcomes that count as finding it."""
        return frozenset({self.expected, *(self.also_release if release else self.also)})


@dataclass(frozen=True)
class PreservingPatch:
    """A patch that must give no finding: the kernel does what it did, with other code or another layout."""

    name: str
    what: str
    path: Path


def planted_bugs() -> list[PlantedBug]:
    """The planted bugs, by name. Raises PatchError for a header without its fields."""
    bugs = []
    for path in sorted(PLANTED.glob("*.patch")):
        patch = read_patch(path)
        fields = patch.fields
        bugs.append(
            PlantedBug(
                _field(patch, "Name"),
                _field(patch, "Subject"),
                _field(patch, "Expected"),
                path,
                fields.get("Target", _DEFAULT_TARGET),
                _names(fields.get("Also", "")),
                _names(fields.get("Also-release", "")),
                _at_boot(patch),
                fields.get("Config", ""),
            )
        )
    return bugs


def preserving_patches() -> list[PreservingPatch]:
    """The patches that preserve behaviour, by name. Raises PatchError for a header without its fields."""
    patches = [read_patch(path) for path in sorted(PRESERVING.glob("*.patch"))]
    return [PreservingPatch(_field(patch, "Name"), _field(patch, "Subject"), patch.path) for patch in patches]


def _at_boot(patch: Patch) -> bool:
    when = patch.fields.get("Shows", "")
    if when not in ("", _AT_BOOT):
        raise PatchError(f"{patch.path}: 'Shows: {when}' means nothing; there is only 'Shows: {_AT_BOOT}'")
    return bool(when)


def _field(patch: Patch, key: str) -> str:
    if key not in patch.fields:
        raise PatchError(f"{patch.path}: the header has no '{key}:' field")
    return patch.fields[key]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())
