# SPDX-License-Identifier: BSD-2-Clause
"""The command `mutants`: how much of what can be wrong with the kernel is noticed?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuzz.commands.options import FOUND, INTERRUPTED, JsonOption, worker_count, write_json
from harness.commands.options import ConfigOption, ReleaseOption
from harness.commands.output import say, table
from harness.configs import DEFAULT_CONFIG, load_config

if TYPE_CHECKING:
    from fuzz.mutants.result import MutantResult
    from fuzz.mutants.score import Summary


def mutants(
    config: ConfigOption = DEFAULT_CONFIG,
    count: Annotated[
        int, typer.Option("--count", min=1, help="Mutants to judge that compile to other code and boot.")
    ] = 240,
    time: Annotated[float, typer.Option("--time", min=1, help="Seconds at most for each, building not counted.")] = 300,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Chooses the mutants.")] = 1,
    files: Annotated[
        list[str] | None, typer.Option("--files", metavar="PART", help="Only files whose name has this part.")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option("--name", metavar="PART", help="Only mutants whose name has this part.")
    ] = None,
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            "--corpus", metavar="DIR", help="Programs of earlier campaigns, which each mutant is judged with."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results are kept.")] = Path(
        "findings/mutants"
    ),
    json_file: JsonOption = None,
    parallel: Annotated[int, typer.Option("--parallel", min=0, help="Mutants at the same time; 0: one a core.")] = 0,
    release: ReleaseOption = False,
    again: Annotated[bool, typer.Option("--again", help="Do not use results of earlier runs.")] = False,
) -> None:
    """Make small mechanical changes of the kernel, and tell which are noticed, by what, and how soon.

    Only what says by itself that something is wrong counts: invariants, outcomes, answers. An interrupted series goes
    on where it stopped. Exit code 1 if a mutant survives without an explanation, or a given one is wrong.
    """
    from fuzz.mutants.run import MutantSettings
    from fuzz.mutants.score import Summary
    from fuzz.mutants.series import run_series
    from fuzz.mutants.survivors import read_explanations

    explanations = read_explanations()
    settings = MutantSettings(
        load_config(config),
        out / ("release" if release else "debug"),
        count=count,
        seed=seed,
        seconds=time,
        release=release,
        files=tuple(files or ()),
        names=tuple(names or ()),
        corpora=tuple(corpus or ()),
        parallel=worker_count(parallel),
    )
    seen: list[MutantResult] = []

    def done(result: MutantResult, kept: bool) -> None:
        seen.append(result)
        say(f"{len(seen)}. {result.name}: {_fate(result)}{' (result of an earlier run)' if kept else ''}")
        say(f"     {result.file}:{result.line}: {result.change}", "dim")

    try:
        results, order = run_series(settings, done, again=again)
    except KeyboardInterrupt:
        say(f"{len(seen)} mutants are done; the same command goes on with the others")
        raise typer.Exit(INTERRUPTED) from None
    summary = Summary(results, explanations)
    _show(summary, len(order))
    if json_file is not None:
        write_json(json_file, summary.to_json(len(order)))
    unexplained = [result for result in summary.explained.open if result.key not in explanations]
    if unexplained or summary.explained.contradicted:
        raise typer.Exit(FOUND)


def _fate(result: MutantResult) -> str:
    from fuzz.mutants.result import Fate

    if result.fate is Fate.KILLED:
        return (
            f"killed by {', '.join(result.oracles)} ({result.stage}, {result.seconds:.1f} s, "
            f"{result.executions} executions)"
        )
    if result.fate is Fate.SURVIVED:
        return f"SURVIVED {result.seconds:.0f} s, {result.executions} executions"
    return f"{result.fate}, not counted" + (f": {result.detail}" if result.detail else "")


def _show(summary: Summary, candidates: int) -> None:
    from fuzz.mutants.score import GROUP_HEADERS, ORACLE_HEADERS, group_rows, oracle_rows

    say()
    for title, scores in (
        ("file", summary.by(lambda result: result.file)),
        ("operator", summary.by(lambda result: result.operator)),
    ):
        table((title, *GROUP_HEADERS[1:]), group_rows(scores))
        say()
    table(ORACLE_HEADERS, oracle_rows(summary.oracles()))
    say()
    for stage, (number, seconds) in summary.stages().items():
        say(f"{stage}: {number} killed, median after {seconds:.1f} s")
    say(", ".join(f"{number} {fate}" for fate, number in summary.fates().items()) + f"; of {candidates} candidates")
    _show_survivors(summary)
    equivalent = len(summary.explained.equivalent)
    say(
        f"score: {summary.score.killed} of {summary.score.of} killed, {summary.score}"
        + (f" ({equivalent} that are argued to be equivalent are not counted)" if equivalent else "")
    )


def _show_survivors(summary: Summary) -> None:
    explained = summary.explained
    for result in (*explained.open, *explained.equivalent):
        entry = summary.explanations.get(result.key)
        say()
        say(f"{result.name}: {entry.verdict if entry else 'NOT EXPLAINED'}", "" if entry else "red")
        say(f"  {result.file}:{result.line}: {result.change}")
        if entry is not None:
            say(f"  {entry.reason}")
    for result in explained.contradicted:
        say()
        say(f"{result.name}: said to be equivalent, and killed by {', '.join(result.oracles)}: {result.detail}", "red")
    say()
