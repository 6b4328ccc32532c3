# SPDX-License-Identifier: BSD-2-Clause
"""Commands that fuzzing adds to `bothworlds`: fuzz, corpus, planted, bench."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuzz.mutators import Choice
from fuzz.targets import DEFAULT_TARGET, load_target
from harness.commands.options import ConfigOption, ExtraPatchOption, ReleaseOption, built, extra_patches
from harness.commands.output import say, table, working
from harness.configs import DEFAULT_CONFIG, load_config
from harness.errors import InputError, OutputError

if TYPE_CHECKING:
    from fuzz.planted import PlantedResult
    from harness.execution.executor import Executor

FOUND = 1
INTERRUPTED = 130

app = typer.Typer()
corpus_app = typer.Typer(help="Work on corpora: directories of programs.", no_args_is_help=True)
app.add_typer(corpus_app, name="corpus")

JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result there as JSON.")]
WorkersOption = Annotated[int, typer.Option("--workers", min=0, help="Processes with a machine each; 0: one a core.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Start of the random numbers; 0: choose one.")]
MutatorsOption = Annotated[Choice, typer.Option("--mutators", help="libFuzzer's own, those that know calls, or both.")]
NoCoverageOption = Annotated[bool, typer.Option("--no-coverage", help="Do not count blocks: blind fuzzing.")]


def write_json(path: Path, data: Any) -> None:
    """Write JSON to a file; raises OutputError if that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"--json {path}: cannot be written: {error.strerror or error}") from error


def _cores(workers: int) -> int:
    from fuzz.campaign import usable_cores

    return workers or len(usable_cores())


@app.command()
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
    check_every: Annotated[
        int, typer.Option("--check-every", min=1, help="Judge by all invariants every N executions.")
    ] = 500,
    no_coverage: NoCoverageOption = False,
    mutators: MutatorsOption = Choice.BOTH,
    release: ReleaseOption = False,
) -> None:
    """Fuzz a target: programs chosen by coverage, each judged. Exit code 1 if something was found."""
    from fuzz.campaign import CampaignSettings, prepare_directory, run_campaign
    from fuzz.progress import Progress, summary

    load_target(target)
    prepare_directory(out)
    artefacts = built(config, release=release, extra=extra_patch)
    settings = CampaignSettings(
        artefacts,
        out,
        target=target,
        seconds=time,
        runs=runs,
        workers=_cores(workers),
        seed=seed or secrets.randbelow(1 << 31) + 1,
        check_every=check_every,
        coverage=not no_coverage,
        mutators=mutators,
        extra_patches=tuple(extra_patches(extra_patch)),
    )
    with Progress(target) as progress:
        campaign = run_campaign(settings, progress.watch)
    summary(campaign)
    if json_file is not None:
        write_json(json_file, campaign.to_json())
    if campaign.findings:
        raise typer.Exit(FOUND)
    if campaign.interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command()
def planted(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Planted bugs; all without names.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    time: Annotated[float, typer.Option("--time", min=1, help="Seconds at most for each bug.")] = 600.0,
    workers: WorkersOption = 0,
    seed: SeedOption = 1,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results are kept.")] = Path(
        "findings/planted"
    ),
    json_file: JsonOption = None,
    no_coverage: NoCoverageOption = False,
    mutators: MutatorsOption = Choice.BOTH,
    release: ReleaseOption = False,
    again: Annotated[bool, typer.Option("--again", help="Do not use results of earlier runs.")] = False,
) -> None:
    """Fuzz kernels with a deliberate bug, and tell which invariant caught it and how soon.

    An interrupted series goes on where it stopped. Exit code 1 if a bug was not caught.
    """
    from fuzz.planted import PlantedSettings, run_all, select
    from fuzz.progress import Progress

    bugs = select(names or [])
    settings = PlantedSettings(
        load_config(config),
        out,
        seconds=time,
        workers=_cores(workers),
        seed=seed or secrets.randbelow(1 << 31) + 1,
        release=release,
        coverage=not no_coverage,
        mutators=mutators,
    )
    with Progress("planted") as progress:

        def done(result: PlantedResult, kept: bool) -> None:
            say(f"{result.name}: {_row(result)[1]}{' (result of an earlier run)' if kept else ''}")

        results = run_all(bugs, settings, progress.watch, done, again=again)
    say()
    headers = ("planted bug", "caught", "invariant", "executions", "seconds", "calls", "reproduced", "cold")
    table(headers, [_row(result) for result in results])
    if json_file is not None:
        write_json(json_file, [vars(result) for result in results])
    if not all(result.caught for result in results):
        raise typer.Exit(FOUND)


def _row(result: PlantedResult) -> tuple[str, ...]:
    caught = "yes" if result.caught else f"NO (expected {result.expected_invariant})"
    return (
        result.name,
        caught,
        result.invariant or "-",
        str(result.executions),
        f"{result.seconds:.1f}",
        "-" if result.minimised_calls is None else str(result.minimised_calls),
        result.reproduced,
        result.reproduced_cold,
    )


@app.command()
def bench(
    config: ConfigOption = DEFAULT_CONFIG,
    json_file: JsonOption = None,
    seconds: Annotated[float, typer.Option("--time", min=0.2, help="Seconds for each measurement.")] = 3.0,
    release: ReleaseOption = False,
) -> None:
    """Measure the speed of every part, each beside a baseline of the same run."""
    from fuzz.bench import measure_all

    artefacts = built(config, release=release)
    metrics = measure_all(artefacts, seconds, watch=lambda name: say(f"measuring {name}", "dim"))
    say()
    table(
        ("metric", "value", "unit", "target", "baseline", "ratio", "what the baseline is"),
        [metric.row() for metric in metrics],
    )
    if json_file is not None:
        write_json(json_file, [metric.to_json() for metric in metrics])


def _executor(config: str, *, coverage: bool = True) -> Executor:
    from harness.execution.executor import Executor

    return Executor(built(config), coverage=coverage)


@corpus_app.command("merge")
def corpus_merge(
    into: Annotated[Path, typer.Argument(metavar="CORPUS", help="Corpus that is added to.")],
    sources: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Corpora that are taken from.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Add to a corpus those programs of others that reach more than it does."""
    from fuzz import corpus

    with _executor(config) as executor:
        added, looked = corpus.merge(executor, into, sources)
    say(f"{into}: {added} of {looked} programs reach something new and were added")


@corpus_app.command("minimise")
def corpus_minimise(
    directory: Annotated[Path, typer.Argument(metavar="CORPUS", help="Corpus to make smaller.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Remove from a corpus the programs that reach nothing which shorter ones do not."""
    from fuzz import corpus

    if not directory.is_dir():
        raise InputError(f"{directory}: no such corpus; give a directory of programs")
    with _executor(config) as executor:
        kept, there = corpus.minimise(executor, directory)
    say(f"{directory}: {kept} of {there} programs stay")


@corpus_app.command("import")
def corpus_import(
    into: Annotated[Path, typer.Argument(metavar="CORPUS", help="Corpus that is added to.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Programs: YAML, bytes, or directories.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Add programs from files to a corpus."""
    from fuzz import corpus
    from harness.programs.interfaces import Interface

    with working("reading programs"):
        added, read = corpus.import_files(into, files, Interface.load(built(config)))
    say(f"{into}: {added} of {read} programs are new")
