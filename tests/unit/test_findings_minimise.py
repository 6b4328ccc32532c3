# SPDX-License-Identifier: BSD-2-Clause
"""A program with fewer calls: those that stay do what they did, and filing finds the shortest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import protocol
from harness.errors import MachineLost
from harness.findings.filing import Filer
from harness.findings.judge import Judge, Verdict
from harness.findings.minimise import subset
from harness.findings.signature import Symptom
from harness.programs.encodings import Decoder
from harness.programs.program import Program
from tests.unit.programs_support import interface

SYMPTOM = Symptom("violation", "valid_untyped", "untyped_cap")


@settings(max_examples=200)
@given(data=st.binary(min_size=64, max_size=320), choices=st.data())
def test_calls_that_stay_take_the_same_slots(data: bytes, choices: st.DataObject) -> None:
    table = interface()
    program = Program.from_bytes(data, table)
    count = len(program.calls)
    kept = choices.draw(st.sets(st.integers(0, count - 1)).map(sorted))
    shorter = subset(program, kept)
    before = Decoder(table).decode(program.to_bytes())
    after = Decoder(table).decode(shorter.to_bytes())
    for new, old in enumerate(kept):
        if any(argument.mode == "raw" for argument in program.calls[old].arguments):
            continue
        if _reaches_raw(program, old):
            continue
        assert after[new] == before[old]


def _reaches_raw(program: Program, index: int) -> bool:
    """Whether a result that a call uses was put where a raw value says: that value belongs to another call."""
    calls, pending, seen = program.calls, [index], set()
    while pending:
        call = calls[pending.pop()]
        for argument in (call.target, *call.arguments):
            if argument is not None and argument.mode == "result" and argument.value not in seen:
                seen.add(argument.value)
                pending.append(argument.value)
                if calls[argument.value].uses_raw:
                    return True
    return False


class Machine:
    """An executor and judge in one: the symptom shows after a Delete if a Retype came before it."""

    def __init__(self, gone_after: int = 1 << 30) -> None:
        self.runs = 0
        self.gone_after = gone_after
        self.replaced = 0

    def judge(self, program: bytes, *, stop_after: int = 0) -> Verdict:
        self.runs += 1
        if self.runs == 3:
            raise MachineLost("lost once")
        names = [call.name for call in Program.from_bytes(program, interface()).calls]
        names = names[:stop_after] if stop_after else names
        shows = "CNode_Delete" in names and "Untyped_Retype" in names[: names.index("CNode_Delete")]
        observation: Any = SimpleNamespace(status="done", results=np.zeros(len(names), protocol.RESULT))
        return Verdict(observation, (SYMPTOM,) if shows and self.runs < self.gone_after else ())

    def replace(self) -> None:
        self.replaced += 1

    @property
    def executor(self) -> Machine:
        return self


def filer(machine: Machine, directory: Path) -> Filer:
    judge: Any = machine
    artefacts: Any = SimpleNamespace()
    assert hasattr(Judge, "judge")
    return Filer(judge, artefacts, interface(), directory)


def program_of(*names: str) -> bytes:
    index = interface().index
    return b"".join(bytes((index[name],)) + bytes(protocol.CALL_BYTES - 1) for name in names)


def test_a_program_is_reduced_to_what_it_takes(tmp_path: Path) -> None:
    machine = Machine()
    calls = ("Yield", "Untyped_Retype", "Yield", "CNode_Copy", "Load", "CNode_Delete", "Yield", "CNode_Delete")
    reduced = filer(machine, tmp_path).reduce(program_of(*calls) + b"rest", SYMPTOM)
    names = [call.name for call in Program.from_bytes(reduced.program, interface()).calls]
    assert names == ["Untyped_Retype", "CNode_Delete"]
    assert str(reduced.signature) == "valid_untyped:untyped_cap:CNode_Delete"
    assert reduced.first_call == 1 and reduced.repeatable
    assert machine.replaced == 1, "a machine that is lost on the way is replaced"


def test_what_does_not_show_again_is_kept_as_it_is(tmp_path: Path) -> None:
    program = program_of("Yield", "Untyped_Retype", "CNode_Delete")
    reduced = filer(Machine(gone_after=0), tmp_path).reduce(program, SYMPTOM)
    assert reduced.program == program and not reduced.repeatable
    assert str(reduced.signature) == "valid_untyped:untyped_cap:-"


@pytest.mark.parametrize("gone_after", [2, 6, 9])
def test_a_symptom_that_comes_and_goes_does_not_break_filing(tmp_path: Path, gone_after: int) -> None:
    reduced = filer(Machine(gone_after=gone_after), tmp_path).reduce(
        program_of("Yield", "Untyped_Retype", "Yield", "CNode_Delete"), SYMPTOM
    )
    assert not reduced.repeatable
