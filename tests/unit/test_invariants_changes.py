# SPDX-License-Identifier: BSD-2-Clause
"""The incremental check gives the answer of the full check."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness import protocol
from harness.invariants.registry import Checker
from tests.unit.kernel_state_support import Machine, Memory, broken
from tests.unit.test_invariants_world import CAUGHT, LEGAL


class Seen:
    """An observation of a machine made by hand: whatever differs from what it was."""

    calls = 0

    def __init__(self, machine: Machine, before: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        memory = machine.memory
        differs = (memory.bytes.reshape(-1, 4096) != before.reshape(-1, 4096)).any(axis=1)
        self.memory: Memory = memory
        self.changed = memory.base + np.flatnonzero(differs).astype(np.uint64) * np.uint64(4096)
        self.report = machine.report[0]
        self.report_words = self.report.tobytes()
        self.report_words = memoryview(self.report_words).cast("Q")
        self.smc_log = np.zeros(0, protocol.SMC_LOG)


def compare(machine: Machine, checker: Checker, before: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[list[str], bool]:
    """What both checks say (they must agree), and whether the fast way was enough."""
    seen = Seen(machine, before)
    fallbacks = checker.fallbacks
    fast = checker.check_changed(seen)
    full = checker.check(machine.memory, seen, families=["world"])
    assert broken(fast) == broken(full)
    assert set(fast.judged) == set(full.judged)
    return broken(full), checker.fallbacks == fallbacks


@pytest.mark.parametrize("name", [*CAUGHT, *LEGAL])
def test_each_known_state_is_judged_alike(name: str) -> None:
    machine = Machine()
    checker = machine.checker()
    before = machine.memory.bytes.copy()
    (LEGAL[name] if name in LEGAL else CAUGHT[name][1])(machine)
    found, fast = compare(machine, checker, before)
    assert not (found and fast)


def test_ordinary_changes_take_the_fast_way() -> None:
    machine = Machine()
    checker = machine.checker()
    before = machine.memory.bytes.copy()
    assert compare(machine, checker, before) == ([], True)
    # A new CNode and a new page table in the arena, the table linked, a page mapped by it, an endpoint in the CNode.
    node, table = machine.arena + 0x2000, machine.arena + 0x3000
    machine.set(machine.slot(50), machine.cap("cnode_cap", capCNodePtr=machine.virtual(node), capCNodeRadix=4))
    machine.set(machine.slot(51), machine.cap("page_table_cap", capPTBasePtr=machine.virtual(table)))
    machine.set(machine.slot(3, node), machine.cap("endpoint_cap", capEPPtr=machine.virtual(machine.endpoint)))
    machine.entry(machine.pd, 5, table | 3)
    machine.entry(table, 9, machine.normal | 0x423)
    assert compare(machine, checker, before) == ([], True)


@pytest.mark.parametrize(
    ("where", "expected"),
    [("page in a new table", "ns_bit_matches_world"), ("capability in a new CNode", "world_is_inherited")],
)
def test_what_lies_behind_new_capabilities_is_judged(where: str, expected: str) -> None:
    machine = Machine()
    checker = machine.checker()
    before = machine.memory.bytes.copy()
    node, table = machine.arena + 0x2000, machine.arena + 0x3000
    machine.set(machine.slot(50), machine.cap("cnode_cap", capCNodePtr=machine.virtual(node), capCNodeRadix=4))
    machine.set(machine.slot(3, node), machine.cap("page_table_cap", capPTBasePtr=machine.virtual(table)))
    machine.entry(machine.pd, 5, table | 3)
    if where == "page in a new table":
        machine.entry(table, 9, machine.normal | 0x403)
    else:
        machine.set(machine.slot(4, node), machine.frame(machine.normal))
    assert compare(machine, checker, before) == ([expected], False)


def test_a_new_thread_with_a_device_as_buffer_is_caught() -> None:
    machine = Machine()
    checker = machine.checker()
    before = machine.memory.bytes.copy()
    thread = machine.arena + 0x4000
    pointer = machine.virtual(thread + machine.layout.tcb_offset)
    machine.set(machine.slot(50), machine.cap("thread_cap", capTCBPtr=pointer))
    machine.set(machine.slot(4, thread), machine.frame(machine.device, non_secure=True, device=True))
    assert compare(machine, checker, before) == (["ipc_buffer_not_device"], False)


def test_a_table_that_is_gone_but_linked_is_left_to_the_full_check() -> None:
    machine = Machine()
    checker = machine.checker()
    before = machine.memory.bytes.copy()
    machine.entry(machine.pd, 5, machine.arena + 0x3000 | 3)
    machine.entry(machine.arena + 0x3000, 0, machine.normal | 0x403)
    assert compare(machine, checker, before) == (["ns_bit_matches_world"], False)


def test_a_long_chain_of_new_cnodes_ends() -> None:
    machine = Machine()
    checker = machine.checker()
    before = machine.memory.bytes.copy()
    for number in range(1000):
        node = machine.arena + 0x40 * number
        holder = machine.slot(50) if not number else machine.slot(0, node - 0x40)
        machine.set(holder, machine.cap("cnode_cap", capCNodePtr=machine.virtual(node), capCNodeRadix=1))
    machine.set(machine.slot(1, node), machine.frame(machine.normal))
    assert compare(machine, checker, before) == (["world_is_inherited"], False)


@pytest.mark.parametrize("seed", range(12))
def test_random_changes_are_judged_alike(seed: int) -> None:
    machine = Machine()
    checker = machine.checker()
    before = machine.memory.bytes.copy()
    random = np.random.default_rng(seed)
    pages = [machine.arena + 4096 * i for i in range(4)] + [machine.page, machine.normal, machine.device, machine.huge]
    types = [name for name in machine.layout.cap_types if name not in ("null_cap", "reply_cap")]
    tables = [machine.pgd, machine.pud, machine.pd, machine.pt]

    def pick(items: list[Any]) -> Any:
        return items[int(random.integers(len(items)))]

    for _ in range(15):
        for _ in range(int(random.integers(1, 4))):
            kind, page = int(random.integers(4)), pick(pages)
            if kind == 0:
                machine.entry(
                    pick(tables + pages[:4]), int(random.integers(8)), page | pick([3, 0x401, 0x403, 0x421, 0x423, 0])
                )
            elif kind == 1:
                name = pick(types)
                block = machine.layout.block(name)
                fields = {
                    f: int(random.integers(1 << min(x.bits, 5)))
                    for f, x in block.fields.items()
                    if not x.left and x.bits < 48
                }
                pointer = next((f for f in block.fields if f.endswith("Ptr") or f == "capASIDPool"), None)
                if pointer:
                    fields[pointer] = machine.virtual(page)
                fields.pop("capType", None)
                container = pick([machine.cnode, machine.cnode, pages[0], machine.thread])
                machine.set(
                    machine.slot(int(random.integers(5 if container == machine.thread else 60)), container),
                    machine.cap(name, **fields),
                )
            elif kind == 2:
                machine.set(
                    machine.slot(int(random.integers(60))), machine.frame(page, non_secure=bool(random.integers(2)))
                )
            else:
                machine.memory.put(machine.slot(int(random.integers(60))), 0, 0, 0, 0)
        compare(machine, checker, before)
        if random.integers(3) == 0:
            machine.memory.bytes[:] = before


@pytest.mark.parametrize(
    ("root", "expected", "fast"),
    [("the old one", [], True), ("a new one", [], True), ("a page that is none", ["ns_bit_matches_world"], False)],
)
def test_a_new_asid_pool_leads_to_address_spaces(root: str, expected: list[str], fast: bool) -> None:
    machine = Machine()
    checker = machine.checker()
    before = machine.memory.bytes.copy()
    pool, new = machine.arena + 0x2000, machine.arena + 0x3000
    machine.set(machine.slot(50), machine.cap("asid_pool_cap", capASIDPool=machine.virtual(pool)))
    machine.set(machine.slot(51), machine.cap("page_global_directory_cap", capPGDBasePtr=machine.virtual(new)))
    machine.memory.put(machine.var("armKSASIDTable") + 8, machine.virtual(pool))
    roots = {"the old one": machine.pgd, "a new one": new, "a page that is none": machine.arena + 0x4000}
    machine.memory.put(pool + 16, machine.virtual(roots[root]))
    if expected:
        # What lies there happens to map normal RAM as if it were secure.
        table = machine.arena + 0x5000
        machine.entry(roots[root], 0, table | 3)
        machine.entry(table, 0, 0x40000000 | 0x401)
    assert compare(machine, checker, before) == (expected, fast)
