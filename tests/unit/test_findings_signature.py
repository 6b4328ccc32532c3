# SPDX-License-Identifier: BSD-2-Clause
"""Signatures name a bug, and minimising keeps what matters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.findings.minimise import Budget, Limits, remove_items
from harness.findings.signature import Signature, Symptom, failing_function, first_showing, signature_of


def test_a_signature_survives_its_text() -> None:
    signature = signature_of(Symptom("violation", "valid_untyped", "Untyped"), "UntypedRetype")
    assert str(signature) == "valid_untyped:Untyped:UntypedRetype"
    assert Signature.parse(str(signature)) == signature


def test_odd_characters_do_not_break_the_form() -> None:
    signature = signature_of(Symptom("kernel-fault", place="a b:c"), "")
    assert Signature.parse(str(signature)) == signature == Signature("kernel-fault", "a_b_c", "-")


@pytest.mark.parametrize("text", ["", "a:b", "a:b:c:d", "a::c"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        Signature.parse(text)


def test_directory_names_differ_and_are_plain() -> None:
    names = {Signature(*parts).directory_name for parts in (("a", "b", "c"), ("a", "b c", "c"), ("a", "b-c", "c"))}
    assert len(names) == 3 and all("/" not in name and " " not in name for name in names)


def test_symptoms_are_equal_whatever_their_message() -> None:
    assert Symptom("violation", "x", "y", "one", {"a": 1}) == Symptom("violation", "x", "y", "two")


def test_the_first_call_is_found_even_if_the_symptom_goes_away() -> None:
    assert first_showing(lambda k: k in (3, 4), 6) == 3
    assert first_showing(lambda k: False, 6) is None
    assert first_showing(lambda k: True, 6) == 1
    assert first_showing(lambda k: True, 0) is None


def test_the_failing_function_is_not_the_one_that_halts() -> None:
    assert failing_function(["halt", "_assert_fail", "setMRs", "main"]) == "setMRs"
    assert failing_function(["??"]) == "-"


@given(size=st.integers(1, 40), data=st.data())
def test_what_is_needed_stays_and_nothing_else(size: int, data: st.DataObject) -> None:
    needed = data.draw(st.sets(st.integers(0, size - 1))) | {size - 1}
    assert remove_items(range(size), needed.issubset, Budget()) == sorted(needed)


def test_minimising_stops_at_its_limit() -> None:
    asked: list[list[int]] = []

    def never(items: list[int]) -> bool:
        asked.append(items)
        return False

    remove_items(range(100), never, Budget(Limits(attempts=5)))
    assert len(asked) == 5
