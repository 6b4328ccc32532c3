# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds build`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import (
    ConfigArgument,
    ExtraPatchOption,
    FirmwareOption,
    KernelSourceOption,
    NoSeriesOption,
    ReleaseOption,
    built,
    extra_patches,
)
from harness.commands.output import say, table, working
from harness.configs import DEFAULT_CONFIG

SHOWN_HASH = 16
"""Digits of a content hash that a person compares."""


def build(
    config: ConfigArgument = DEFAULT_CONFIG,
    release: ReleaseOption = False,
    extra_patch: ExtraPatchOption = None,
    kernel_source: KernelSourceOption = None,
    no_series: NoSeriesOption = False,
    firmware: FirmwareOption = None,
    source_only: Annotated[
        bool, typer.Option("--source-only", help="Only fetch the kernel's source: later builds need no network.")
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option("--source", metavar="DIR", help="Only write the kernel's source, patched, to a new directory."),
    ] = None,
) -> None:
    """Build kernel, firmware, guests and plugin; what is built already is taken from the cache."""
    if source is not None:
        from harness.build.own_code import write_source
        from harness.build.patches import read_series

        with working("writing the kernel's source"):
            write_source(source, patches=[*read_series(), *extra_patches(extra_patch)])
        say(f"{source}: the kernel's source with the series applied; build your changes with --kernel-source {source}")
        return
    if source_only:
        from harness.build.source import fetch_kernel_source

        with working("fetching the kernel's source"):
            fetch_kernel_source()
        return
    start = time.monotonic()
    artefacts = built(
        config,
        release=release,
        extra=extra_patch,
        kernel_source=kernel_source,
        no_series=no_series,
        firmware=firmware,
    )
    seconds = time.monotonic() - start
    parts = {
        "kernel": artefacts.kernel_elf,
        "firmware": artefacts.firmware_elf,
        "root_task": artefacts.root_task_elf,
        "victim": artefacts.victim_elf,
        "flash": artefacts.flash,
        "plugin": artefacts.plugin,
    }
    rows = [(name, artefacts.hashes.get(name, "")[:SHOWN_HASH], str(path)) for name, path in parts.items()]
    table(("part", "content", "file"), rows)
    kind = "release" if artefacts.release else "debug"
    say(f"{artefacts.config.name}, {kind}: {seconds:.1f} s")
