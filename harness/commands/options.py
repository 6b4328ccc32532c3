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
    from harness.build.artefacts import Artefacts, OwnCode

ConfigArgument = Annotated[
    str, typer.Argument(metavar="[CONFIG]", help="Name of a machine config, or the path of a YAML file.")
]
ConfigOption = Annotated[
    str, typer.Option("--config", metavar="CONFIG", help="Name of a machine config, or the path of a YAML file.")
]
OwnConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="CONFIG", help="Name of a machine config, or a YAML file; by default the program's own."
    ),
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
KernelSourceOption = Annotated[
    Path | None,
    typer.Option(
        "--kernel-source",
        metavar="DIR",
        envvar="BOTHWORLDS_KERNEL_SOURCE",
        help="Your tree of this kernel, in the place of the pinned source. Patches of the series that it lacks are "
        "applied.",
    ),
]
NoSeriesOption = Annotated[
    bool,
    typer.Option("--no-series", envvar="BOTHWORLDS_NO_SERIES", help="Build your tree as it stands."),
]
FirmwareOption = Annotated[
    Path | None,
    typer.Option(
        "--firmware",
        metavar="FILE",
        envvar="BOTHWORLDS_FIRMWARE",
        help="Your EL3 firmware in the place of the project's: an ELF file, or a directory of sources.",
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


def own_code(kernel_source: Path | None, *, series: bool, firmware: Path | None) -> OwnCode:
    """What the options say is the user's own; raises InputError for what is not there."""
    from harness.build.artefacts import OwnCode
    from harness.build.own_code import source_patch

    if kernel_source is None and not series:
        raise InputError("--no-series leaves the pinned kernel without its platform; it goes with --kernel-source DIR")
    patch = None
    if kernel_source is not None:
        with working(f"reading {kernel_source}"):
            patch = source_patch(kernel_source.resolve(), series=series)
    if firmware is not None and not firmware.exists():
        raise InputError(f"--firmware {firmware}: there is no such file or directory")
    return OwnCode(patch, series, firmware.resolve() if firmware is not None else None)


def built(
    config: str = DEFAULT_CONFIG,
    *,
    release: bool = False,
    extra: Sequence[Path] | None = None,
    kernel_source: Path | None = None,
    no_series: bool = False,
    firmware: Path | None = None,
) -> Artefacts:
    """Build (or take from the cache) the system that the options describe."""
    machine = load_config(config)
    patches = extra_patches(extra)
    from harness.build.system import build

    own = own_code(kernel_source, series=not no_series, firmware=firmware)
    with working(f"building {machine.name}"):
        return build(machine, release=release, extra_patches=patches, own=own)
