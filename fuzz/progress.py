# SPDX-License-Identifier: BSD-2-Clause
"""What a campaign shows while it runs and when it is over: live on a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.text import Text

from fuzz.campaign import Campaign
from harness.commands.output import command_line, console, say, table

LINE_SECONDS = 5.0
"""Between two lines in a pipe."""
REDRAW_SECONDS = 0.2


class Progress:
    """Shows a campaign; its `watch` is what `run_campaign` calls."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._started = time.monotonic()
        self._next = 0.0
        self._shown: set[str] = set()
        self._troubles = 0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def watch(self, campaign: Campaign) -> None:
        """Show what is new."""
        for signature in campaign.findings.keys() - self._shown:
            self._shown.add(signature)
            finding = campaign.findings[signature]
            self._print(Text(f"finding after {finding.first_seen_seconds:.1f} s: {signature}", "bold red"))
            self._print(Text(f"  {finding.message}"))
        for trouble in campaign.troubles[self._troubles :]:
            self._print(Text(trouble, "yellow"))
        self._troubles = len(campaign.troubles)
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (LINE_SECONDS if self._live is None else REDRAW_SECONDS)
        line = self._line(campaign, now - self._started)
        if self._live is None:
            say(line)
        else:
            self._live.update(Text(line), refresh=True)

    def _line(self, campaign: Campaign, seconds: float) -> str:
        totals = campaign.totals
        if not totals.executions:
            return f"{self._what}: {seconds:5.1f} s, booting"
        share = totals.succeeded / totals.calls if totals.calls else 0.0
        parts = [
            f"{self._what}: {seconds:5.1f} s",
            f"{totals.executions} executions ({campaign.rate:.0f}/s)",
            f"{share:.0%} of calls succeed",
            *(f"{name} {part['blocks_hit']}/{part['blocks_total']}" for name, part in campaign.coverage().items()),
            f"{len(campaign.findings)} findings",
        ]
        return ", ".join(parts)

    @staticmethod
    def _print(text: Text) -> None:
        console.print(text, soft_wrap=True)


def summary(campaign: Campaign) -> None:
    """Print what a campaign did and what it found."""
    totals = campaign.totals
    say()
    settings = campaign.settings
    say(f"{settings.target}: {campaign.seconds:.1f} s, {settings.workers} workers, seed {settings.seed}")
    say(f"  {totals.executions} executions of {totals.calls} calls, {campaign.rate:.0f} a second")
    for name, part in campaign.components().items():
        share = f"{part.share:.1%}; {part.unreachable} more cannot be reached"
        say(f"  {name}: {part.hit} of {part.reachable} reachable blocks ({share})")
    for wrong in campaign.wrong_coverage():
        say(f"  hit, although the list says that it cannot be reached: {wrong}", "yellow")
    if totals.outcomes:
        ends = ", ".join(f"{name} {count}" for name, count in totals.outcomes.most_common())
        done = totals.executions - sum(totals.outcomes.values())
        say(f"  programs ended: done {done}, {ends}")
    say(f"  {totals.whole_checks} whole checks, {totals.audits} audits of all memory")
    rows = []
    for name, counts in totals.labels(campaign.labels).items():
        attempted, succeeded = counts["attempted"], counts["succeeded"]
        share = f"{succeeded / attempted:.0%}" if attempted else "-"
        rows.append((name, str(attempted), str(succeeded), share))
    if rows:
        say()
        table(("call", "attempted", "succeeded", "share"), rows)
    say()
    if not campaign.findings:
        say("Nothing was found.", "green")
        return
    say(f"{len(campaign.findings)} findings:", "bold red")
    for finding in campaign.findings.values():
        say(f"  {finding.signature}: {finding.count} times, {finding.calls} calls, in {finding.path}", "red")
        say(f"    {finding.message}")
        say(f"    {command_line('repro', finding.path)}")
