# SPDX-License-Identifier: BSD-2-Clause
"""Programs get plainer and never another bug's: what `holds` asks for stays, and the work ends."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.findings.minimise import Budget, Limits
from harness.findings.simplify import plainer_values, resolve, smaller, weight
from harness.programs.encodings import Decoder
from harness.programs.program import Program
from tests.unit.programs_support import interface

NO_LIMIT = Limits(seconds=60, attempts=20_000)


def parse(text: str) -> Program:
    return Program.from_yaml(text, interface())


def shown(program: Program) -> list[str]:
    return program.to_yaml().splitlines()


@settings(max_examples=60)
@given(data=st.binary(min_size=32, max_size=192))
def test_where_everything_will_do_the_plainest_is_left(data: bytes) -> None:
    program = Program.from_bytes(data, interface())
    left = smaller(program, lambda _: True, Budget(NO_LIMIT))
    assert len(left.calls) == 1
    (call,) = left.calls
    assert call.name == program.calls[-1].name and call.victim == 0 and call.raw == 0
    for argument, parameter in zip(call.arguments, interface().call(call.name).parameters, strict=True):
        if parameter.kind != "slot":
            assert argument.value == 0 and argument.number == 0


@settings(max_examples=60)
@given(data=st.binary(min_size=32, max_size=160))
def test_what_the_last_call_does_stays(data: bytes) -> None:
    """The symptom here is the last call as the victim performs it, to the bit."""
    program = Program.from_bytes(data, interface())
    decoder = Decoder(interface())
    wanted = decoder.decode(program.to_bytes())[-1]
    asked: list[Program] = []

    def holds(candidate: Program) -> bool:
        asked.append(candidate)
        return decoder.decode(candidate.to_bytes())[-1] == wanted

    left = smaller(program, holds, Budget(NO_LIMIT))
    assert decoder.decode(left.to_bytes())[-1] == wanted
    assert weight(left)[0] <= weight(program)[0]
    assert len(asked) < 2000, "it ends by itself"
    assert smaller(left, holds, Budget(NO_LIMIT)) == left, "there is nothing left to do"


@settings(max_examples=60)
@given(data=st.binary(min_size=32, max_size=160), attempts=st.integers(0, 30))
def test_the_limit_is_kept(data: bytes, attempts: int) -> None:
    asked = 0

    def holds(_: Program) -> bool:
        nonlocal asked
        asked += 1
        return asked % 3 == 0

    smaller(Program.from_bytes(data, interface()), holds, Budget(Limits(attempts=attempts)))
    assert asked <= attempts


def test_slots_are_said_by_name_or_as_the_result_of_a_call() -> None:
    program = parse(
        """
        calls:
        - {call: CNode_Copy, target: "cnode:0", with: {dest_index: "free:7", src_index: "page-4k:0", rights: all}}
        - {call: ARM_Page_Unmap, target: "free:7"}
        """
    )
    decoder = Decoder(interface())

    def unmaps_what_was_copied(candidate: Program) -> bool:
        decoded = decoder.decode(candidate.to_bytes())
        return len(decoded) == 2 and decoded[1].target == decoded[0].words[0]

    lines = shown(smaller(program, unmaps_what_was_copied, Budget(NO_LIMIT)))
    assert "  target: cnode" in lines
    assert "  target: result:0" in lines, lines
    assert "dest_index: free:0" in lines[4]


def test_raw_values_go_towards_zero_and_stay_what_matters() -> None:
    program = parse("calls:\n- {call: Load, target: 0xdeadbeef12345678}\n")

    def page_matters(candidate: Program) -> bool:
        (call,) = Decoder(interface()).decode(candidate.to_bytes())
        return call.target >> 12 == 0xDEADBEEF12345678 >> 12

    assert "raw:0xdeadbeef12345000" in smaller(program, page_matters, Budget(NO_LIMIT)).to_yaml()
    assert "raw:" not in smaller(program, lambda _: True, Budget(NO_LIMIT)).to_yaml()


@given(value=st.integers(0, (1 << 64) - 1))
def test_plainer_values_are_plainer(value: int) -> None:
    for other in plainer_values(value):
        assert 0 <= other < 1 << 64
        assert (other.bit_count(), other) < (value.bit_count(), value)


@settings(max_examples=100)
@given(data=st.binary(min_size=32, max_size=160))
def test_slots_resolve_as_the_decoder_says(data: bytes) -> None:
    program = Program.from_bytes(data, interface())
    for index, (call, decoded) in enumerate(zip(program.calls, Decoder(interface()).decode(data), strict=True)):
        if call.target is None or interface().call(call.name).target != "slot":
            continue
        number = resolve(program, index, call.target)
        assert number is None or number == decoded.target
