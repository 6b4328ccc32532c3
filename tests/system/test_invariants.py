# SPDX-License-Identifier: BSD-2-Clause
"""Kernel state and invariants on the real machine: what must hold holds, on everything that programs leave behind."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.build.artefacts import Artefacts
from harness.execution.executor import Executor
from harness.execution.observation import Outcome
from harness.invariants.definitions import Judgement, Request
from harness.invariants.registry import Checker, invariants
from harness.kernel_state.layout import Layout
from harness.kernel_state.lookup import lookup_slot
from harness.kernel_state.memory import FileImage
from harness.kernel_state.state import ContainerKind, KernelState, open_state
from harness.programs.interfaces import Interface
from harness.programs.population import SLOT_TYPES
from harness.programs.program import Call, Program, choice, slot
from harness.protocol import CALL_BYTES

ORDINARY = {Outcome.DONE, Outcome.BLOCKED, Outcome.FORGED, Outcome.SYSTEM_OFF, Outcome.SYSTEM_RESET}


@pytest.fixture(scope="module")
def interface(artefacts: Artefacts) -> Interface:
    return Interface.load(artefacts)


@pytest.fixture(scope="module")
def checker(shared_executor: Executor, interface: Interface) -> Checker:
    built = shared_executor.artefacts
    return Checker(
        Layout.from_artefacts(built),
        built.config,
        shared_executor.snapshot,
        interface=interface,
        firmware_elf=built.firmware_elf,
    )


OF_PROGRAMS = {entry.id for entry in invariants(["answers"])}
"""What judges a program's calls has nothing to judge in the snapshot."""


@pytest.fixture
def state(checker: Checker) -> KernelState:
    return checker.snapshot


def test_everything_holds_on_the_snapshot_and_nothing_is_judged_on_no_objects(
    executor: Executor, checker: Checker
) -> None:
    report = checker.check(executor.snapshot)
    assert [str(violation) for violation in report.violations] == []
    assert set(report.judged) == {entry.id for entry in invariants() if entry.family != "two-worlds"}
    assert {id for id, objects in report.judged.items() if not objects} == OF_PROGRAMS


def test_the_release_build_holds_too(release_artefacts: Artefacts) -> None:
    with Executor(release_artefacts, coverage=False) as executor:
        report = Checker(
            Layout.from_artefacts(release_artefacts),
            release_artefacts.config,
            executor.snapshot,
            interface=Interface.load(release_artefacts),
        ).check(executor.snapshot)
    assert [str(violation) for violation in report.violations] == []
    assert {id for id, objects in report.judged.items() if not objects} == OF_PROGRAMS


def test_boot_information_agrees_with_the_config(state: KernelState) -> None:
    boot_info = state.boot_info
    assert boot_info is not None
    sizes = {True: 0, False: 0}
    for untyped in boot_info.untypeds:
        region = state.config.region_at(untyped.base)
        assert region is not None and region.covers(untyped.base, 1 << untyped.bits)
        assert untyped.non_secure == (region.world == "non-secure")
        assert untyped.device == (region.kind == "device")
        sizes[untyped.non_secure] += 0 if untyped.device else 1 << untyped.bits
    assert sizes[True] == state.config.normal_ram.size
    assert sizes[False] > state.config.secure_ram.size // 2


def test_the_state_has_what_the_population_promises(state: KernelState, interface: Interface, checker: Checker) -> None:
    population = interface.population
    assert checker.smc is not None
    kernel_types = {"smc": "smc_cap", "untyped": "untyped_cap", "endpoint": "endpoint_cap", "cnode": "cnode_cap"}
    for number, victim in enumerate(checker.smc.victims):
        for named in population.slots(number):
            content = lookup_slot(state.layout, state.ram, victim.thread, named.number)
            assert content is not None and content.type != "null_cap", named.name
            if named.type in kernel_types:
                assert content.type == kernel_types[named.type], named.name
        assert lookup_slot(state.layout, state.ram, victim.thread, 1 << 40) is None
    kinds = [container.kind for container in state.containers]
    assert kinds.count(ContainerKind.THREAD) >= len(population.victims) + len(population.helpers)
    sizes = {int(bits) for bits in state.user_walk.bits[state.user_walk.leaf]}
    assert sizes == {12, 21, 30}
    assert state.vspaces.live is not None
    assert len(state.asid_pools) >= 2


def test_a_file_gives_the_state_that_the_machine_gives(executor: Executor, checker: Checker, tmp_path: Path) -> None:
    config = executor.config
    base, end = config.secure_ram.base, config.firmware_ram.end
    path = tmp_path / "secure-ram.bin"
    path.write_bytes(executor.snapshot.read(base, end - base))
    image = FileImage(path, base)
    state = open_state(checker.layout, config, image)
    assert sorted(state.caps.address.tolist()) == sorted(checker.snapshot.caps.address.tolist())
    assert {c.address for c in state.containers} == {c.address for c in checker.snapshot.containers}
    assert not checker.check(image).violations


def random_programs(interface: Interface, count: int, seed: int) -> Iterator[bytes]:
    """Programs most of whose calls name slots that are there, so that many succeed."""
    rng = random.Random(seed)
    types = {"CNode": "cnode", "Untyped": "untyped", "ARM_Page": "page-4k", "ARM_PageTable": "page-table"}
    for _ in range(count):
        program = bytearray()
        for _ in range(16):
            row = bytearray(rng.randbytes(CALL_BYTES))
            call = interface.calls[row[0] % len(interface.calls)]
            wanted = types.get(call.interface.removeprefix("seL4_"), "smc")
            if call.target == "slot" and rng.random() < 0.8:
                row[2] = SLOT_TYPES.index(wanted) << 2 | 2
            for position in range(8):
                if rng.random() < 0.6:
                    row[4 + 2 * position] = 0
                if rng.random() < 0.8:
                    row[5 + 2 * position] = rng.randrange(128)
            program += row
        yield bytes(program)


def test_random_programs_break_nothing_and_both_checks_agree(
    executor: Executor, checker: Checker, interface: Interface
) -> None:
    succeeded = judged = 0
    for program in random_programs(interface, 300, 11):
        observation = executor.run(program)
        assert observation.status in ORDINARY, observation.console
        results = observation.results
        succeeded += int(((results["state"] == 2) & (results["error"] == 0)).sum())
        fast = checker.check_changed(observation)
        full = checker.check(executor.memory, observation)
        assert [str(violation) for violation in full.violations] == []
        assert [str(violation) for violation in fast.violations] == []
        # Answers are compared of few programs that are judged by their changes.
        asked = [[r.call for r in report.requests if r.invariant not in OF_PROGRAMS] for report in (fast, full)]
        assert asked[0] == asked[1]
        judged += len(observation.smc_log)
        found = checker.settle(fast, lambda calls, program=program: executor.run(program, stop_after=calls))  # type: ignore[misc]
        assert [str(violation) for violation in found] == []
    assert succeeded > 300
    assert judged > 3
    assert checker.fallbacks < 30


def smc(interface: Interface, of: int, function: int, victim: int = 0) -> Call:
    pool = interface.pools["smc_function"]
    return Call("ARM_SMC_Call", victim, slot(of), (choice(pool.values.index(function)), *[choice(0)] * 7))


def test_smcs_of_capabilities_that_were_made_in_the_program_are_followed_or_asked_for(
    executor: Executor, checker: Checker, interface: Interface
) -> None:
    population = interface.population

    def number(name: str) -> int:
        found = population.slot_number(0, name)
        assert found is not None
        return found

    own, plain, echo = number("cnode"), number("smc"), number("smc-echo")
    function = next(value for name, value in interface.pools["badge"].names if name.lower() == "smc:echo")
    depth = choice(interface.pools["depth"].values.index(64))
    badge = choice(interface.pools["badge"].values.index(function))
    mint = Call("CNode_Mint", 0, slot(own), (slot(120), depth, slot(own), slot(plain), depth, choice(1), badge))
    revoke = Call("CNode_Revoke", 0, slot(own), (slot(number("smc-version")), depth))
    for calls, asked in (
        ([smc(interface, echo, function)], 0),
        ([mint, smc(interface, 120, function)], 0),
        ([revoke, smc(interface, echo, function)], 1),
    ):
        program = Program(interface, tuple(calls)).to_bytes()
        observation = executor.run(program)
        assert len(observation.smc_log) == 1
        report = checker.check_changed(observation)
        assert len(report.requests) == asked
        found = checker.settle(report, lambda calls, program=program: executor.run(program, stop_after=calls))  # type: ignore[misc]
        assert not (found or report.violations or report.requests)


def test_a_tampered_machine_is_caught(executor: Executor, checker: Checker) -> None:
    """The whole way from the machine's memory: one bit of one page table entry."""
    walk = checker.snapshot.user_walk
    row = int((walk.leaf & (walk.bits == 12)).nonzero()[0][0])
    address = int(walk.table[row]) + 8 * int(walk.index[row])
    entry = int.from_bytes(executor.memory.read(address, 8), "little")
    executor.memory.write(address, (entry ^ 0x20).to_bytes(8, "little"))
    try:
        report = checker.check(executor.memory)
        assert {violation.invariant for violation in report.violations} == {"ns_bit_matches_world"}
        assert report.violations[0].object_kind == "pte"
    finally:
        executor.memory.write(address, entry.to_bytes(8, "little"))
    assert not checker.check(executor.memory).violations


def test_smcs_that_no_call_explains_are_caught(executor: Executor, checker: Checker, interface: Interface) -> None:
    authority = checker.smc
    assert authority is not None
    plain = interface.population.slot_number(0, "smc")
    echo = interface.population.slot_number(0, "smc-echo")
    assert plain is not None and echo is not None
    function = next(value for name, value in interface.pools["badge"].names if name.lower() == "smc:echo")
    calls = (Call("Yield", 0), smc(interface, plain, function), smc(interface, echo, function))
    program = Program(interface, calls).to_bytes()
    observation = executor.run(program)
    log, results = observation.smc_log, observation.results
    assert log["call"].tolist() == [1, 2]

    def judged(row: int, field: str, value: object) -> list[str]:
        changed = log.copy()
        changed[field][row] = value
        judgement = Judgement()
        authority.judge(changed, results, program, judgement)
        assert judgement.judged == 2 and not judgement.requests
        return [message for message, _, _ in judgement.broken]

    assert judged(1, "call", 2) == []
    assert "more than one" in judged(1, "call", 1)[0]
    assert "no invocation" in judged(0, "call", 0)[0] or "not the message" in judged(0, "call", 0)[0]
    assert "no call" in judged(1, "call", 9)[0]
    assert "not the message" in judged(0, "arguments", [function, 0, 0, 0, 0, 0, 0, 1 << 63])[0]

    # A capability that does not allow it, read right before the call.
    version = interface.population.slot_number(0, "smc-version")
    assert version is not None
    evidence = {"call": 1, "registers": [hex(function)], "target": hex(version), "victim": 0}
    for target, kind in ((version, "smc_cap"), (1, "smc"), (1 << 50, "smc")):
        request = Request("smc_authority", 1, evidence | {"target": hex(target)})
        (broken,) = authority.resolve(request, checker.snapshot).broken
        assert broken[2] == kind
    assert not authority.resolve(Request("smc_authority", 1, evidence | {"target": hex(echo)}), checker.snapshot).broken
