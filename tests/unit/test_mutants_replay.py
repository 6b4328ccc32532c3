# SPDX-License-Identifier: BSD-2-Clause
"""In which order programs are tried, and what is made of what they show."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fuzz.mutants import replay as module
from fuzz.mutants.replay import AT_START, beginnings, replay, telling_first
from fuzz.mutants.variations import variations
from harness.errors import InputError, MachineLost
from harness.findings.signature import Symptom
from harness.programs.encodings import Decoder, records
from harness.programs.population import SLOT_TYPES
from harness.protocol import CALL_BYTES, RESULT, CallState
from tests.unit.programs_support import interface


class Machine:
    """An executor and a judge: a program's first byte is its call, the next one its error, then what it shows."""

    def __init__(self, shows: dict[bytes, list[Any]] | None = None) -> None:
        self.shows = shows or {}
        self.ran: list[bytes] = []
        self.replaced = 0

    def run(self, program: bytes) -> Any:
        results = np.zeros(len(program) // CALL_BYTES, RESULT)
        results["state"], results["error"] = CallState.DONE, program[1]
        return SimpleNamespace(results=results)

    def replace(self, reason: str) -> None:
        self.replaced += 1

    def judge(self, program: bytes) -> Any:
        self.ran.append(program)
        shown = self.shows.get(program, [])
        if shown and shown[0] is None:
            raise MachineLost("gone")
        return SimpleNamespace(symptoms=tuple(shown))

    def judge_start(self) -> Any:
        return SimpleNamespace(symptoms=tuple(self.shows.get(b"", [])))


def program(call: int, error: int, number: int = 0) -> bytes:
    return bytes([call, error, number]).ljust(CALL_BYTES, b"\0")


def shown(name: str) -> Symptom:
    kind = "violation" if not name.startswith("hang") else name
    return Symptom(kind, name if kind == "violation" else "", "tcb", f"{name} is wrong")


def test_each_call_of_a_program_is_the_last_one_of_a_beginning() -> None:
    a, b, c = (program(number, 0) for number in (1, 2, 3))
    assert beginnings({"one": a + b + c, "two": a + b, "three": a + c}) == {"one, 1 calls of it": a}
    assert list(beginnings({"one": a + b + c}).values()) == [a, a + b]


def test_programs_with_new_answers_come_first() -> None:
    interface: Any = SimpleNamespace(calls=["Copy", "Move"])
    machine: Any = Machine()
    programs = {
        "a": program(0, 3),
        "b": program(0, 3, 1),
        "c": program(1, 3),
        "d": program(0, 4),
        "e": program(1, 3, 1),
    }
    assert list(telling_first(machine, interface, programs)) == ["a", "c", "d", "b", "e"]


def run(machine: Any, programs: dict[str, bytes], *, start: bool = False) -> Any:
    return replay(machine, machine, programs, float("inf"), start=start)


def test_all_oracles_are_named_the_first_one_first() -> None:
    one, two, three = (program(0, 0, number) for number in range(3))
    machine = Machine({two: [shown("no_mloop"), shown("mdb_cte_at")], three: [shown("answers"), shown("no_mloop")]})
    found = run(machine, {"one": one, "two": two, "three": three})
    assert found.oracles == ["no_mloop", "mdb_cte_at", "answers"]
    assert (found.program, found.detail, found.executions) == ("two", "no_mloop is wrong", 2)


def test_the_machine_as_it_parks_is_judged_before_any_program() -> None:
    found = run(Machine({b"": [shown("world_is_inherited")]}), {"one": program(0, 0)}, start=True)
    assert found.program == AT_START and found.executions == 1


def test_a_hang_counts_only_if_it_repeats() -> None:
    class Slow(Machine):
        def judge(self, program: bytes) -> Any:
            first = program not in self.ran
            verdict = super().judge(program)
            return verdict if first else SimpleNamespace(symptoms=())

    data = program(0, 0)
    assert not run(Slow({data: [shown("hang-kernel")]}), {"one": data}).found
    assert run(Machine({data: [shown("hang-kernel")]}), {"one": data}).oracles == ["hang-kernel"]


def test_a_lost_machine_is_replaced_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOSSES", 2)
    lost = {f"{number}": program(0, 0, number) for number in range(3)}
    machine = Machine({data: [None] for data in list(lost.values())[:2]})
    assert not run(machine, lost).found and machine.replaced == 2
    with pytest.raises(MachineLost):
        run(Machine({data: [None] for data in lost.values()}), lost)


def test_an_entry_of_the_choice_that_names_nothing_is_refused() -> None:
    from fuzz.mutants.run import MutantSettings, candidates

    settings: Any = MutantSettings(None, None, files=("cnodes.c",))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"--files cnodes\.c: no such file; there are: src/object/cnode\.c"):
        candidates(None, settings)  # type: ignore[arg-type]


def test_variations_replace_one_selector_of_an_invocation_at_a_time() -> None:
    table = interface()
    names = [call.name for call in table.calls]
    rows = [bytes([names.index(name)]).ljust(CALL_BYTES, b"\x01") for name in ("CNode_Delete", "Yield", "CNode_Delete")]
    made = variations(table, [b"".join(rows)])
    assert made and all(name.startswith("CNode_Delete varied") for name in made)
    every = [row for program in made.values() for row in records(program)]
    assert len(set(every)) == len(every)
    calls = [row for row in every if row[0] == rows[0][0]]
    for row in calls:
        differs = [offset for offset in range(CALL_BYTES) if row[offset] != rows[0][offset]]
        assert len(differs) <= 2 and max(differs) - min(differs) <= 1 and differs[0] >= 2
    assert len(calls) >= len(SLOT_TYPES) - 2, "the target is of each type that does not wait for a thread"
    short = [row for row in every if row[0] != rows[0][0]]
    decoded = [Decoder(table).decode(row)[0] for row in short]
    assert {table.calls[call.call].name for call in decoded} == {"Call"}
    assert sorted(call.info & 0x7F for call in decoded) == list(range(table.call("CNode_Delete").words))
    assert {call.info >> 12 for call in decoded} == {table.call("CNode_Delete").label}
