# SPDX-License-Identifier: BSD-2-Clause
"""Every odd state that docs/invariants.md calls legal is one that a test leads to, and the other way round."""

from __future__ import annotations

from pathlib import Path

import yaml

from harness.invariants import two_worlds
from harness.invariants.registry import invariants
from tests.legal_items import DOCUMENT, legal_items
from tests.system.odd_states import ODD_STATES

PROGRAMS = Path(__file__).resolve().parents[1] / "system" / "legal_states.yaml"


def test_every_legal_state_is_led_to() -> None:
    items = legal_items()
    assert {invariant for invariant, _ in items} <= {entry.id for entry in invariants()}
    assert DOCUMENT.read_text().count("\nLegal: ") == len({invariant for invariant, _ in items})
    # Those of a machine with a normal world are tested where there is one (test_two_worlds.py).
    of_two_worlds = {entry.id for entry in invariants([two_worlds.FAMILY])}
    assert {item for item in items if item[0] not in of_two_worlds} == set(ODD_STATES)


def test_their_programs_are_there() -> None:
    programs = yaml.safe_load(PROGRAMS.read_text())
    assert {state.program for state in ODD_STATES.values() if state.program is not None} <= set(programs)
