# SPDX-License-Identifier: BSD-2-Clause
"""The normal-world guest of the spanning layout: what it consists of, what it reaches, and what it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.configs import World
from harness.execution.executor import Executor
from harness.kernel_state.layout import Layout
from harness.kernel_state.state import open_state
from harness.programs.interfaces import Interface
from harness.programs.population import SLOT_TYPES, ReportedRange, read_report
from harness.programs.program import Call, Program, choice, slot
from harness.protocol import PAGE, CallState, PopulationKind

GUEST = 1
ILLEGAL_OPERATION = 3
INVALID_ARGUMENT = 1
VM_FAULT = 5
VIRTIO_MAGIC = 1 << 32 | 0x74726976
"""The first words of a virtio device's registers: "virt", and version 1."""
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def interface(shared_executor: Executor) -> Interface:
    return Interface.load(shared_executor.artefacts)


@pytest.fixture
def ranges(executor: Executor, interface: Interface) -> list[ReportedRange]:
    page = executor.snapshot.read(executor.config.exchange.base, PAGE)
    return read_report(page, interface.population)


def world(executor: Executor, address: int) -> World:
    region = executor.config.region_at(address)
    assert region is not None, hex(address)
    return region.world


def test_its_memory_is_non_secure(executor: Executor, ranges: list[ReportedRange]) -> None:
    kinds: dict[tuple[int, PopulationKind], World] = {}
    for item in ranges:
        if item.object is None and item.kind in (PopulationKind.CODE, PopulationKind.STATE):
            kinds.setdefault((item.victim, item.kind), world(executor, item.address))
    assert kinds[GUEST, PopulationKind.CODE] == kinds[GUEST, PopulationKind.STATE] == World.NON_SECURE
    assert kinds[0, PopulationKind.CODE] == kinds[0, PopulationKind.STATE] == World.SECURE


def test_all_that_it_can_address_is_non_secure(executor: Executor, ranges: list[ReportedRange]) -> None:
    """Its tables map non-secure memory and devices only, each with NS=1; the other victim's map both worlds."""
    layout = Layout.from_artefacts(executor.artefacts)
    state = open_state(layout, executor.config, executor.snapshot)
    walk = state.user_walk
    roots = [
        next(r.address for r in ranges if r.victim == v and r.kind == PopulationKind.PAGE_TABLE and r.object is None)
        for v in (0, GUEST)
    ]
    seen = []
    for root in roots:
        rows = np.flatnonzero(walk.leaf & (walk.roots[walk.root] == root))
        assert len(rows) > 15
        assert all(bool(walk.ns[row]) == (world(executor, int(walk.base[row])) != World.SECURE) for row in rows)
        seen.append({world(executor, int(walk.base[row])) for row in rows})
    assert seen == [{World.SECURE, World.NON_SECURE}, {World.NON_SECURE}]


def test_it_makes_calls(executor: Executor, interface: Interface) -> None:
    program = Program.from_yaml(
        """
        calls:
        - {call: ARM_Page_Map, victim: normal-world, target: page-n, with: {vaddr: 0x10003000}}
        - {call: Load, victim: normal-world, target: 0x10003000}
        - {call: Load, victim: normal-world, target: 0x10200000}
        - {call: ARM_SMC_Call, victim: normal-world, target: smc-echo, with: {x0: echo, x1: 3, x2: 0x40}}
        - {call: Untyped_Retype, victim: normal-world, target: arena, with: {type: page-4k, node_offset: "free:0"}}
        """,
        interface,
    )
    observation = executor.run(program.to_bytes())
    results = observation.results
    assert observation.status == "done"
    assert (results["state"] == CallState.DONE).all() and not results["error"].any()
    assert (results["victim"] == GUEST).all()
    for row in (1, 2):
        assert world(executor, int(results["mr"][row][0])) == World.NON_SECURE
    assert results["mr"][3][:3].tolist() == [0, 3, 0x40]
    (logged,) = observation.smc_log
    assert logged["call"] == 3 and logged["arguments"][1] == 3


def test_no_capability_of_it_reaches_secure_memory(
    executor: Executor, interface: Interface, ranges: list[ReportedRange]
) -> None:
    """Whatever slot it maps, and whatever it then reads there: a frame's first word is its physical address."""
    marks = {r.address for r in ranges if r.kind == PopulationKind.FRAME}
    vaddr = interface.pools["vaddr"].values
    addresses = {0x10003000: "page-4k", 0x10600000: "page-2m", 0x80000000: "page-1g"}
    reached = set()
    for number in range(interface.population.slots_per_victim):
        for address in addresses:
            at = choice(vaddr.index(address))
            unmap = Call("ARM_Page_Unmap", GUEST, slot(number))
            vspace = slot(interface.population.slot_number(GUEST, "vspace") or 0)
            map_ = Call("ARM_Page_Map", GUEST, slot(number), (vspace, at, choice(0), choice(0)))
            observation = executor.run(Program(interface, (unmap, map_, Call("Load", GUEST, at))).to_bytes())
            done = observation.results["state"] == CallState.DONE
            if done.all() and not observation.results["error"][1]:
                reached.add((addresses[address], int(observation.results["mr"][2][0])))
    marked = {(type_, value) for type_, value in reached if value in marks}
    assert {type_ for type_, _ in marked} == set(addresses.values())
    assert {world(executor, value) for _, value in marked} == {World.NON_SECURE}
    assert {value for _, value in reached} - marks == {VIRTIO_MAGIC}


def test_what_it_must_not_get(executor: Executor, interface: Interface) -> None:
    program = Program.load(EXAMPLES / "normal-world-attempts.yaml", interface)
    observation = executor.run(program.to_bytes())
    results = observation.results
    assert observation.status == "done"
    names = [call.name for call in program.calls]
    succeeded = [i for i, r in enumerate(results) if r["state"] == CallState.DONE and not r["error"]]
    assert succeeded == [0, 1, len(names) - 1]
    errors = results["error"].tolist()
    assert errors[2:5] == [INVALID_ARGUMENT] * 3
    assert errors[5:7] == [ILLEGAL_OPERATION] * 2
    assert results["state"][8] == CallState.FAULTED
    assert errors[8] == VM_FAULT
    assert results["mr"][8][1] == 0x10A00000
    # EL3 was never asked.
    assert len(observation.smc_log) == 0


def test_what_its_arena_gives(executor: Executor, interface: Interface) -> None:
    """Frames and untyped memory, no kernel object: of each type that Retype makes."""
    population = interface.population
    arena = slot(population.slot_number(GUEST, "arena") or 0)
    retype = interface.call("Untyped_Retype")
    sizes = interface.pools["size_bits"].values
    for number, type_ in enumerate(SLOT_TYPES[: SLOT_TYPES.index("asid-pool")]):
        given = {
            "type": choice(interface.pools["object_type"].values.index(number)),
            "size_bits": choice(sizes.index(12)),
            "root": slot(population.slot_number(GUEST, "cnode") or 0),
            "node_offset": slot(120),
        }
        arguments = tuple(given.get(p.name, choice(0)) for p in retype.parameters)
        observation = executor.run(Program(interface, (Call("Untyped_Retype", GUEST, arena, arguments),)).to_bytes())
        too_large = type_ in ("page-2m", "page-1g")
        if type_ in ("page-4k", "untyped"):
            assert observation.results["error"][0] == 0, type_
        else:
            assert observation.results["error"][0] == (10 if too_large else INVALID_ARGUMENT), type_
