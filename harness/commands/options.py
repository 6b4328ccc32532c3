# SPDX-License-Identifier: BSD-2-Clause
"""Options that several commands take, and the build that they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.output import working
from harness.configs import DEFAULT_CONFIG, load_config
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.build.artefacts import Artefacts

ConfigArgument = Annotated[
    str, typer.Argument(metavar="[CONFIG]", help="Name of a machine config, or the path of a YAML file.")
]
ConfigOption = Annotated[
    str, typer.Option("--config", metavar="CONFIG", help="Name of a machine config, or the path of a YAML file.")
]
ReleaseOption = Annotated[bool, typer.Option("--release", help="The kernel without its assertions and console.")]
ExtraPatchOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--extra-patch",
        metavar="FILE",
        help="A kernel patch on top of the series: a candidate fix, a suspected bug. reverse:FILE takes a patch of "
        "the series back.",
    ),
]
REVERSE = "reverse:"
ForceOption = Annotated[bool, typer.Option("--force", help="Try although the finding is of another build.")]


def extra_patches(paths: Sequence[Path] | None) -> list[Path]:
    """The patches that were given, as absolute paths; raises InputError where there is no such file.

    `reverse:FILE` becomes a patch that takes FILE back.
    """
    from harness.build.patches import reverse_patch

    found = []
    for given in paths or ():
        name = str(given)
        path = Path(name.removeprefix(REVERSE)).resolve()
        if not path.is_file():
            raise InputError(f"--extra-patch {given}: there is no such file")
        found.append(reverse_patch(path) if name.startswith(REVERSE) else path)
    return found


def built(config: str = DEFAULT_CONFIG, *, release: bool = False, extra: Sequence[Path] | None = None) -> Artefacts:
    """Build (or take from the cache) the system that the options describe."""
    machine = load_config(config)
    patches = extra_patches(extra)
    from harness.build.system import build

    with working(f"building {machine.name}"):
        return build(machine, release=release, extra_patches=patches)
