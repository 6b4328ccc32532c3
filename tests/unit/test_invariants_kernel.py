# SPDX-License-Identifier: BSD-2-Clause
"""Untypeds, derivation tree and address spaces on states made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from harness.invariants.registry import Context, Judgement, get, invariant, invariants
from tests.unit.kernel_state_support import Change, Machine, both, broken

FAMILIES = ["untyped", "cdt", "vspace"]


def judged_after(change: Change) -> list[str]:
    machine = Machine()
    checker = machine.checker()
    change(machine)
    return broken(checker.check(machine.memory, families=FAMILIES))


def _child_untyped(m: Machine, *, free: int = 0x20000, linked: bool = True, base: int = 0x10000) -> None:
    """An untyped of 64 KiB inside the arena, whose free part begins at `free`."""
    m.set(m.slot(20), m.untyped(m.arena, 18, free))
    m.set(m.slot(25), m.untyped(m.arena + base, 16))
    if linked:
        m.link(m.slot(20), m.slot(25), m.slot(21))


def _copy(m: Machine, *, free: int) -> None:
    """A second capability to the same untyped, derived from the first."""
    m.memory.put(m.slot(21), 0, 0, 0, 0)
    m.set(m.slot(20), m.untyped(m.arena, 18, free))
    m.set(m.slot(25), m.untyped(m.arena, 18))
    m.link(m.slot(20), m.slot(25))


def _loop(m: Machine) -> None:
    a, b = m.slot(20), m.slot(21)
    m.memory.put(a + 16, *m.node(b, b))
    m.memory.put(b + 16, *m.node(a, a))


def _tail_into_loop(m: Machine) -> None:
    _loop(m)
    m.memory.put(m.slot(8) + 16, *m.node(m.slot(20), 0))


def in_no_address_space(machine: Machine) -> None:
    """What the kernel runs in when the ASID of the current thread's address space has gone."""
    machine.report["ttbr0_el1"] = machine.var("armKSGlobalUserPGD")


LEGAL: dict[str, Change] = {
    "a full untyped": lambda m: m.set(m.slot(22), m.untyped(0x0E800000, 22, 1 << 22)),
    "an untyped that is reset in part": lambda m: m.set(m.slot(22), m.untyped(0x0E800000, 22, 0x300)),
    "an untyped made from an untyped": _child_untyped,
    "a copied untyped whose parent is full": lambda m: _copy(m, free=1 << 18),
    "objects gone from an untyped that remembers them": both(
        lambda m: m.memory.put(m.slot(21), 0, 0, 0, 0), lambda m: m.memory.put(m.slot(20) + 16, *m.node(0, 0))
    ),
    "a frame whose mapping is gone": lambda m: m.entry(m.pt, 0, 0),
    "a table that no address space reaches": lambda m: m.entry(m.pgd, 0, 0),
    "an empty ASID pool": both(lambda m: m.memory.put(m.pool + 8, 0), in_no_address_space),
    "an unlinked capability": lambda m: m.memory.put(m.slot(8) + 16, *m.node(0, 0)),
    "entries that are not valid": lambda m: m.entry(m.pt, 77, 0xFFFF_FFFF_FFFF_FFFE),
    "a CNode in a CNode": both(
        lambda m: m.set(m.slot(40), m.cap("cnode_cap", capCNodePtr=m.virtual(m.arena + 0x100), capCNodeRadix=2)),
        lambda m: m.link(m.slot(20), m.slot(40), m.slot(21)),
    ),
}


@pytest.mark.parametrize("name", LEGAL)
def test_legal_states_hold(name: str) -> None:
    assert judged_after(LEGAL[name]) == []


CAUGHT: dict[str, tuple[str, Change]] = {
    "free index behind the end": (
        "valid_untyped",
        lambda m: m.set(m.slot(22), m.untyped(0x0E800000, 22, (1 << 22) + 16)),
    ),
    "not aligned": ("valid_untyped", lambda m: m.set(m.slot(22), m.untyped(0x0E810000, 22))),
    "too small": ("valid_untyped", lambda m: m.set(m.slot(22), m.untyped(0x0E800000, 3))),
    "too large": ("valid_untyped", lambda m: m.set(m.slot(22), m.untyped(0, 48))),
    "object in the free part": ("valid_untyped", lambda m: m.set(m.slot(20), m.untyped(m.arena, 18, 0))),
    "object reaches into the free part": (
        "valid_untyped",
        lambda m: (m.set(m.slot(20), m.untyped(m.arena, 18, 0x800)), m.set(m.slot(40), m.frame(m.arena))),
    ),
    "object begins before the untyped": (
        "valid_untyped",
        lambda m: m.set(m.slot(40), m.untyped(m.large + 0x10000, 16, 1 << 16)),
    ),
    "untyped inside of an object": ("valid_untyped", lambda m: m.set(m.slot(40), m.untyped(m.page, 5, 32))),
    "untyped in the free part of another": ("untyped_inc", lambda m: _child_untyped(m, free=0x1000)),
    "untyped not derived from what holds it": ("untyped_inc", lambda m: _child_untyped(m, linked=False)),
    "derived the wrong way round": (
        "untyped_inc",
        both(_child_untyped, lambda m: m.link(m.slot(25), m.slot(20), m.slot(21))),
    ),
    "parent not revocable": (
        "untyped_inc",
        both(_child_untyped, lambda m: m.link(m.slot(20), m.slot(25), m.slot(21), revocable=False)),
    ),
    "copied untyped whose parent offers the same": ("untyped_inc", lambda m: _copy(m, free=0)),
    "untypeds that cross": ("untyped_inc", lambda m: m.set(m.slot(40), m.untyped(m.arena + 0x3000, 18))),
    "mdbNext to nowhere": ("mdb_cte_at", lambda m: m.memory.put(m.slot(8) + 16, *m.node(m.arena + 0x5000, 0))),
    "mdbNext to an empty slot": ("mdb_cte_at", lambda m: m.memory.put(m.slot(8) + 16, *m.node(m.slot(99), 0))),
    "mdbPrev to nowhere": ("mdb_cte_at", lambda m: m.memory.put(m.slot(8) + 16, *m.node(0, m.arena + 0x5000))),
    "mdbNext that is not returned": ("mdb_cte_at", lambda m: m.memory.put(m.slot(8) + 16, *m.node(m.slot(10), 0))),
    "mdbPrev that is not returned": ("mdb_cte_at", lambda m: m.memory.put(m.slot(8) + 16, *m.node(0, m.slot(10)))),
    "empty slot that is linked": ("mdb_cte_at", lambda m: m.memory.put(m.slot(99) + 16, *m.node(m.slot(8), 0))),
    "loop of two": ("no_mloop", _loop),
    "loop of one": ("no_mloop", lambda m: m.memory.put(m.slot(8) + 16, *m.node(m.slot(8), m.slot(8)))),
    "a tail that leads into a loop": ("no_mloop", _tail_into_loop),
    "entry of an unknown frame": ("valid_vspace_objs", lambda m: m.entry(m.pt, 3, m.arena | 0x403)),
    "entry of another size than the frame": ("valid_vspace_objs", lambda m: m.entry(m.pt, 3, m.large | 0x403)),
    "entry of an unknown table": ("valid_vspace_objs", lambda m: m.entry(m.pd, 5, m.arena | 3)),
    "entry of a table of the wrong level": ("valid_vspace_objs", lambda m: m.entry(m.pd, 5, m.pud | 3)),
    "entry of a table that loops": ("valid_vspace_objs", lambda m: m.entry(m.pud, 5, m.pgd | 3)),
    "table outside of secure memory": ("valid_vspace_objs", lambda m: m.entry(m.pd, 5, m.normal | 3)),
    "reserved entry of the last level": ("valid_vspace_objs", lambda m: m.entry(m.pt, 3, m.page | 0x401)),
    "block at level 0": ("valid_vspace_objs", lambda m: m.entry(m.pgd, 3, 0x401)),
    "ASID of what is no table": (
        "valid_vspace_objs",
        lambda m: m.memory.put(m.pool + 16, m.virtual(m.endpoint & -4096)),
    ),
    "ASID that leads out of secure memory": (
        "valid_vspace_objs",
        lambda m: m.memory.put(m.pool + 16, m.virtual(m.normal)),
    ),
}


@pytest.mark.parametrize("name", CAUGHT)
def test_violations_are_caught(name: str) -> None:
    expected, change = CAUGHT[name]
    assert expected in judged_after(change)


@pytest.mark.parametrize("seed", range(12))
def test_corrupt_memory_gives_violations_and_never_an_error(seed: int) -> None:
    machine = Machine()
    checker = machine.checker()
    random = np.random.default_rng(seed)
    words = machine.memory.words
    used = np.flatnonzero(words)
    if seed % 3 == 0:
        words[random.choice(used, 60)] = random.integers(0, 1 << 63, 60).astype(np.uint64)
    elif seed % 3 == 1:
        words[random.choice(used, 80)] = words[random.choice(used, 80)]
    else:
        words[:] = random.integers(0, 1 << 63, len(words)).astype(np.uint64)
    report = checker.check(machine.memory)
    assert report.violations
    assert not [violation for violation in report.violations if violation.object_kind == "state"]
    assert report.seconds < 5


def test_an_id_is_registered_once() -> None:
    def check(context: Context) -> Judgement:
        """Nothing."""
        return Judgement()

    with pytest.raises(ValueError, match="no_mloop"):
        invariant("no_mloop", family="x", reference="y")(check)
    assert get("no_mloop").family == "cdt"
    assert all(entry.summary and entry.reference for entry in invariants())
