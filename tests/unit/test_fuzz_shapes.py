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
from harness.programs.interfaces import Interface
from harness.programs.population import SLOT_TYPES
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


def test_targets_choose_calls() -> None:
    assert target_names() == ["invocations", "smc"]
    shapes = shapes_of(interface(), load_target("smc"))
    typed = TypedMutator(shapes, seed=1, maximum_calls=16)
    names = Counter(shapes.calls[typed.call(0)[0]].name for _ in range(500))
    assert names["ARM_SMC_Call"] > 250 and "ARM_Page_Map" not in names
    assert len(typed.call(3)) == CALL_BYTES


def test_an_unknown_target_is_named_with_its_neighbour() -> None:
    with pytest.raises(InputError, match="no fuzz target 'invocation'; did you mean 'invocations'"):
        load_target("invocation")
    assert isinstance(load_target("smc"), Target)
