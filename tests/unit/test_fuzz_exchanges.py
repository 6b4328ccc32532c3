# SPDX-License-Identifier: BSD-2-Clause
"""The typed mutators of the normal world: functions with arguments of their kinds, messages and what brings them."""

from __future__ import annotations

from collections import Counter

from fuzz.mutators import TypedMutator
from fuzz.normal_mix import normal_programs
from fuzz.shapes import shapes_of
from fuzz.targets import load_target
from harness.programs.encodings import Decoded, Decoder
from harness.programs.mix import Mix
from harness.programs.normal_calls import DYNAMIC_NAMES, functions
from harness.programs.trusted_messages import Command, load_trusted_services
from tests.unit.programs_support import two_worlds_interface

TABLE = two_worlds_interface()


def mutator(seed: int = 1) -> TypedMutator:
    return TypedMutator(shapes_of(TABLE, load_target("normal-world-smc")), seed=seed, maximum_calls=16)


def programs(count: int) -> list[list[Decoded]]:
    change, decoder, found = mutator(), Decoder(TABLE), []
    data = b""
    for number in range(count):
        data = change(data if number % 6 else b"", 512, 0)
        found.append(decoder.decode(data))
    return found


def test_most_calls_are_the_normal_worlds() -> None:
    calls = Counter(TABLE.calls[call.call].name for program in programs(1500) for call in program)
    assert sum(n for name, n in calls.items() if name.startswith("Normal")) > 0.8 * calls.total()
    assert {call.name for call in TABLE.calls if call.name.startswith("Normal")} <= set(calls)
    assert calls["ARM_SMC_Call"] and calls["Yield"]


def test_messages_are_brought_where_they_lie() -> None:
    message, smc = TABLE.index["NormalMessage"], TABLE.index["NormalSMC"]
    bring, brought, opened = functions()["optee_call_with_arg"], 0, 0
    for program in programs(600):
        for number, call in enumerate(program):
            if call.call == smc and call.words[0] == bring:
                written = [earlier for earlier in program[:number] if earlier.call == message]
                if written and call.words[1:3] == (0, written[-1].target):
                    brought += 1
                    opened += written[-1].words[0] == Command.OPEN_SESSION
    assert brought > 150 and opened > 50


def test_a_session_is_that_of_an_earlier_call() -> None:
    message, latest = TABLE.index["NormalMessage"], DYNAMIC_NAMES["latest-session"]
    invoked = [
        call.words
        for program in programs(600)
        for call in program
        if call.call == message and call.words[0] == Command.INVOKE_COMMAND
    ]
    assert sum(words[2] == latest for words in invoked) > 0.5 * len(invoked) > 50
    commands = {number for service in load_trusted_services() for number in service.commands.values()}
    assert commands <= {words[1] for words in invoked}


def test_a_uuid_in_registers_is_that_of_one_service() -> None:
    smc, opening = TABLE.index["NormalSMC"], functions()["direct_open"]
    change, decoder, whole = mutator(), Decoder(TABLE), 0
    services = {service.register_words for service in load_trusted_services()}
    for _ in range(4000):
        (call,) = decoder.decode(bytes(change.call(0, smc)))
        whole += call.words[0] == opening and call.words[1:5] in services
    assert whole > 20


def test_the_same_seed_gives_the_same_programs() -> None:
    assert [mutator(5)(b"", 512, 0) for _ in range(3)] == [mutator(5)(b"", 512, 0) for _ in range(3)]


def test_the_mix_for_measurements_is_the_normal_worlds() -> None:
    programs = normal_programs(TABLE, 20, 8)
    assert programs == normal_programs(TABLE, 20, 8)
    for program in programs:
        names = [TABLE.calls[call.call].name for call in Decoder(TABLE).decode(program)]
        assert len(names) == 8 and all(name.startswith("Normal") for name in names)


def test_the_mix_of_victims_leaves_the_normal_world_out() -> None:
    names = {call.name for _ in range(50) for call in Mix(TABLE).program().calls}
    assert names and not any(name.startswith("Normal") for name in names)
