# SPDX-License-Identifier: BSD-2-Clause
"""Bytes, programs and YAML are three forms of one thing; guest and host decode alike."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ProgramError
from harness.programs.descriptions import CAPABILITIES, Action
from harness.programs.encodings import Decoder, argument_offset
from harness.programs.interfaces import Interface
from harness.programs.mix import Mix
from harness.programs.population import SLOT_TYPES
from harness.programs.program import RAW, Call, Program, canonical, choice, of_type, result, slot
from harness.protocol import CALL_BYTES, MAXIMUM_CALLS
from tests.unit.programs_support import HostDecoder, interface, small_interface, two_worlds_interface

programs = st.binary(max_size=12 * CALL_BYTES + 5)
interfaces = st.sampled_from([interface, small_interface, two_worlds_interface])


@given(programs, interfaces)
def test_programs_survive_bytes(data: bytes, which: Callable[[], Interface]) -> None:
    program = Program.from_bytes(data, which())
    encoded = program.to_bytes()
    assert len(encoded) == len(data) // CALL_BYTES * CALL_BYTES
    assert Program.from_bytes(encoded, which()) == program
    assert canonical(encoded, which()) == encoded


@given(programs, interfaces)
def test_canonical_bytes_do_the_same(data: bytes, which: Callable[[], Interface]) -> None:
    decoder = Decoder(which())
    assert decoder.decode(canonical(data, which())) == decoder.decode(data)


@given(programs, interfaces)
def test_programs_survive_yaml(data: bytes, which: Callable[[], Interface]) -> None:
    program = Program.from_bytes(data, which())
    again = Program.from_yaml(program.to_yaml(), which())
    assert again.to_bytes() == program.to_bytes()


@given(st.data())
def test_an_edited_byte_changes_one_call(data: st.DataObject) -> None:
    program = bytearray(data.draw(st.binary(min_size=CALL_BYTES, max_size=8 * CALL_BYTES)))
    position = data.draw(st.integers(0, len(program) // CALL_BYTES * CALL_BYTES - 1))
    before = interface().calls, Program.from_bytes(bytes(program), interface()).calls
    program[position] ^= data.draw(st.integers(1, 255))
    after = Program.from_bytes(bytes(program), interface()).calls
    changed = [i for i, (old, new) in enumerate(zip(before[1], after, strict=True)) if old != new]
    assert changed in ([], [position // CALL_BYTES])


def test_the_guest_decodes_every_call_as_the_host_does(tmp_path: Path) -> None:
    generator = random.Random(20240)
    for which in (interface(), small_interface(), two_worlds_interface()):
        directory = tmp_path / str(len(which.calls))
        directory.mkdir()
        guest, host = HostDecoder(which, directory), Decoder(which)
        for _ in range(60):
            data = generator.randbytes(40 * CALL_BYTES + 7)
            np.testing.assert_array_equal(guest.decode_table(data), host.decode_table(data))


def test_results_are_followed_to_where_they_come_from() -> None:
    free = interface().population.of_type(0, SLOT_TYPES.index("free"))
    copy = interface().call("CNode_Copy")

    def made(where: object) -> Call:
        arguments = [choice(0) if p.kind != "slot" else slot(1) for p in copy.parameters]
        return Call("CNode_Copy", 0, slot(1), (where, *arguments[1:]))  # type: ignore[arg-type]

    calls = (
        made(of_type("free", 3)),
        made(result(0)),
        Call("Yield"),
        made(result(1)),
        made(result(2)),
        Call("ARM_Page_Unmap", 0, result(3)),
        Call("ARM_Page_Unmap", 0, result(4)),
    )
    decoded = Decoder(interface()).decode(Program(interface(), calls).to_bytes())
    assert [decoded[i].words[0] for i in (0, 1, 3)] == [free[3]] * 3
    assert decoded[4].words[0] == 0
    assert [decoded[5].target, decoded[6].target] == [free[3], 0]


def test_raw_values() -> None:
    arguments = tuple(RAW if p.name == "x7" else choice(0) for p in interface().call("ARM_SMC_Call").parameters)
    program = Program(interface(), (Call("ARM_SMC_Call", 0, RAW, arguments, 0x1234_5678_9ABC_DEF0),))
    (decoded,) = Decoder(interface()).decode(program.to_bytes())
    assert decoded.target == decoded.words[7] == 0x1234_5678_9ABC_DEF0
    send = Call("Send", 0, slot(1), (RAW, *[choice(0)] * 2, *[slot(0)] * CAPABILITIES, *[choice(0)] * 4))
    with pytest.raises(ProgramError, match="no value of kind 'label'"):
        Program(interface(), (send,)).to_bytes()


def test_messages_of_send_are_bounded() -> None:
    generator = random.Random(5)
    send = interface().index["Send"]
    for _ in range(200):
        row = bytes([send]) + generator.randbytes(CALL_BYTES - 1)
        (decoded,) = Decoder(interface()).decode(row)
        assert decoded.info >> 12 in interface().pools["label"].values
        assert len(decoded.words) == 24
        assert len(decoded.caps) == CAPABILITIES


def test_size_limits() -> None:
    assert Decoder(interface()).decode(bytes(CALL_BYTES * (MAXIMUM_CALLS + 3)))[MAXIMUM_CALLS - 1 :] != []
    assert len(Program.from_bytes(bytes(CALL_BYTES * (MAXIMUM_CALLS + 3)), interface()).calls) == MAXIMUM_CALLS
    with pytest.raises(ProgramError, match="257 calls"):
        Program(interface(), (Call("Yield"),) * 257).to_bytes()
    assert Program.from_bytes(b"", interface()).to_bytes() == b""
    offsets = [argument_offset(i) for i in range(10)]
    assert offsets == [4, 6, 8, 10, 12, 14, 16, 18, 28, 30]


@pytest.mark.parametrize(
    "call",
    [
        Call("Jump"),
        Call("Yield", 7),
        Call("Yield", 0, slot(3)),
        Call("ARM_Page_Unmap"),
        Call("ARM_Page_Unmap", 0, slot(128)),
        Call("ARM_Page_Unmap", 0, choice(0)),
        Call("Load", 0, choice(500)),
        Call("Load", 0, slot(1)),
        Call("Load", 0, RAW, (), 1 << 64),
        Call("CNode_Delete", 0, slot(1)),
    ],
)
def test_programs_that_no_bytes_have(call: Call) -> None:
    with pytest.raises(ProgramError, match=r"call 0 \("):
        Program(interface(), (call,)).to_bytes()


def test_the_interface_survives_its_file() -> None:
    for which in (interface(), small_interface(), two_worlds_interface()):
        again = Interface.from_data(which.to_data())
        assert again.calls == which.calls
        assert dict(again.pools) == dict(which.pools)
        assert again.population.data == which.population.data
        assert again.identity == which.identity
        assert again.population.first_turn_slot == which.population.first_turn_slot


def test_the_mix_has_its_shares() -> None:
    mix = Mix(interface())
    names = [call.name for _ in range(2000) for call in mix.program().calls]
    shares = {call.name: names.count(call.name) / len(names) for call in interface().calls}
    assert shares.pop("Yield") <= 0.05
    assert sum(shares.pop(name) for name in ("Jump", "UndefinedInstruction", "UnknownSystemCall")) <= 0.03
    assert min(shares.values()) >= 0.6 / len(shares)
    assert Mix(interface(), 3).program() == Mix(interface(), 3).program()
    assert all(interface().call(name).action in Action for name in set(names))
