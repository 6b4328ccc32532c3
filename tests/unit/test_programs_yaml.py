# SPDX-License-Identifier: BSD-2-Clause
"""Programs as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ConfigError, ImageError, MachineError, ProgramError
from harness.programs.encodings import Decoder
from harness.programs.interfaces import Interface
from harness.programs.population import SLOT_TYPES, Population, read_report
from harness.programs.program import Program, choice, of_type, slot
from tests.unit.programs_support import interface

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))


def parse(text: str) -> Program:
    return Program.from_yaml(text, interface(), "mine.yaml")


def test_names_and_defaults() -> None:
    program = parse(
        "description: any\ncalls:\n"
        "- {call: Untyped_Retype, target: arena, with: {type: endpoint, node_offset: 'free:0'}}\n"
        "- {call: CNode_Copy, target: cnode, with: {dest_index: 90, src_index: 'result:0'}}\n"
        "- {call: ARM_Page_Map, victim: normal-world, target: page-n, with: {vaddr: 0x10003000, attr: cached}}\n"
    )
    retype, copy, map_ = Decoder(interface()).decode(program.to_bytes())
    population = interface().population
    first_free = population.of_type(0, SLOT_TYPES.index("free"))[0]
    assert retype.words == (2, 12, 0, 0, first_free, 1)
    assert retype.caps == (population.slot_number(0, "cnode"),)
    assert copy.words == (90, 64, first_free, 64, 3)
    assert map_.victim == 1
    assert map_.target == population.slot_number(1, "page-n")
    assert map_.caps == (population.slot_number(1, "vspace"),)
    assert map_.words == (0x10003000, 3, 3)


def test_values_outside_the_pools_become_raw() -> None:
    program = parse("calls: [{call: Load, target: 0x123456789000}]")
    assert program.calls[0].uses_raw
    assert Decoder(interface()).decode(program.to_bytes())[0].target == 0x123456789000
    assert parse(program.to_yaml()) == program


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "calls: [{call: CNode_Kopy, target: cnode}]",
            "mine.yaml:1: call 0: call: there is no call 'CNode_Kopy'; did you mean 'CNode_Copy'?",
        ),
        ("calls:\n- {call: Yield}\n- {call: Load}", "mine.yaml:3: Load: target: is missing"),
        ("calls: [{call: Yield, target: 1}]", "Yield: target: this call has none"),
        ("calls: [{call: Yield, victm: secure}]", "victm: unknown field"),
        ("calls: [{call: Yield, victim: secur}]", "there is no victim 'secur'; did you mean 'secure'?"),
        (
            "calls: [{call: ARM_Page_Unmap, target: page-q}]",
            "'page-q' is no slot of victim 'secure'; did you mean 'page-",
        ),
        ("calls: [{call: CNode_Delete, target: cnode}]", "CNode_Delete: index: is missing"),
        (
            "calls: [{call: CNode_Delete, target: cnode, with: {idnex: 3}}]",
            "idnex: no argument of CNode_Delete; did you mean 'index'?",
        ),
        ("calls: [{call: CNode_Delete, target: cnode, with: [3]}]", "with: must be a mapping"),
        ("calls: [{call: Load, target: read-write}]", "'read-write' is neither a number nor a vaddr"),
        ("calls: [{call: Load, target: 0x10000000000000000}]", "does not fit in 64 bits"),
        ("calls: [{call: Send, target: outbox, with: {label: 77777}}]", "is not among the values of label"),
        ("calls: [{call: Send, target: outbox, with: {mr0: 77777, mr1: 88888}}]", "second value outside the pools"),
        ("calls: [{call: Yield}]\ncals: 3", "mine.yaml:2: unknown field 'cals'"),
        ("calls: 3", "a program is a mapping with a list 'calls'"),
        ("calls: [3]", "mine.yaml:1: call 0: call: must be a mapping"),
        ("calls: [", "mine.yaml:"),
        ("a: &a [*a]", "mine.yaml:1: nested"),
    ],
)  # fmt: skip
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        parse(text)
    assert message in str(caught.value)


@given(st.text(max_size=60))
def test_no_text_ends_in_anything_but_a_program_error(text: str) -> None:
    for candidate in (text, f"calls: [{text}]", f"calls: [{{call: Load, target: {text}}}]"):
        try:
            parse(candidate)
        except ProgramError as error:
            assert "mine.yaml" in str(error)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples(path: Path) -> None:
    program = Program.load(path, interface())
    assert program.calls
    assert Program.from_yaml(program.to_yaml(), interface()) == program


def test_examples_are_there() -> None:
    assert len(EXAMPLES) >= 4


def test_files(tmp_path: Path) -> None:
    program = parse("calls: [{call: Yield}]")
    (tmp_path / "p.yaml").write_text(program.to_yaml())
    (tmp_path / "p.bin").write_bytes(program.to_bytes() + b"rest")
    assert Program.load(tmp_path / "p.yaml", interface()) == Program.load(tmp_path / "p.bin", interface()) == program
    (tmp_path / "q.yaml").write_bytes(b"\xff\xfe")
    for name in ("q.yaml", "none.bin"):
        with pytest.raises(ProgramError, match=name):
            Program.load(tmp_path / name, interface())
    for text in ("", "[]", "{}", '{"calls": [{}], "pools": [], "population": {}}'):
        (tmp_path / "interface.json").write_text(text)
        with pytest.raises((ImageError, ConfigError), match=r"interface\.json"):
            Interface.load(tmp_path)


def test_the_population_has_everything() -> None:
    population = interface().population
    for victim in range(len(population.victims)):
        kinds = {named.type for named in population.slots(victim)}
        missing = set(SLOT_TYPES) - kinds - {"free"}
        assert not missing if victim == 0 else {"cnode", "tcb", "endpoint", "page-4k"} <= kinds
        assert len(population.of_type(victim, SLOT_TYPES.index("free"))) >= 48
        assert population.slot_name(victim, 0) is None
        assert population.slot_number(victim, "nothing") is None
    worlds = {(o.type, o.world, o.device is not None) for o in population.objects}
    for type_ in ("page-4k", "page-2m"):
        assert {(type_, "secure", False), (type_, "non-secure", False)} <= worlds
    assert ("page-1g", "non-secure", False) in worlds
    assert any(device for _, _, device in worlds)


def test_the_normal_world_holds_no_secure_memory() -> None:
    population = interface().population
    for named in population.slots(1):
        item = population.object(named.slot.of)
        if item is not None and item.device is None and (item.type == "untyped" or item.type.startswith("page-")):
            assert item.world == "non-secure" or item.type == "page-table", named.name


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("objects", 0, "type"), "untypd", "type 'untypd'"),
        (("objects", 0, "wrld"), 1, "wrld"),
        (("slots", "secure", 0, "of"), "nothing", "of 'nothing', which is not there"),
        (("slots", "secure", 0, "name"), "vspace", "two slots of one name"),
        (("helpers", 0, "at"), "nowhere", "is not there"),
        (("victims", 0, "fault_handler"), "nowhere", "no slot 'nowhere'"),
        (("victims", 0, "name"), "other", "needs one list"),
        (("cnode_bits",), 5, "too many for a table of 32"),
    ],
)
def test_mistakes_in_a_population_are_named(path: tuple[str | int, ...], value: object, message: str) -> None:
    data = Population.load().data
    here: object = data
    for step in path[:-1]:
        here = here[step]  # type: ignore[index]
    here[path[-1]] = value  # type: ignore[index]
    with pytest.raises(ConfigError, match=message):
        Population(data, "mine")


def test_population_files(tmp_path: Path) -> None:
    for content in (b"", b"[", b"\xff", b"cnode_bits: 7"):
        path = tmp_path / "p.yaml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"p\.yaml"):
            Population.load(path)


def test_an_unfinished_root_task_is_an_error() -> None:
    with pytest.raises(MachineError, match="stopped while it should start"):
        read_report(bytes(4096), interface().population)


def test_arguments_made_by_hand() -> None:
    assert slot(3).value == 3
    assert of_type("free", 2).number == 2
    assert choice(1).value == 1
