# SPDX-License-Identifier: BSD-2-Clause
"""What a campaign prints when it is over."""

from __future__ import annotations

from fuzz.state import Campaign, State
from harness.commands.output import command_line, say, table


def summary(campaign: Campaign) -> None:
    """Print what a campaign did and what it found."""
    totals, settings = campaign.totals, campaign.settings
    say()
    workers = f"{settings.workers} worker{'' if settings.workers == 1 else 's'}"
    say(f"{settings.target} on the {settings.kernel} kernel: {campaign.seconds:.1f} s, {workers}, seed {settings.seed}")
    if campaign.state is not State.FINISHED:
        say(f"  it ended before its time: {campaign.reason or campaign.state}", "yellow")
    say(f"  {totals.executions} executions of {totals.calls} calls, {campaign.rate:.0f} a second")
    for name, part in campaign.components().items():
        share = f"{part.share:.1%}; {part.unreachable} more cannot be reached"
        say(f"  {name}: {part.hit} of {part.reachable} reachable blocks ({share})")
    for wrong in campaign.wrong_coverage():
        say(f"  hit, although the list says that it cannot be reached: {wrong}", "yellow")
    outcomes = {name: count for name, count in campaign.outcomes().items() if count}
    if outcomes:
        say("  programs ended: " + ", ".join(f"{name} {count}" for name, count in outcomes.items()))
    say(f"  {totals.whole_checks} whole checks, {totals.audits} audits of all memory")
    if settings.keep_corpus:
        say(
            f"  corpus: {campaign.programs} programs, {campaign.programs_loaded} of them from before, "
            f"in {settings.directory / 'corpus'}"
        )
    _labels(campaign)
    _troubles(campaign)
    _findings(campaign)


def _labels(campaign: Campaign) -> None:
    labels = campaign.totals.labels(campaign.labels, campaign.errors)
    rows = []
    for name, counts in labels.items():
        attempted, succeeded = counts["attempted"], counts["succeeded"]
        share = f"{succeeded / attempted:.0%}" if attempted else "-"
        errors = sorted(counts["errors"].items(), key=lambda item: -item[1])
        rows.append(
            (name, str(attempted), str(succeeded), share, errors[0][0].removeprefix("seL4_") if errors else "-")
        )
    if not rows:
        return
    say()
    table(("call", "attempted", "succeeded", "share", "most frequent error"), rows)
    never = [name for name, counts in labels.items() if not counts["attempted"]]
    failing = [name for name, counts in labels.items() if counts["attempted"] and not counts["succeeded"]]
    if never:
        say(f"never attempted: {', '.join(never)}", "yellow")
    if failing:
        say(f"never succeeded: {', '.join(failing)}", "yellow")


def _troubles(campaign: Campaign) -> None:
    restarts, machines = campaign.restarts, campaign.totals.machines
    if machines:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in machines.most_common())
        say(f"machines replaced: {machines.total()}; why: {reasons}", "dim")
    if not campaign.troubles:
        return
    say()
    say("What went wrong around the software under test:", "yellow")
    for trouble in campaign.troubles:
        say(f"  {trouble.strip()}", "yellow")
    if restarts or machines:
        say(
            f"  In all {machines.total()} machines and {restarts} workers were replaced; "
            f"{campaign.earlier.executions} executions of lost workers are counted above.",
            "yellow",
        )


def _findings(campaign: Campaign) -> None:
    say()
    count = len(campaign.findings)
    if not count:
        say("Nothing was found.", "green")
        return
    say(f"{count} finding{'' if count == 1 else 's'} on the {campaign.settings.kernel} kernel:", "bold red")
    for finding in campaign.findings.values():
        say(f"  {finding.signature}: {finding.count} times, {finding.calls} calls, in {finding.path}", "red")
        say(f"    {finding.message}")
        if finding.path.exists():
            say(f"    {command_line('repro', finding.path)}")
        else:
            say("    its directory is not there; its program:")
            for line in finding.program_yaml.splitlines():
                say(f"      {line}")
