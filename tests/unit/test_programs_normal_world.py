# SPDX-License-Identifier: BSD-2-Clause
"""The normal world's calls: only where a config has one, made by nobody else, with values that a run resolves."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest

from harness.build.guests import build_interface
from harness.configs import Level, load_config
from harness.errors import InputError, ProgramError
from harness.programs.descriptions import NORMAL_ACTIONS
from harness.programs.encodings import Decoder
from harness.programs.interfaces import Interface
from harness.programs.normal_calls import addresses, functions, refused_ranges
from harness.programs.normal_functions import NORMAL_FUNCTIONS, load_normal_functions
from harness.programs.normal_registers import GENERAL, VECTOR_HALVES, pattern, register_names
from harness.programs.population import SLOT_TYPES
from harness.programs.program import Call, Program, choice
from harness.programs.trusted_messages import SERVICES, load_trusted_services
from harness.programs.yaml import config_of
from harness.protocol import CALL_BYTES
from tests.unit.programs_support import interface, kernel, two_worlds_interface

CONFIG = load_config("trusted-os")


@cache
def two_worlds() -> Interface:
    """The whole interface of that config."""
    return build_interface(kernel(), config=CONFIG)


def test_without_a_normal_world_nothing_is_new() -> None:
    here = interface()
    assert build_interface(kernel(), config=load_config()).identity == here.identity
    assert here.first_normal_call == len(here.calls)
    assert not any(call.action in NORMAL_ACTIONS for call in here.calls)
    assert not any(kind.startswith(("normal_", "message_", "trusted_")) for kind in here.pools)


def test_the_victims_keep_what_they_had() -> None:
    here, there = interface(), two_worlds()
    assert there.calls[: len(here.calls)] == here.calls
    assert {kind: there.pools[kind] for kind in here.pools} == dict(here.pools)
    free = SLOT_TYPES.index("free")
    for victim in range(len(here.population.victims)):
        # One slot more holds what passes the turn to the normal world.
        assert there.population.of_type(victim, free) == here.population.of_type(victim, free)[:-1]


def test_no_victim_makes_calls_of_the_normal_world() -> None:
    there = two_worlds_interface()
    decoder, victims = Decoder(there), len(there.population.victims)
    generator = random.Random(8)
    performers = set()
    for _ in range(300):
        record = generator.randbytes(CALL_BYTES)
        (decoded,) = decoder.decode(record)
        (call,) = Program.from_bytes(record, there).calls
        assert (decoded.victim == victims) == (there.calls[decoded.call].action in NORMAL_ACTIONS)
        assert call.victim in (0, decoded.victim)
        performers.add(decoded.victim)
    assert performers == set(range(victims + 1))
    with pytest.raises(ProgramError, match="the normal world makes it"):
        Program(there, (Call("NormalInterrupt", 1, None, (choice(0), choice(0))),)).to_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{call: NormalSMC, victim: low, with: {x0: psci_version}}", "victim: the normal world makes this call"),
        ("{call: NormalSMC, with: {x0: psci_versio}}", "did you mean 'psci_version'"),
        ("{call: NormalWrite, target: secure-ram}", "'secure-ram' is neither a number nor a normal_shared"),
        ("{call: NormalMessage, target: shared, with: {service: 9}}", "is not among the values of trusted_service"),
    ],
)
def test_wrong_programs_are_named(text: str, words: str) -> None:
    with pytest.raises(ProgramError, match=words):
        Program.from_yaml(f"calls:\n- {text}\n", two_worlds_interface(), "p.yaml")


def test_programs_say_what_they_are_for() -> None:
    text = "config: trusted-os\ncalls:\n- {call: NormalSMC, with: {x0: optee_call_with_arg, x2: shared, x7: 2}}\n"
    program = Program.from_yaml(text, two_worlds_interface())
    assert "victim" not in program.to_yaml()
    (call,) = Decoder(two_worlds_interface()).decode(program.to_bytes())
    assert call.words[:3] == (functions()["optee_call_with_arg"], 0, CONFIG.normal_ram.base + 0x400000)
    assert call.words[7] == 2


def test_the_normal_world_refuses_what_no_restore_reaches() -> None:
    normal = CONFIG.normal_world
    assert normal is not None
    named = addresses(CONFIG, normal)

    def refused(address: int) -> bool:
        return any(base <= address < end for base, end in refused_ranges(CONFIG, normal))

    tried = ("shared", "shared-end", "secure-ram", "el3-ram", "flash", "uart1", "gicd", "unmapped", "far")
    assert not any(refused(named[name]) for name in tried)
    assert all(refused(named[name]) for name in ("behind-shared", "normal-world", "exchange", "device-tree"))
    assert refused(CONFIG.region("virtio").base)
    assert refused(0x0803_0000)  # the interrupt controller's virtual part, which no region names
    assert refused(0x40_1000_0000)  # PCI


def test_registers_have_patterns_of_their_own() -> None:
    for level in Level:
        names = register_names(level)
        assert len(set(names)) == len(names)
    patterns = [pattern(index) for index in range(GENERAL + VECTOR_HALVES)]
    assert len(set(patterns)) == len(patterns)
    assert set(register_names(Level.EL1)) < set(register_names(Level.EL2))


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (NORMAL_FUNCTIONS, "id: 0xbf00ff01", "id: 0x8400ff01", "does not belong to owner 'trusted-os'"),
        (NORMAL_FUNCTIONS, "id: 0xbf00ff01", "id: 0xbf00ff00", "exists already as 'optee_calls_count'"),
        (NORMAL_FUNCTIONS, "kind: message", "kind: massage", "Input should be"),
        (SERVICES, "name: counter", "name: arithmetic", "exists already as 'arithmetic'"),
        (SERVICES, "uuid: b4809315", "uuid: xb4809315", "services[1].uuid"),
    ],
)
def test_wrong_descriptions_are_named(tmp_path: Path, file: Path, old: str, new: str, words: str) -> None:
    text = file.read_text()
    assert old in text
    path = tmp_path / file.name
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError) as raised:
        (load_normal_functions if file == NORMAL_FUNCTIONS else load_trusted_services)(path)
    assert words in str(raised.value)
    assert str(path) in str(raised.value)


EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "two-worlds").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_say_what_they_are_for(path: Path) -> None:
    assert config_of(path) == "trusted-os"
    program = Program.load(path, two_worlds())
    assert Program.from_yaml(program.to_yaml(), two_worlds()) == program
    with pytest.raises(ProgramError, match=r"there is no call 'Normal.*it needs a config with a normal world"):
        Program.load(path, interface())


def test_a_wrong_config_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("calls: []\nconfig: [a]\n")
    with pytest.raises(ProgramError, match=r"p.yaml:2: config: must be the name of a machine config"):
        config_of(path)
    with pytest.raises(ProgramError, match="cannot be read as a program"):
        config_of(tmp_path / "other.yaml")
    path.write_text("calls: []\n")
    assert config_of(path) is None
    assert config_of(tmp_path / "bytes.bin") is None
