# SPDX-License-Identifier: BSD-2-Clause
"""Every call of the kernel has a shape, and typed programs are what they seem."""

from __future__ import annotations

from collections import Counter

import pytest

from fuzz.calls import PoolShape, SlotShape
from fuzz.mutators import TypedMutator
from fuzz.shapes import shapes_of
from fuzz.targets import Target, load_target, target_names
from harness.errors import InputError
from harness.programs.encodings import Decoder
from harness.programs.interfaces import Interface
from harness.programs.population import FRAME_BITS, SLOT_TYPES
from harness.programs.program import Program
from harness.protocol import CALL_BYTES
from tests.unit.programs_support import interface, small_interface


@pytest.mark.parametrize("table", [interface, small_interface], ids=["all", "few"])
def test_every_parameter_has_a_shape(table: object) -> None:
    assert callable(table)
    known: Interface = table()
    shapes = shapes_of(known, load_target("invocations"))
    for shape, call in zip(shapes.calls, known.calls, strict=True):
        assert shape.name == call.name and len(shape.arguments) == len(call.parameters)
        for argument, parameter in zip(shape.arguments, call.parameters, strict=True):
            assert isinstance(argument, SlotShape if parameter.kind == "slot" else PoolShape)
            if isinstance(argument, PoolShape):
                assert argument.size == len(known.pools[parameter.kind].values)


def test_invocations_are_made_on_their_own_kind_of_object() -> None:
    table = interface()
    typed = TypedMutator(shapes_of(table, load_target("invocations")), seed=1, maximum_calls=256)
    wanted = {"ARM_Page_Map": "page-", "Untyped_Retype": "untyped", "CNode_Copy": "cnode", "ARM_SMC_Call": "smc"}
    right: Counter[str] = Counter()
    all_of: Counter[str] = Counter()
    for _ in range(20):
        for call in Program.from_bytes(bytes(typed.program(100)), table).calls:
            if call.name in wanted and call.target is not None:
                all_of[call.name] += 1
                right[call.name] += call.target.mode == "type" and SLOT_TYPES[call.target.value].startswith(
                    wanted[call.name]
                )
    for name in wanted:
        assert right[name] > all_of[name] * 0.6, name


def test_a_frame_is_mapped_where_a_frame_of_its_size_fits() -> None:
    table = interface()
    typed = TypedMutator(shapes_of(table, load_target("invocations")), seed=1, maximum_calls=256)
    number = table.index["ARM_Page_Map"]
    fitting = 0
    for _ in range(400):
        program = bytes(typed.call(0, number))
        call = Decoder(table).decode(program)[0]
        held = {slot.number: slot for slot in table.population.slots(call.victim)}.get(call.target)
        if held is None or held.type not in FRAME_BITS:
            continue
        low, high = {"page-4k": (0x10000000, 0x10200000), "page-2m": (0x10400000, 0x11000000)}.get(held.type, (0, 0))
        fitting += held.slot.mapped is None and low <= call.words[0] < high
    assert fitting > 150


def test_smc_capabilities_are_made_for_functions_of_every_owner() -> None:
    table = interface()
    typed = TypedMutator(shapes_of(table, load_target("smc")), seed=1, maximum_calls=256)
    owners, same, other = set(), 0, 0
    for _ in range(1500):
        program = bytearray()
        typed._badged(program)
        calls = Decoder(table).decode(bytes(program))
        assert [table.calls[call.call].name for call in calls][-1] == "ARM_SMC_Call"
        if len(calls) == 2:
            badge = calls[0].words[5]
            owners.add((badge >> 24 & 0x3F, badge >> 30 & 1, badge >> 31 & 1))
            assert calls[1].target == calls[0].words[0], "the capability that was made"
            same += calls[1].words[0] == badge
            other += calls[1].words[0] != badge
    assert len({owner for owner, _, _ in owners}) == 64 and len(owners) > 200
    assert same > other > 100


def test_results_are_used_as_what_they_are() -> None:
    table = interface()
    typed = TypedMutator(shapes_of(table, load_target("invocations")), seed=1, maximum_calls=256)
    retype, made = table.index["Untyped_Retype"], Counter[str]()
    for _ in range(300):
        program = typed.call(0, retype)
        if (type_ := typed.made(program, 0)) is not None:
            made[SLOT_TYPES[type_]] += 1
            assert Decoder(table).decode(bytes(program))[0].words[0] == type_
    assert made["page-4k"] > 5 and made["endpoint"] > 5


def test_whatever_can_be_copied_is_copied() -> None:
    table = interface()
    typed = TypedMutator(shapes_of(table, load_target("invocations")), seed=1, maximum_calls=256)
    sources, without_buffer = Counter[str](), Counter[str]()
    for name, found in (("CNode_Copy", sources), ("TCB_SetIPCBuffer", without_buffer)):
        for _ in range(1500):
            call = Decoder(table).decode(bytes(typed.call(0, table.index[name])))[0]
            held = {slot.number: slot for slot in table.population.slots(call.victim)}
            source = held.get(call.words[2] if name == "CNode_Copy" else call.caps[0])
            if source is not None and (name == "CNode_Copy" or call.words[0] == 0):
                found[source.slot.of if source.type.startswith("page-4k") else source.type] += 1
    assert min(sources[type_] for type_ in ("untyped", "irq-handler", "page-table", "endpoint", "page-2m")) > 5, sources
    assert without_buffer["page-virtio"] > 2 and without_buffer["page-2m"] > 5, without_buffer


def test_targets_choose_calls() -> None:
    assert target_names() == ["invocations", "normal-world-smc", "smc"]
    shapes = shapes_of(interface(), load_target("smc"))
    typed = TypedMutator(shapes, seed=1, maximum_calls=16)
    names = Counter(shapes.calls[typed.call(0)[0]].name for _ in range(500))
    assert names["ARM_SMC_Call"] > 250 and "ARM_Page_Map" not in names
    assert len(typed.call(3)) == CALL_BYTES


def test_an_unknown_target_is_named_with_its_neighbour() -> None:
    with pytest.raises(InputError, match="no fuzz target 'invocation'; did you mean 'invocations'"):
        load_target("invocation")
    assert isinstance(load_target("smc"), Target)
