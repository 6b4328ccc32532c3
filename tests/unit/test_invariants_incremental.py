# SPDX-License-Identifier: BSD-2-Clause
"""Judging everything by what changed finds what the whole check finds, on every state of the other tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit import (
    test_invariants_kernel,
    test_invariants_objects,
    test_invariants_threads,
    test_invariants_world,
)
from tests.unit.kernel_state_support import Machine
from tests.unit.test_invariants_changes import Seen

MODULES = (test_invariants_world, test_invariants_kernel, test_invariants_objects, test_invariants_threads)
CAUGHT = {f"{module.__name__}: {name}": case[1] for module in MODULES for name, case in module.CAUGHT.items()}
LEGAL = {f"{module.__name__}: {name}": change for module in MODULES for name, change in module.LEGAL.items()}


class Judged:
    """One machine made by hand, which is changed, judged by both, and put back."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.checker = self.machine.checker()
        assert self.checker.follows
        self.memory = self.machine.memory.bytes.copy()
        self.report = self.machine.report.copy()

    def after(self, change: Any) -> tuple[set[str], bool]:
        """What both judgements say (they must agree), and whether what changed was enough."""
        machine, checker = self.machine, self.checker
        try:
            change(machine)
            seen = Seen(machine, self.memory)
            fast = checker.check_changed(seen, everything=True)
            full = checker.check(machine.memory, seen)
        finally:
            machine.memory.bytes[:] = self.memory
            machine.report[:] = self.report
        assert {str(one) for one in fast.violations} == {str(one) for one in full.violations}
        assert set(fast.judged) == set(full.judged)
        return {one.invariant for one in full.violations}, not fast.whole


@pytest.fixture(scope="module")
def both() -> Judged:
    """The machine that all tests of this file share."""
    return Judged()


@pytest.mark.parametrize("name", CAUGHT)
def test_what_is_broken_is_left_to_the_whole_check(name: str, both: Judged) -> None:
    found, fast = both.after(CAUGHT[name])
    assert found and not fast


def test_most_legal_states_are_recognised(both: Judged) -> None:
    """A state that is legal for one family may break another one's rule: then both say so."""
    judged = {name: both.after(change) for name, change in LEGAL.items()}
    legal = [name for name, (found, _) in judged.items() if not found]
    left = [name for name in legal if not judged[name][1]]
    assert len(legal) > len(LEGAL) * 3 // 4 and len(left) < len(legal) // 3, left
