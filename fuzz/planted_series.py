# SPDX-License-Identifier: BSD-2-Clause
"""Many campaigns against planted bugs, and what they say together: by bug, seed and way of guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import median

from fuzz.mutators import Choice
from fuzz.planted import PlantedResult, PlantedSettings, mode_name, run_planted
from fuzz.progress import Progress
from harness.build.planted import PlantedBug, planted_bugs
from harness.errors import InputError

Done = Callable[[PlantedResult, bool], None]
"""Called after each campaign with its result, and whether that was kept from an earlier run."""


def select(names: Sequence[str]) -> list[PlantedBug]:
    """The planted bugs of those names, all of them without names; raises InputError for one that is not there."""
    bugs = planted_bugs()
    known = {bug.name: bug for bug in bugs}
    for name in names:
        if name not in known:
            raise InputError(f"no planted bug '{name}'; there are: {', '.join(known)}")
    return [known[name] for name in names] if names else bugs


def compared_modes(settings: PlantedSettings) -> list[PlantedSettings]:
    """The ways of guidance that are compared: all there is, without coverage, with native mutators only."""
    return [
        replace(settings, coverage=True, mutators=Choice.BOTH),
        replace(settings, coverage=False, mutators=Choice.BOTH),
        replace(settings, coverage=True, mutators=Choice.NATIVE),
    ]


def run_series(
    bugs: Sequence[PlantedBug],
    modes: Sequence[PlantedSettings],
    seeds: Sequence[int],
    done: Done | None = None,
    *,
    again: bool = False,
) -> list[PlantedResult]:
    """A campaign for each bug, seed and mode; a mode's `directory` is where its results lie, one directory a seed."""
    results = []
    for bug in bugs:
        for seed in seeds:
            for mode in modes:
                place = mode.directory / mode_name(mode) / f"seed-{seed}"
                settings = replace(mode, seed=seed, directory=place)
                with Progress(f"{bug.name}, {mode_name(mode)}, seed {seed}") as progress:
                    result, kept = run_planted(bug, settings, progress.watch, again=again)
                results.append(result)
                if done is not None:
                    done(result, kept)
    return results


@dataclass(frozen=True)
class Summary:
    """The campaigns of one bug in one mode; seconds and executions are infinite where it was not caught."""

    results: tuple[PlantedResult, ...]

    @property
    def caught(self) -> int:
        """In how many of them it was caught."""
        return sum(result.caught for result in self.results)

    @property
    def seconds(self) -> float:
        """Median seconds until it was caught."""
        return median(result.seconds if result.caught else inf for result in self.results)

    @property
    def executions(self) -> float:
        """Median executions until it was caught."""
        return median(result.executions if result.caught else inf for result in self.results)

    @property
    def invariants(self) -> list[str]:
        """What caught it."""
        return sorted({result.invariant for result in self.results if result.caught and result.invariant})

    @property
    def each(self) -> str:
        """The seconds of each campaign, `-` where it was not caught."""
        return " ".join(f"{result.seconds:.1f}" if result.caught else "-" for result in self.results)


def summaries(results: Iterable[PlantedResult]) -> dict[str, dict[str, Summary]]:
    """By name of the bug, then by mode, in the order in which they first come."""
    sorted_: dict[str, dict[str, list[PlantedResult]]] = {}
    for result in results:
        sorted_.setdefault(result.name, {}).setdefault(result.mode, []).append(result)
    return {name: {mode: Summary(tuple(part)) for mode, part in modes.items()} for name, modes in sorted_.items()}


def number(value: float, digits: int = 1) -> str:
    """A median for people: a number, or `-` for never."""
    return "-" if value == inf else f"{value:.{digits}f}"


def summary_rows(results: Iterable[PlantedResult]) -> list[tuple[str, ...]]:
    """Rows of the table for one mode and several seeds: see SUMMARY_HEADERS."""
    rows: list[tuple[str, ...]] = []
    for name, modes in summaries(results).items():
        for mode, summary in modes.items():
            rows.append(
                (
                    name,
                    mode,
                    f"{summary.caught} of {len(summary.results)}",
                    ", ".join(summary.invariants) or f"NO (expected {summary.results[0].expected_invariant})",
                    number(summary.executions, 0),
                    number(summary.seconds),
                    summary.each,
                )
            )
    return rows


SUMMARY_HEADERS = ("planted bug", "guided by", "caught", "invariant", "median executions", "median s", "each s")


def comparison_rows(results: Iterable[PlantedResult]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(headers, rows) of the table that puts the modes side by side: caught, median executions, median seconds."""
    by_name = summaries(results)
    modes = list(dict.fromkeys(mode for parts in by_name.values() for mode in parts))
    rows = []
    for name, parts in by_name.items():
        cells = []
        for mode in modes:
            summary = parts.get(mode)
            cells.append("" if summary is None else _cell(summary))
        rows.append((name, *cells))
    return ("planted bug", *modes), rows


def _cell(summary: Summary) -> str:
    caught = f"{summary.caught}/{len(summary.results)}"
    if summary.executions == inf:
        return f"{caught}  -"
    return f"{caught}  {number(summary.executions, 0)} ex. {number(summary.seconds)} s"


def comparison_lines(results: Iterable[PlantedResult]) -> list[str]:
    """The comparison in words, whichever way it goes: each mode against the first one, by median executions."""
    by_name = summaries(results)
    modes = list(dict.fromkeys(mode for parts in by_name.values() for mode in parts))
    lines = []
    for mode in modes:
        parts = [both[mode] for both in by_name.values() if mode in both]
        campaigns = sum(len(part.results) for part in parts)
        lines.append(f"{mode}: {sum(part.caught for part in parts)} of {campaigns} campaigns caught their bug")
    for mode in modes[1:]:
        pairs = [(both[modes[0]], both[mode]) for both in by_name.values() if mode in both and modes[0] in both]
        fewer = sum(first.executions < other.executions for first, other in pairs)
        more = sum(first.executions > other.executions for first, other in pairs)
        lines.append(
            f"{modes[0]} against {mode}: fewer executions on {fewer} of {len(pairs)} bugs, more on {more}"
            f", the same or never on {len(pairs) - fewer - more}"
        )
    return lines
