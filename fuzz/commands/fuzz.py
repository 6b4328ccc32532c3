# SPDX-License-Identifier: BSD-2-Clause
"""The command `fuzz`: a campaign against a target."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from fuzz.commands.options import (
    FOUND,
    INTERRUPTED,
    JsonOption,
    MutatorsOption,
    NoCoverageOption,
    SeedOption,
    WorkersOption,
    worker_count,
    write_json,
)
from fuzz.mutators import Choice
from fuzz.targets import DEFAULT_TARGET, load_target
from harness.commands.options import (
    ConfigOption,
    ExtraPatchOption,
    FirmwareOption,
    KernelSourceOption,
    NoSeriesOption,
    ReleaseOption,
    built,
    extra_patches,
)
from harness.configs import DEFAULT_CONFIG


def fuzz(
    target: Annotated[
        str, typer.Argument(metavar="[TARGET]", help="What to aim at: invocations or smc.")
    ] = DEFAULT_TARGET,
    config: ConfigOption = DEFAULT_CONFIG,
    time: Annotated[float, typer.Option("--time", min=0, help="Seconds; 0: until --runs or Ctrl-C.")] = 60.0,
    runs: Annotated[int, typer.Option("--runs", min=0, help="Executions over all workers; 0: no limit.")] = 0,
    workers: WorkersOption = 0,
    seed: SeedOption = 0,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where findings, corpus and logs go.")] = Path(
        "findings"
    ),
    json_file: JsonOption = None,
    extra_patch: ExtraPatchOption = None,
    kernel_source: KernelSourceOption = None,
    no_series: NoSeriesOption = False,
    firmware: FirmwareOption = None,
    check_every: Annotated[
        int, typer.Option("--check-every", min=1, help="Judge by all invariants every N executions.")
    ] = 500,
    no_coverage: NoCoverageOption = False,
    mutators: MutatorsOption = Choice.BOTH,
    release: ReleaseOption = False,
    lcov: Annotated[
        Path | None, typer.Option("--lcov", metavar="FILE", help="Write coverage there, for genhtml.")
    ] = None,
) -> None:
    """Fuzz a target: programs chosen by coverage, each judged. Exit code 1 if something was found."""
    from fuzz.campaign import CampaignSettings, prepare_directory, run_campaign
    from fuzz.progress import Progress, summary

    load_target(target)
    prepare_directory(out)
    artefacts = built(
        config,
        release=release,
        extra=extra_patch,
        kernel_source=kernel_source,
        no_series=no_series,
        firmware=firmware,
    )
    settings = CampaignSettings(
        artefacts,
        out,
        target=target,
        seconds=time,
        runs=runs,
        workers=worker_count(workers),
        seed=seed or secrets.randbelow(1 << 31) + 1,
        check_every=check_every,
        coverage=not no_coverage,
        mutators=mutators,
        extra_patches=tuple(extra_patches(extra_patch)),
    )
    with Progress(target) as progress:
        campaign = run_campaign(settings, progress.watch)
    summary(campaign)
    campaign.save_coverage()
    if lcov is not None:
        campaign.write_lcov(lcov)
    if json_file is not None:
        write_json(json_file, campaign.to_json())
    if campaign.findings:
        raise typer.Exit(FOUND)
    if campaign.interrupted:
        raise typer.Exit(INTERRUPTED)
