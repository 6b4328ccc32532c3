# SPDX-License-Identifier: BSD-2-Clause
"""Tonight beside the last complete night: findings, coverage by function, calls that succeed, speed.

The two nights may have run different kernels, so nothing is compared by address: findings by config
and signature, coverage by function name, calls by label.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fuzz.nightly.record import (
    CampaignRecord,
    Comparison,
    CoverageTotal,
    Difference,
    FunctionChange,
    Functions,
    Night,
    Retried,
    SpeedChange,
)

Key = tuple[str, str]
"""Config and signature: what makes a finding of two nights the same."""
ALIKE = 0.1
"""Coverage and calls of a build are compared only if it made at least this share of the last night's executions."""
MINIMUM_EXECUTIONS = 1000
"""A campaign that made fewer in one of the nights says nothing about speed."""


@dataclass
class Open:
    """A finding that shows in a night."""

    kernels: set[str] = field(default_factory=set)
    message: str = ""
    note: str = ""
    path: str = ""
    calls: int | None = None
    reproduced: str = ""
    only_kept: bool = True
    """Seen only by trying kept findings again: it was known before anything was compared."""

    def difference(self, key: Key) -> Difference:
        """As a line of the comparison."""
        config, signature = key
        return Difference(
            signature=signature, config=config, kernels=sorted(self.kernels), message=self.message, note=self.note,
            path=self.path, calls=self.calls, reproduced=self.reproduced,
        )  # fmt: skip


def open_findings(night: Night) -> dict[Key, Open]:
    """All that shows in a night: by trying again, and in campaigns."""
    found: dict[Key, Open] = {}
    for retry in night.retried:
        build = night.builds.get(retry.build)
        if build is None or retry.state not in (Retried.STILL_THERE, Retried.CHANGED):
            continue
        for signature in retry.shown:
            one = found.setdefault((build.config, signature), Open())
            one.kernels.add(build.kernel)
            one.message = one.message or retry.finding_message
            one.path = one.path or retry.path
            if signature != retry.signature:
                one.note, one.only_kept = f"was {retry.signature}", False
            elif retry.origin != "kept":
                one.only_kept = False
    for finding in night.findings:
        build = night.builds.get(finding.build)
        if build is None:
            continue
        one = found.setdefault((build.config, finding.signature), Open())
        one.kernels.add(build.kernel)
        # A finding of tonight's build is the better one to look at.
        one.message, one.path, one.calls = finding.message, finding.path, finding.calls
        if finding.reproduced:
            cold = f", cold {finding.reproduced_cold}" if finding.reproduced_cold else ""
            one.reproduced = finding.reproduced + cold
        one.only_kept = False
    return found


def fixed_keys(night: Night) -> set[Key]:
    """Findings that were tried again and show nothing, on none of the builds."""
    keys = {
        (night.builds[retry.build].config, retry.signature)
        for retry in night.retried
        if retry.state in (Retried.FIXED, Retried.CHANGED) and retry.build in night.builds
    }
    return keys - open_findings(night).keys()


def compare(night: Night, last: Night | None, *, slower_below: float) -> Comparison:
    """What has changed since `last`; without one everything that shows is new, except for kept findings."""
    result = Comparison(with_night=last.night if last else None)
    _compare_findings(result, night, last)
    alike = {name for name in night.builds if last is not None and _alike(name, night, last)}
    for name in night.functions:
        before = last.functions.get(name) if last is not None and name in alike else None
        _compare_functions(result, name, night.functions[name], before)
    for campaign in night.campaigns:
        if campaign.executions:
            result.speed.append(_speed(campaign, last, slower_below))
    if last is not None:
        for name in sorted(alike):
            lost, gained = _labels(name, night, last)
            if lost:
                result.labels_lost[name] = lost
            if gained:
                result.labels_gained[name] = gained
    return result


def _alike(build: str, night: Night, last: Night) -> bool:
    """Whether a build was executed often enough, beside the last night, for what was reached to be compared."""
    counts = [sum(c.executions for c in one.campaigns if c.build == build) for one in (night, last)]
    return min(counts) > 0 and counts[0] >= ALIKE * counts[1]


def _compare_findings(result: Comparison, night: Night, last: Night | None) -> None:
    tonight = open_findings(night)
    before = open_findings(last) if last else {}
    gone = fixed_keys(night)
    was_fixed = fixed_keys(last) if last else set()
    for key, one in sorted(tonight.items()):
        if key in before:
            result.still_there.append(one.difference(key))
        elif one.only_kept and key not in was_fixed:
            one.note = one.note or "kept"
            result.still_there.append(one.difference(key))
        else:
            if not one.note and (key in was_fixed or _is_known(night, key)):
                one.note = "back again"
            result.new.append(one.difference(key))
    for key, one in sorted(before.items()):
        if key in tonight:
            continue
        again = next((r for r in night.retried if r.signature == key[1] and _config(night, r.build) == key[0]), None)
        one.path, one.note, one.reproduced = (again.path if again else ""), "", ""
        if again is not None and again.state is Retried.CHANGED:
            one.note = f"shows as {', '.join(again.shown)} now"
        elif again is not None and again.message:
            one.note = again.message
        (result.fixed if key in gone else result.not_judged).append(one.difference(key))


def _is_known(night: Night, key: Key) -> bool:
    """Whether a finding was among those that were tried again."""
    return any(
        r.signature == key[1] and _config(night, r.build) == key[0] for r in night.retried if r.origin == "known"
    )


def _config(night: Night, build: str) -> str | None:
    return night.builds[build].config if build in night.builds else None


def _compare_functions(result: Comparison, build: str, after: Functions, before: Functions | None) -> None:
    for component, functions in after.items():
        earlier = before.get(component) if before else None
        total = CoverageTotal(
            build=build,
            component=component,
            before=_total(earlier) if earlier else None,
            after=_total(functions),
        )
        result.coverage.append(total)
        if earlier is None:
            continue
        for name in sorted({*functions, *earlier}):
            old, new = _blocks(earlier.get(name)), _blocks(functions.get(name))
            share_old, share_new = _share(old), _share(new)
            if share_old == share_new or (not old[0] and not new[0]):
                continue
            change = FunctionChange(build=build, component=component, function=name, before=old, after=new)
            (result.gained if share_new > share_old else result.lost).append(change)
    for changes in (result.gained, result.lost):
        changes.sort(key=lambda change: (-abs(change.after[0] - change.before[0]), change.function, change.build))


def _blocks(counts: dict[str, int] | None) -> tuple[int, int]:
    """(hit, blocks that can be hit) of a function; (0, 0) for one that the build does not have."""
    if counts is None:
        return 0, 0
    return counts.get("hit", 0), counts.get("total", 0) - counts.get("unreachable", 0)


def _total(functions: dict[str, dict[str, int]]) -> tuple[int, int]:
    parts = [_blocks(counts) for counts in functions.values()]
    return sum(hit for hit, _ in parts), sum(total for _, total in parts)


def _share(blocks: tuple[int, int]) -> float:
    return blocks[0] / blocks[1] if blocks[1] else 0.0


def _speed(campaign: CampaignRecord, last: Night | None, slower_below: float) -> SpeedChange:
    same = next(
        (c for c in (last.campaigns if last else []) if (c.build, c.target) == (campaign.build, campaign.target)), None
    )
    comparable = same is not None and min(same.executions, campaign.executions) >= MINIMUM_EXECUTIONS
    before = round(same.rate, 1) if same is not None and comparable else None
    slower = bool(before) and campaign.rate < slower_below * (before or 0.0)
    after = round(campaign.rate, 1)
    return SpeedChange(build=campaign.build, target=campaign.target, before=before, after=after, slower=slower)


def succeeded(night: Night, build: str) -> dict[str, tuple[int, int]]:
    """For each label: calls attempted and succeeded in all campaigns of a build."""
    counts: dict[str, tuple[int, int]] = {}
    for campaign in night.campaigns:
        if campaign.build != build:
            continue
        for result in campaign.results:
            for label, entry in result.get("labels", {}).items():
                attempted, done = counts.get(label, (0, 0))
                counts[label] = attempted + entry.get("attempted", 0), done + entry.get("succeeded", 0)
    return counts


def _labels(build: str, night: Night, last: Night) -> tuple[list[str], list[str]]:
    """Labels that succeeded in one of the nights only: those that no longer do, and those that do now."""
    before, after = succeeded(last, build), succeeded(night, build)
    if not before or not after:
        return [], []
    lost = [label for label, (_, done) in before.items() if done and not after.get(label, (0, 0))[1]]
    gained = [label for label, (_, done) in after.items() if done and not before.get(label, (0, 0))[1]]
    return sorted(lost), sorted(gained)
