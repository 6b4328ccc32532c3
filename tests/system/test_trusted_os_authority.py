# SPDX-License-Identifier: BSD-2-Clause
"""What the root task gives the trusted OS: capabilities, mappings, a place in the restore set."""

from __future__ import annotations

import numpy as np
import pytest

from harness.execution.executor import Executor
from harness.kernel_state.layout import Layout
from harness.kernel_state.state import KernelState, open_state
from harness.programs.interfaces import Interface
from harness.programs.population import ReportedRange, read_report
from harness.protocol import PAGE, TRUSTED_OS, Dispatcher, PopulationKind
from harness.view.names import Names

THREADS = 4
"""The dispatcher, and those of yielding calls."""


@pytest.fixture(scope="module")
def state(two_worlds_executor: Executor) -> KernelState:
    executor = two_worlds_executor
    return open_state(Layout.from_artefacts(executor.artefacts), executor.config, executor.snapshot)


@pytest.fixture(scope="module")
def parts(two_worlds_executor: Executor) -> list[ReportedRange]:
    executor = two_worlds_executor
    page = executor.snapshot.read(executor.config.exchange.base, PAGE)
    population = Interface.load(executor.artefacts).population
    return [entry for entry in read_report(page, population) if entry.victim == TRUSTED_OS]


def of_kind(parts: list[ReportedRange], kind: PopulationKind) -> list[ReportedRange]:
    return [entry for entry in parts if entry.kind is kind]


def test_it_maps_its_image_and_what_is_the_normal_worlds(
    two_worlds_executor: Executor, state: KernelState, parts: list[ReportedRange]
) -> None:
    normal = two_worlds_executor.config.normal_world
    assert normal is not None
    root = of_kind(parts, PopulationKind.PAGE_TABLE)[0].address
    walk = state.user_walk
    rows = np.flatnonzero(walk.leaf & (walk.roots[walk.root] == root))
    assert not walk.overflow and len(rows)
    mapped: dict[bool, set[int]] = {False: set(), True: set()}
    for row in rows.tolist():
        base, size, ns = int(walk.base[row]), 1 << int(walk.bits[row]), bool(walk.ns[row])
        if ns:
            assert base == int(walk.virtual[row])
        mapped[ns] |= set(range(base, base + size, PAGE))
    image = [*of_kind(parts, PopulationKind.CODE), *of_kind(parts, PopulationKind.SUPERVISOR)]
    assert mapped[False] == {page for part in image for page in range(part.address, part.address + part.size, PAGE)}
    theirs = [(normal.memory.base, normal.memory.end), (normal.shared.base, normal.shared.end)]
    assert mapped[True] == {page for base, end in theirs for page in range(base, end, PAGE)}


def test_it_holds_no_memory_and_no_other_secure_monitor_call(state: KernelState, parts: list[ReportedRange]) -> None:
    (table,) = of_kind(parts, PopulationKind.CNODE)
    caps = state.caps
    rows = np.flatnonzero((caps.address >= table.address) & (caps.address < table.address + table.size))
    held = [caps.type_name(row) for row in rows.tolist()]
    assert sorted(set(held)) == ["endpoint_cap", "notification_cap", "smc_cap", "thread_cap"]
    calls = rows[[type_ == "smc_cap" for type_ in held]]
    badges = set(caps.field("smc_cap", "capSMCBadge", calls).tolist())
    assert badges == {Dispatcher.READY, Dispatcher.DONE, Dispatcher.RESUME}
    assert held.count("thread_cap") == THREADS - 1


def test_its_parts_have_names(two_worlds_executor: Executor, state: KernelState, parts: list[ReportedRange]) -> None:
    names = Names.of(state)
    threads = of_kind(parts, PopulationKind.TCB)
    assert len(threads) == THREADS
    assert names.object(threads[0].address) == "trusted OS's dispatcher"
    assert all(names.object(part.address).startswith("trusted OS's ") for part in parts)


def test_what_it_writes_to_is_restored(two_worlds_executor: Executor, parts: list[ReportedRange]) -> None:
    ranges = two_worlds_executor.ranges
    for part in parts:
        inside = any(base <= part.address and part.address + part.size <= base + size for base, size in ranges)
        assert inside or part.kind is PopulationKind.CODE, part
