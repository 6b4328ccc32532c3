# SPDX-License-Identifier: BSD-2-Clause
"""The command `planted`: campaigns against kernels with a deliberate bug, or with a change that must not matter."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuzz.commands.options import (
    FOUND,
    INTERRUPTED,
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
from harness.commands.options import ConfigOption, ReleaseOption
from harness.commands.output import say, table, working
from harness.configs import DEFAULT_CONFIG, load_config
from harness.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuzz.planted import PlantedResult, PlantedSettings

HEADERS = ("planted bug", "caught", "invariant", "executions", "seconds", "calls", "reproduced", "cold")


def planted(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Planted bugs; all without names.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    time: Annotated[float, typer.Option("--time", min=1, help="Seconds at most for each campaign.")] = 600.0,
    workers: WorkersOption = 0,
    seed: SeedOption = 1,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Campaigns a bug, with seeds from --seed on.")] = 1,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results are kept.")] = Path(
        "findings/planted"
    ),
    json_file: JsonOption = None,
    strict: StrictOption = False,
    no_coverage: NoCoverageOption = False,
    mutators: MutatorsOption = Choice.BOTH,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="With coverage, without it, and with native mutators only, side by side."),
    ] = False,
    preserving: Annotated[
        bool, typer.Option("--preserving", help="Patches that change nothing instead: nothing must be found.")
    ] = False,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="No campaigns: which oracles see the stored program of each bug.")
    ] = False,
    release: ReleaseOption = False,
    again: Annotated[bool, typer.Option("--again", help="Do not use results of earlier runs.")] = False,
) -> None:
    """Fuzz kernels with a deliberate bug, and tell which invariant caught it and how soon.

    An interrupted series goes on where it stopped. Exit code 1 if a bug was not caught, or if a patch that
    changes nothing gave a finding; with --matrix, if nothing sees a stored program.
    """
    from fuzz.planted import PlantedSettings

    if compare and (no_coverage or mutators is not Choice.BOTH):
        raise InputError("--compare: runs all ways of guidance; leave out --no-coverage and --mutators")
    settings = PlantedSettings(
        load_config(config),
        out / ("release" if release else "debug"),
        seconds=time,
        workers=worker_count(workers),
        release=release,
        strict=strict,
        coverage=not no_coverage,
        mutators=mutators,
    )
    first = seed or secrets.randbelow(1 << 31) + 1
    numbers = range(first, first + seeds)
    if matrix:
        _matrix(names or [], settings, json_file)
    elif preserving:
        _preserving(names or [], settings, numbers, json_file, again=again)
    else:
        _planted(names or [], settings, numbers, json_file, again=again, compare=compare)


def _planted(
    names: Sequence[str],
    settings: PlantedSettings,
    seeds: Sequence[int],
    json_file: Path | None,
    *,
    again: bool,
    compare: bool,
) -> None:
    from fuzz import planted_series as series

    bugs = series.select(names)
    modes = series.compared_modes(settings) if compare else [settings]
    results: list[PlantedResult] = []

    def done(result: PlantedResult, kept: bool) -> None:
        results.append(result)
        say(f"{result.name}, {result.mode}, seed {result.seed}: {_verdict(result)}{_KEPT if kept else ''}")

    interrupted = False
    try:
        series.run_series(bugs, modes, seeds, done, again=again)
    except KeyboardInterrupt:
        interrupted = True
    say()
    if compare:
        table(*series.comparison_rows(results))
        for line in series.comparison_lines(results):
            say(line)
    elif len(seeds) > 1:
        table(series.SUMMARY_HEADERS, series.summary_rows(results))
    else:
        table(HEADERS, [_row(result) for result in results])
    if json_file is not None:
        write_json(json_file, [vars(result) for result in results])
    _end(interrupted, len(bugs) * len(modes) * len(seeds) - len(results), [not result.caught for result in results])


def _matrix(names: Sequence[str], settings: PlantedSettings, json_file: Path | None) -> None:
    from fuzz import planted_matrix
    from fuzz.planted_series import select

    bugs = select(names)
    with working(f"{len(bugs)} kernels"):
        sights = planted_matrix.measure(bugs, settings.config, release=settings.release)
    table(planted_matrix.HEADERS, planted_matrix.rows(sights))
    say()
    table(planted_matrix.ALONE_HEADERS, planted_matrix.alone_rows(sights))
    if json_file is not None:
        write_json(json_file, planted_matrix.as_data(sights))
    _end(False, 0, [not sight.oracles for sight in sights.values()])


def _preserving(
    names: Sequence[str], settings: PlantedSettings, seeds: Sequence[int], json_file: Path | None, *, again: bool
) -> None:
    from dataclasses import replace

    from fuzz.planted import PreservingResult, run_preserving
    from fuzz.progress import Progress
    from harness.build.planted import preserving_patches

    known = {patch.name: patch for patch in preserving_patches()}
    for name in names:
        if name not in known:
            raise InputError(f"no preserving patch '{name}'; there are: {', '.join(known)}")
    results: list[PreservingResult] = []
    interrupted = False
    try:
        for name in names or known:
            for seed in seeds:
                place = settings.directory / "preserving" / f"seed-{seed}"
                with Progress(f"{name}, seed {seed}") as progress:
                    own = replace(settings, seed=seed, directory=place)
                    result, kept = run_preserving(known[name], own, progress.watch, again=again)
                results.append(result)
                verdict = ", ".join(result.findings) or "nothing was found"
                say(f"{name}, seed {seed}: {verdict}{_KEPT if kept else ''}")
    except KeyboardInterrupt:
        interrupted = True
    say()
    rows = [
        (result.name, str(result.seed), str(result.executions), f"{result.seconds:.1f}", ", ".join(result.findings))
        for result in results
    ]
    table(("preserving patch", "seed", "executions", "seconds", "findings (none must be)"), rows)
    if json_file is not None:
        write_json(json_file, [vars(result) for result in results])
    _end(interrupted, len(names or known) * len(seeds) - len(results), [bool(result.findings) for result in results])


_KEPT = " (result of an earlier run)"


def _end(interrupted: bool, left: int, wrong: Sequence[bool]) -> None:
    """The exit code, and what is left to do."""
    if interrupted:
        say(f"{left} campaigns are left; the same command goes on with them")
        raise typer.Exit(INTERRUPTED)
    if any(wrong):
        raise typer.Exit(FOUND)


def _verdict(result: PlantedResult) -> str:
    if result.caught:
        return f"caught by {result.invariant} after {result.executions} executions, {result.seconds:.1f} s"
    return f"NOT caught (expected {result.expected_invariant})"


def _row(result: PlantedResult) -> tuple[str, ...]:
    return (
        result.name,
        "yes" if result.caught else f"NO (expected {result.expected_invariant})",
        result.invariant or "-",
        str(result.executions),
        f"{result.seconds:.1f}",
        "-" if result.minimised_calls is None else str(result.minimised_calls),
        result.reproduced,
        result.reproduced_cold,
    )
