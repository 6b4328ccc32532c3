# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds coverage`: what campaigns did not reach, by function, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.output import say, table, warn

if TYPE_CHECKING:
    from harness.coverage.report import FunctionCoverage, Gap

MISSED = "missed"


def coverage(
    campaigns: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[CAMPAIGN_DIR]...", help="Directories of campaigns; what they hit is added up."),
    ] = None,
    function: Annotated[
        list[str] | None, typer.Option("--function", metavar="NAME", help="Only these functions, with their source.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what cannot be reached, with the reason for each.")
    ] = False,
    lcov: Annotated[Path | None, typer.Option("--lcov", metavar="FILE", help="Write it for genhtml.")] = None,
) -> None:
    """What campaigns did not reach: by function, most missed blocks first, with source lines.

    A function counts as it is written, all inlined copies of it together.
    """
    from harness.coverage.record import load_all
    from harness.coverage.report import by_component

    directories = campaigns or [Path("findings")]
    built, hit = load_all(directories)
    functions = built.by_function(hit)
    if lcov is not None:
        built.write_lcov(lcov, hit, title=directories[0].name, everything=everything)
    chosen = [one for one in functions if not function or one.function in function]
    for name in set(function or ()) - {one.function for one in chosen}:
        warn(f"no function '{name}' can run after boot; coverage names functions as the source does")
    for one in sorted(chosen, key=lambda one: (-len(one.missed), one.component, one.file, one.line)):
        gaps = [gap for gap in one.gaps if everything or function or gap.exclusion is None]
        if gaps:
            _show(one, gaps, built.source.text(one.component, one.file) if function else ())
    for wrong in built.wrong(hit):
        warn(f"hit, although the list says that it cannot be reached: {wrong}")
    say()
    headers = ("component", "hit", "reachable", "share", "missed", "not reachable")
    rows = [
        (name, str(part.hit), str(part.reachable), f"{part.share:.1%}", str(part.reachable - part.hit),
         str(part.unreachable))
        for name, part in by_component(functions).items()
    ]  # fmt: skip
    table(headers, rows)
    reasons = Counter(gap.exclusion.kind.value for one in functions for gap in one.gaps if gap.exclusion is not None)
    say("not reachable: " + (", ".join(f"{kind} {count}" for kind, count in reasons.most_common()) or "nothing"))


def _show(one: FunctionCoverage, gaps: Iterable[Gap], text: tuple[str, ...]) -> None:
    """Print what is missing of a function, one line for each reason and range of source lines."""
    say(f"{one.component} {one.function} ({one.file}:{one.line}): {one.hit} of {one.total - one.unreachable} blocks")
    groups: dict[str, list[Gap]] = {}
    for gap in gaps:
        groups.setdefault(
            f"{gap.exclusion.kind.value}: {gap.exclusion.reason}" if gap.exclusion else MISSED, []
        ).append(gap)
    for reason, members in sorted(groups.items(), key=lambda group: group[0] != MISSED):
        lines = {gap.lines[0]: gap for gap in members}
        only = ranges({gap.lines[0] for gap in members if not gap.copied})
        copied = ranges(lines.keys() - {gap.lines[0] for gap in members if not gap.copied})
        parts = [f"{len(members)} block{'s' if len(members) > 1 else ''}", *([f"lines {only}"] if only else [])]
        if copied:
            callers = sorted({gap.caller for gap in members if gap.copied and gap.caller})
            where = f" into {', '.join(callers[:4])}{', ...' if len(callers) > 4 else ''}" if callers else ""
            parts.append(f"lines {copied} in some of their copies{where}")
        say(f"  {reason}: {'; '.join(parts)}")
        for line in sorted(lines) if text else ():
            say(f"    {line:5} {text[line - 1].rstrip() if line <= len(text) else ''}")


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as people write them: `3-5, 9`."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
