# SPDX-License-Identifier: BSD-2-Clause
"""Judging what a program changed finds what judging everything finds, after whatever program on whatever kernel."""

from __future__ import annotations

import os

import pytest

from harness.build.planted import planted_bugs
from tests.incremental.compare import Summary, on_kernel

PROGRAMS = int(os.environ.get("BOTHWORLDS_INCREMENTAL_PROGRAMS", "200"))
"""On the kernel as it is; half as many on each of the others."""
BUGS = {bug.name: bug for bug in planted_bugs()}
BREAKING = ("swap_reads_links_too_early", "used_reply_cap_stays", "unmapped_table_copied")
"""Planted bugs that break derivation, threads and address spaces."""


def test_both_judge_alike_on_the_kernel_as_it_is() -> None:
    summary = Summary()
    on_kernel(None, PROGRAMS, 1, summary)
    assert not summary.disagreements and not summary.violations, summary.text()
    # Nearly all states are recognised: otherwise this would be the whole check under another name.
    assert summary.left <= PROGRAMS // 20, summary.text()


@pytest.mark.parametrize("name", BREAKING)
def test_both_judge_alike_where_invariants_are_broken(name: str) -> None:
    summary = Summary()
    on_kernel(BUGS[name], PROGRAMS // 2, 2, summary)
    assert not summary.disagreements, summary.text()
    assert summary.violations, summary.text()
