# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds boot`."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.commands.options import ConfigArgument, ExtraPatchOption, ReleaseOption, built
from harness.configs import DEFAULT_CONFIG


def boot(
    config: ConfigArgument = DEFAULT_CONFIG,
    release: ReleaseOption = False,
    extra_patch: ExtraPatchOption = None,
    gdb: Annotated[bool, typer.Option("--gdb", help="Stop before the first instruction and wait for gdb.")] = False,
) -> None:
    """Boot, and show each stage and console until the machine is parked."""
    built(config, release=release, extra=extra_patch)
