# SPDX-License-Identifier: BSD-2-Clause
"""What a campaign shows while it runs: live on a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.table import Table
from rich.text import Text

from fuzz.messages import Phase
from fuzz.state import Campaign
from fuzz.summary import summary
from harness.commands.output import console, say

__all__ = ["Progress", "summary"]

REDRAW_SECONDS = 0.25
LINE_SECONDS = ((60.0, 5.0), (600.0, 20.0), (float("inf"), 60.0))
"""Until so many seconds after the beginning, seconds between two lines in a pipe."""


class Progress:
    """Shows a campaign; its `watch` is what `run_campaign` calls."""

    def __init__(self, what: str) -> None:
        self.campaign: Campaign | None = None
        """The campaign that was shown last."""
        self._what = what
        self._next = 0.0
        self._shown: set[str] = set()
        self._troubles: dict[str, int] = {}
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the live display away."""
        if self._live is not None:
            self._live.stop()

    def watch(self, campaign: Campaign) -> None:
        """Show what is new."""
        if campaign is not self.campaign:
            self.campaign, self._troubles = campaign, {}
        for signature in campaign.findings.keys() - self._shown:
            self._shown.add(signature)
            finding = campaign.findings[signature]
            self._print(Text(f"finding after {finding.first_seen_seconds:.1f} s: {signature}", "bold red"))
            self._print(Text(f"  {finding.message}"))
        for trouble in campaign.notes:
            # Again when it has happened 2, 4, 8, ... times as often.
            if trouble.count >= 2 * self._troubles.get(trouble.what, 0.5):
                self._troubles[trouble.what] = trouble.count
                self._print(Text(str(trouble), "yellow"))
        now = time.monotonic()
        if now < self._next:
            return
        if self._live is None:
            self._next = now + next(pause for until, pause in LINE_SECONDS if campaign.seconds < until)
            say(", ".join([f"{self._what}: {clock(campaign)}", *(text for _, text in facts(campaign))]))
        else:
            self._next = now + REDRAW_SECONDS
            self._live.update(self._table(campaign), refresh=True)

    def _table(self, campaign: Campaign) -> Table:
        grid = Table.grid(padding=(0, 2))
        grid.add_row(Text(self._what, "bold"), Text(clock(campaign)))
        for name, text in facts(campaign):
            grid.add_row(Text(name, "dim"), Text(text))
        return grid

    @staticmethod
    def _print(text: Text) -> None:
        console.print(text, soft_wrap=True)


def duration(seconds: float) -> str:
    """A duration for people: `7 s`, `3:05 min`, `2:00:07 h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def clock(campaign: Campaign) -> str:
    """How long it has run, and how long it will."""
    text, limit = duration(campaign.seconds), campaign.settings.seconds
    if limit:
        text += f" of {duration(limit)}, {duration(max(0.0, limit - campaign.seconds))} left"
    return text


def facts(campaign: Campaign) -> list[tuple[str, str]]:
    """What is going on: names and values, the most interesting first."""
    totals = campaign.totals
    rows: list[tuple[str, str]] = []
    if phases := _phases(campaign):
        rows.append(("now", phases))
    if totals.executions:
        rows.append(("speed", f"{totals.executions} executions, {_speed(campaign)}"))
        share = totals.succeeded / totals.calls if totals.calls else 0.0
        rows.append(("calls", f"{share:.0%} of calls succeed"))
    if blocks := _blocks(campaign):
        rows.append(("coverage", blocks))
    if campaign.settings.keep_corpus:
        rows.append(("corpus", _corpus(campaign)))
    count = len(campaign.findings)
    rows.append(("findings", f"{count} finding{'' if count == 1 else 's'}"))
    if campaign.restarts or totals.machines:
        rows.append(("restarts", f"{totals.machines.total()} machines and {campaign.restarts} workers replaced"))
    return rows


def _phases(campaign: Campaign) -> str:
    phases: dict[str, list[int]] = {}
    for member in campaign.members:
        phase = member.phase if member.phase is not Phase.REDUCING else f"{member.phase} ({member.detail})"
        phases.setdefault(phase, []).append(member.number)
    if len(phases) == 1:
        return next(iter(phases))
    return "; ".join(f"worker {' and '.join(map(str, numbers))} {phase}" for phase, numbers in phases.items())


def _speed(campaign: Campaign) -> str:
    mean = f"{campaign.rate:.0f}/s on average"
    before, last = campaign.recent(), campaign.moments[-1] if campaign.moments else None
    if before is None or last is None or last.time <= before.time:
        return mean
    return f"{(last.executions - before.executions) / (last.time - before.time):.0f}/s now, {mean}"


def _blocks(campaign: Campaign) -> str:
    parts = [f"{name} {part['blocks_hit']}/{part['blocks_total']}" for name, part in campaign.coverage().items()]
    before = campaign.recent()
    if parts and before is not None and before is not campaign.moments[-1]:
        last = campaign.moments[-1]
        parts.append(f"{last.blocks - before.blocks} blocks new in {last.time - before.time:.0f} s")
    return ", ".join(parts)


def _corpus(campaign: Campaign) -> str:
    text = f"{campaign.programs} programs in the corpus, {campaign.programs_added} new"
    if campaign.programs_added:
        text += f", the last {duration(campaign.seconds - campaign.last_new)} ago"
    return text
