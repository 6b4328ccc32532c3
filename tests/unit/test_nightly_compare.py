# SPDX-License-Identifier: BSD-2-Clause
"""Two nights beside each other: what is new, fixed, still there; coverage, calls and speed; and the exit code."""

from __future__ import annotations

import pytest

from fuzz.nightly import verdict
from fuzz.nightly.compare import compare
from fuzz.nightly.plan import FailOn
from fuzz.nightly.record import Caught, Comparison, Difference, Night, NightState, Ran, Retried
from tests.unit.nightly_support import DEBUG, RELEASE, campaign, caught, found, functions, night, retried

A, B, C = "a:frame:Map", "b:cnode:Copy", "c:tcb:Delete"
NEW_ONLY = (FailOn.NEW,)


def between(tonight: Night, last: Night | None) -> Comparison:
    return compare(tonight, last, slower_below=0.7)


def names(rows: list[Difference]) -> list[str]:
    return [row.signature for row in rows]


def test_in_the_first_night_everything_is_new() -> None:
    result = between(night(findings=[found(A)]), None)
    assert names(result.new) == [A] and result.with_night is None
    (row,) = result.new
    assert (row.config, row.kernels, row.calls) == ("spanning-el1", ["debug"], 2)
    assert row.path == f"campaigns/{DEBUG}-invocations/{A}" and row.message == f"message of {A}"


def test_what_was_found_before_and_shows_again_is_still_there() -> None:
    last = night("0001-2026-03-14", findings=[found(A), found(B)])
    tonight = night(retried=[retried(A), retried(B)], findings=[found(B), found(C)])
    result = between(tonight, last)
    assert names(result.new) == [C] and names(result.still_there) == [A, B] and not result.fixed
    assert result.with_night == "0001-2026-03-14"


def test_what_was_found_before_and_shows_no_more_is_fixed() -> None:
    last = night(findings=[found(A)])
    result = between(night(retried=[retried(A, Retried.FIXED)]), last)
    assert names(result.fixed) == [A] and not result.new and not result.still_there and not result.not_judged


def test_a_finding_that_was_not_found_again_is_not_fixed_by_that() -> None:
    last = night(findings=[found(A)])
    result = between(night(), last)
    assert names(result.not_judged) == [A] and not result.fixed
    lost = between(night(retried=[retried(A, Retried.NOT_JUDGED, message="the machine failed")]), last)
    assert names(lost.not_judged) == [A] and lost.not_judged[0].note == "the machine failed"


def test_a_finding_of_both_kernels_is_one_finding_and_fixed_only_on_both() -> None:
    last = night(findings=[found(A), found(A, build=RELEASE)])
    half = between(night(retried=[retried(A, Retried.FIXED), retried(A, build=RELEASE)]), last)
    assert names(half.still_there) == [A] and half.still_there[0].kernels == ["release"] and not half.fixed
    both = between(night(retried=[retried(A, Retried.FIXED), retried(A, Retried.FIXED, build=RELEASE)]), last)
    assert names(both.fixed) == [A] and both.fixed[0].kernels == ["debug", "release"]


def test_a_changed_signature_is_new_and_says_what_it_was() -> None:
    last = night(findings=[found(A)])
    result = between(night(retried=[retried(A, Retried.CHANGED, B)]), last)
    assert names(result.new) == [B] and result.new[0].note == f"was {A}"
    assert names(result.fixed) == [A] and result.fixed[0].note == f"shows as {B} now"


def test_a_finding_that_comes_back_is_new() -> None:
    last = night(retried=[retried(A, Retried.FIXED)])
    result = between(night(retried=[retried(A)]), last)
    assert names(result.new) == [A] and result.new[0].note == "back again"
    kept = between(
        night(retried=[retried(A, origin="kept")]), night(retried=[retried(A, Retried.FIXED, origin="kept")])
    )
    assert names(kept.new) == [A] and kept.new[0].note == "back again"


def test_a_kept_finding_that_shows_is_no_news() -> None:
    result = between(night(retried=[retried(A, origin="kept")]), None)
    assert names(result.still_there) == [A] and not result.new
    stays_fixed = between(night(retried=[retried(A, Retried.FIXED, origin="kept")]), night())
    assert not stays_fixed.fixed and not stays_fixed.new


def test_coverage_is_compared_by_function_whatever_the_builds() -> None:
    last = night(
        campaigns=[campaign()],
        functions={DEBUG: functions(gone=(2, 4), grown=(1, 4), same=(3, 3), removed=(2, 2), split=(2, 4))},
    )
    tonight = night(
        campaigns=[campaign()],
        functions={
            DEBUG: functions(gone=(0, 4), grown=(3, 4), same=(3, 3), added=(1, 9), split=(4, 8)),
            RELEASE: functions(f=(1, 2)),
        },
    )
    result = between(tonight, last)
    assert [(c.function, c.before, c.after) for c in result.gained] == [
        ("grown", (1, 4), (3, 4)),
        ("added", (0, 0), (1, 9)),
    ]
    assert [(c.function, c.before, c.after) for c in result.lost] == [
        ("gone", (2, 4), (0, 4)),
        ("removed", (2, 2), (0, 0)),
    ]
    totals = {(t.build, t.component): (t.before, t.after) for t in result.coverage}
    assert totals == {(DEBUG, "kernel"): ((10, 17), (11, 28)), (RELEASE, "kernel"): (None, (1, 2))}


def test_blocks_that_cannot_be_reached_do_not_count() -> None:
    table = functions(f=(2, 5))
    table["kernel"]["f"]["unreachable"] = 3
    result = between(night(functions={DEBUG: table}), None)
    assert result.coverage[0].after == (2, 2)


def test_calls_that_no_longer_succeed_are_named() -> None:
    last = night(campaigns=[campaign(labels={"Copy": (5, 3), "Map": (4, 1), "Yield": (2, 0)})])
    tonight = night(
        campaigns=[
            campaign(labels={"Copy": (5, 0), "Map": (4, 0), "Yield": (2, 1)}),
            campaign(target="smc", labels={"Map": (1, 1)}),
        ]
    )
    result = between(tonight, last)
    assert result.labels_lost == {DEBUG: ["Copy"]} and result.labels_gained == {DEBUG: ["Yield"]}
    assert not between(night(campaigns=[]), last).labels_lost, "nothing was run: that says nothing about calls"


def test_a_campaign_that_hardly_ran_has_lost_nothing() -> None:
    labels = {"Copy": (5, 3)}
    last = night(campaigns=[campaign(labels=labels)], functions={DEBUG: functions(f=(2, 4))})
    hardly = campaign(executions=400, labels={"Copy": (1, 0)})
    result = between(night(campaigns=[hardly], functions={DEBUG: functions(f=(1, 4))}), last)
    assert not result.lost and not result.labels_lost and result.coverage[0].before is None


def test_speed_is_compared_where_there_is_enough_of_it() -> None:
    last = night(campaigns=[campaign(rate=1000), campaign(target="smc", rate=1000, executions=10)])
    result = between(night(campaigns=[campaign(rate=600), campaign(target="smc", rate=10)]), last)
    assert [(s.target, s.before, s.after, s.slower) for s in result.speed] == [
        ("invocations", 1000.0, 600.0, True),
        ("smc", None, 10.0, False),
    ]
    assert not between(night(campaigns=[campaign(rate=900)]), last).speed[0].slower


def judged(tonight: Night, last: Night | None = None, fail_on: tuple[FailOn, ...] = NEW_ONLY) -> tuple[int, str]:
    tonight.comparison = between(tonight, last)
    tonight.state = verdict.state_of(tonight)
    return verdict.exit_code(tonight, fail_on), verdict.headline(tonight, fail_on)


def test_the_exit_code_follows_the_plan() -> None:
    assert judged(night(campaigns=[campaign()], planted=[caught("x")])) == (0, "nothing new")
    assert judged(night(findings=[found(A)])) == (1, "1 new finding")
    last = night(findings=[found(A)])
    assert judged(night(retried=[retried(A)]), last)[0] == 0
    code, words = judged(night(retried=[retried(A)]), last, (FailOn.STILL_THERE,))
    assert (code, words) == (1, "1 finding is still there")
    assert judged(night(findings=[found(A)]), None, ()) == (0, "1 new finding")
    slow = night(campaigns=[campaign(rate=100)])
    assert judged(slow, night(campaigns=[campaign()]), (FailOn.SLOWER,)) == (1, "1 campaign is slower")
    less = night(campaigns=[campaign()], functions={DEBUG: functions(f=(1, 4))})
    more = night(campaigns=[campaign()], functions={DEBUG: functions(f=(2, 4))})
    assert judged(less, more, (FailOn.LESS_COVERED,))[0] == 1
    quiet = night(campaigns=[campaign(labels={"Copy": (1, 0)})])
    assert judged(quiet, night(campaigns=[campaign(labels={"Copy": (1, 1)})]), (FailOn.NO_LONGER_SUCCEED,))[0] == 1


def test_a_blind_harness_is_louder_than_findings() -> None:
    code, words = judged(night(findings=[found(A)], planted=[caught("world_lost_on_remap", Caught.MISSED)]))
    assert code == 3 and words.startswith("THE HARNESS IS BLIND: it did not see world_lost_on_remap")
    control = retried(A, Retried.FIXED, origin="kept", name="badge", control=False)
    assert judged(night(retried=[control])) == (3, words.replace("world_lost_on_remap", "badge"))


def test_a_missed_campaign_against_a_planted_bug_is_chance() -> None:
    assert judged(night(planted=[caught("x"), caught("x", Caught.MISSED, how="campaign")])) == (0, "nothing new")


@pytest.mark.parametrize("state", [Ran.FAILED, Ran.NOT_RUN, Ran.INTERRUPTED])
def test_what_could_not_be_done_makes_a_night_incomplete(state: Ran) -> None:
    tonight = night(campaigns=[campaign(state=state, message="QEMU was lost")])
    code, words = judged(tonight)
    assert code == 3 and tonight.state is NightState.INCOMPLETE and "NOT COMPLETE: 1 things" in words


def test_an_interrupted_night_says_so() -> None:
    tonight = night(state=NightState.INTERRUPTED, findings=[found(A)])
    tonight.comparison = between(tonight, None)
    assert verdict.exit_code(tonight, NEW_ONLY) == 130
    assert verdict.headline(tonight, NEW_ONLY) == "interrupted; until then: 1 new finding"
