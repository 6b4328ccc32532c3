# SPDX-License-Identifier: BSD-2-Clause
"""What other installed packages add through entry points: commands, invariants, targets, SMC functions."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from harness.errors import BothworldsError, InputError


def entries(group: str) -> list[EntryPoint]:
    """The entry points of a group, by name."""
    return sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value))


def load(entry: EntryPoint) -> Any:
    """The object of an entry point; InputError that names it where its package fails."""
    try:
        return entry.load()
    except BothworldsError:
        raise
    except Exception as error:  # of any kind: it is another package's code
        package = f" of package {entry.dist.name}" if entry.dist is not None else ""
        raise InputError(
            f"entry point '{entry.name}' ({entry.group} = {entry.value}){package} cannot be loaded: "
            f"{type(error).__name__}: {error}; mend the package or uninstall it"
        ) from error
