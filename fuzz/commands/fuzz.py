# SPDX-License-Identifier: BSD-2-Clause
"""The command `fuzz`: a campaign against a target."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuzz.commands.options import (
    FOUND,
    JsonOption,
    MutatorsOption,
    NoCoverageOption,
    SeedOption,
    StrictOption,
    WorkersOption,
    worker_count,
    write_json,
)
from fuzz.mutators import Choice
from fuzz.targets import DEFAULT_TARGET, load_target
from harness.commands.options import (
    ExtraPatchOption,
    FirmwareOption,
    KernelSourceOption,
    NoSeriesOption,
    ReleaseOption,
    built,
)
from harness.commands.output import fail
from harness.errors import EnvironmentFailure, InputError, OutputError

if TYPE_CHECKING:
    from fuzz.campaign import Campaign

SIGNALLED = 128
"""Exit code of a command that a signal has ended, less the signal's number."""


def fuzz(
    target: Annotated[
        str, typer.Argument(metavar="[TARGET]", help="What to aim at: invocations, smc or normal-world-smc.")
    ] = DEFAULT_TARGET,
    config: Annotated[
        str | None,
        typer.Option(
            "--config", metavar="CONFIG", help="Name of a machine config, or a YAML file; by default the target's own."
        ),
    ] = None,
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
        int,
        typer.Option("--check-every", min=1, help="Judge everything, and not only what changed, every N executions."),
    ] = 500,
    strict: StrictOption = False,
    no_coverage: NoCoverageOption = False,
    mutators: MutatorsOption = Choice.BOTH,
    release: ReleaseOption = False,
    lcov: Annotated[
        Path | None, typer.Option("--lcov", metavar="FILE", help="Write coverage there, for genhtml.")
    ] = None,
) -> None:
    """Fuzz a target: programs chosen by coverage, each judged. Exit code 1 if something was found.

    A directory that was fuzzed in before goes on from its corpus. Ctrl-C ends it in order, a second one at once.
    """
    from fuzz.campaign import CampaignSettings, prepare_directory, run_campaign
    from fuzz.progress import Progress, summary
    from fuzz.stopping import Stopping
    from harness.programs.interfaces import Interface

    if lcov is not None and no_coverage:
        raise InputError("--lcov: a campaign without coverage has nothing to write; leave out --no-coverage")
    aim = load_target(target)
    prepare_directory(out)
    artefacts = built(
        aim.config if config is None else config,
        release=release,
        extra=extra_patch,
        kernel_source=kernel_source,
        no_series=no_series,
        firmware=firmware,
    )
    calls = Interface.load(artefacts).calls
    if not any(aim.weight(call.name) for call in calls if aim.main in ("", call.name)):
        raise InputError(f"--config {config}: it has nothing that target '{target}' aims at; leave --config out")
    settings = CampaignSettings(
        artefacts,
        out,
        target=target,
        seconds=time,
        runs=runs,
        workers=worker_count(workers),
        seed=seed or secrets.randbelow(1 << 31) + 1,
        check_every=check_every,
        strict=strict,
        coverage=not no_coverage,
        mutators=mutators,
    )
    failure: EnvironmentFailure | None = None
    with Stopping() as stopping, Progress(f"{target} ({settings.kernel} kernel)") as progress:
        try:
            campaign = run_campaign(settings, progress.watch, stopping=stopping)
        except EnvironmentFailure as error:
            # What it counted and found before is worth as much.
            if progress.campaign is None or not progress.campaign.totals.executions:
                raise
            campaign, failure = progress.campaign, error
        progress.stop()
        problems = _write(campaign, json_file, lcov)
        with suppress(OSError):  # nobody reads it any more
            summary(campaign)
    for problem in [*([failure] if failure else []), *problems]:
        fail(str(problem))
    if campaign.findings:
        raise typer.Exit(FOUND)
    if campaign.interrupted:
        raise typer.Exit(SIGNALLED + (campaign.signal or signal.SIGINT))
    if failure or problems:
        raise typer.Exit(EnvironmentFailure.exit_code)


def _write(campaign: Campaign, json_file: Path | None, lcov: Path | None) -> list[OutputError]:
    """Write what was asked for; what cannot be written is told after the summary, which it must not cost."""
    problems = []
    writers: list[Callable[[], None]] = [campaign.save_coverage]
    if lcov is not None:
        writers.append(lambda: campaign.write_lcov(lcov))
    if json_file is not None:
        writers.append(lambda: write_json(json_file, campaign.to_json()))
    for write in writers:
        try:
            write()
        except OutputError as problem:
            problems.append(problem)
    return problems
