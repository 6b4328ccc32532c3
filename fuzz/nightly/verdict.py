# SPDX-License-Identifier: BSD-2-Clause
"""What a night comes to: one line, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence

from fuzz.nightly.plan import FailOn
from fuzz.nightly.record import Caught, Night, NightState, Ran, Retried
from fuzz.nightly.words import shortened

NOTHING_NEW = 0
FOUND = 1
FAILED = 3
INTERRUPTED = 130


def reasons(night: Night, fail_on: Sequence[FailOn]) -> list[str]:
    """What there is of that which makes the exit code 1, in words."""
    compared = night.comparison
    lost = sum(len(labels) for labels in compared.labels_lost.values())
    slower = sum(one.slower for one in compared.speed)
    found = {
        FailOn.NEW: (len(compared.new), "new finding", "new findings"),
        FailOn.STILL_THERE: (len(compared.still_there), "finding is still there", "findings are still there"),
        FailOn.NO_LONGER_SUCCEED: (lost, "call no longer succeeds", "calls no longer succeed"),
        FailOn.LESS_COVERED: (len(compared.lost), "function is covered less", "functions are covered less"),
        FailOn.SLOWER: (slower, "campaign is slower", "campaigns are slower"),
    }
    words = []
    for name in FailOn:
        count, one, many = found[name]
        if name in fail_on and count:
            words.append(f"{count} {one if count == 1 else many}")
    return words


def failures(night: Night) -> list[str]:
    """What could not be done, so that the night says less than it should."""
    words = [
        f"campaign {one.target} on {one.build}: {one.state}{': ' + shortened(one.message) if one.message else ''}"
        for one in night.campaigns
        if one.state is not Ran.DONE
    ]
    words += [
        f"planted bug {one.name} could not be tried: {one.message}"
        for one in night.planted
        if one.state is Caught.ERROR
    ]
    words += [
        f"finding {one.name} on {one.build} could not be tried: {one.message}"
        for one in night.retried
        if one.state is Retried.NOT_JUDGED and one.message
    ]
    words += [f"finding {one.name} {one.control_message}" for one in night.retried if one.control_message]
    return words


def state_of(night: Night) -> NightState:
    """How a night that came to its end ended."""
    return NightState.INCOMPLETE if night.is_blind or failures(night) else NightState.COMPLETE


def exit_code(night: Night, fail_on: Sequence[FailOn]) -> int:
    """130 if it was interrupted; 3 if it is blind or not complete; 1 for what the plan says; else 0."""
    if night.state in (NightState.INTERRUPTED, NightState.RUNNING):
        return INTERRUPTED
    if night.state is NightState.INCOMPLETE:
        return FAILED
    return FOUND if reasons(night, fail_on) else NOTHING_NEW


def headline(night: Night, fail_on: Sequence[FailOn]) -> str:
    """One line that says what a night comes to."""
    if night.is_blind:
        missed = [one.name for one in night.blind] + [one.name for one in night.blind_findings]
        return f"THE HARNESS IS BLIND: it did not see {', '.join(missed)}; that nothing was found says nothing"
    new = len(night.comparison.new)
    words = reasons(night, fail_on)
    if new and not any("new finding" in word for word in words):
        words.insert(0, f"{new} new findings" if new > 1 else "1 new finding")
    text = ", ".join(words) or "nothing new"
    if night.state is NightState.INTERRUPTED:
        return f"interrupted; until then: {text}"
    if missing := failures(night):
        return f"{text}; NOT COMPLETE: {len(missing)} things could not be done"
    return text
