# SPDX-License-Identifier: BSD-2-Clause
"""Pools: the values that a byte of a program can choose for each kind of parameter.

A selector of 0xff takes the call's raw 64-bit value instead, except in closed pools.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.build.smc_functions import CALL_64, FAST_CALL, OWNER_SHIFT, Owner
from harness.configs import TIMER_LINE
from harness.programs.population import ALL_RIGHTS, OBJECT_TYPES, RIGHTS, Population

RAW_SELECTOR = 0xFF
_GUARD_SHIFT = 2
"""Where cnode_capdata has the size of the guard."""

MAXIMUM_WORD = (1 << 64) - 1
_WORDS = (0, 1, 2, 3, 0x10, 0x40, 0x1000, 0x80000000, 0xFFFFFFFF, 1 << 63, MAXIMUM_WORD)
_DIRTY = 0xDEADBEEF << 32
"""In the upper half of a register, where a function of 32 bits must ignore it."""
_UNKNOWN_NUMBER = 0xFF13
_SMC_ARGUMENTS = (_DIRTY, _DIRTY | 1, _DIRTY | 0x84000000, 0xC2000002, 0x0E000000, 0x0EE00000, 0x40200000)
"""Halves, identifiers of functions, and addresses in RAM of kernel, firmware and normal world."""


@dataclass(frozen=True)
class Pool:
    """Values of one kind. `names` maps readable names to values; `closed` pools have no raw escape."""

    kind: str
    values: tuple[int, ...]
    names: tuple[tuple[str, int], ...] = ()
    closed: bool = False

    def value(self, selector: int, raw: int) -> int:
        """The value that a selector byte stands for."""
        if selector == RAW_SELECTOR and not self.closed:
            return raw
        return self.values[selector % len(self.values)]

    def name(self, value: int) -> str | None:
        """The readable name of a value, if it has one."""
        return next((name for name, named in self.names if named == value), None)


def _named(kind: str, names: Mapping[str, int], more: Sequence[int] = ()) -> Pool:
    values = list(dict.fromkeys([*names.values(), *more]))
    return Pool(kind, tuple(values), tuple(names.items()))


def smc_identifiers(known: Iterable[int]) -> list[int]:
    """Function identifiers beside the known ones, which a firmware must refuse.

    Neighbours of each known one: of the other width, a yielding call, another number, with bits that must be 0, and
    with a value in the upper half of x0. And for each owner one unknown function of each width, fast and yielding.
    """
    flips = (CALL_64, FAST_CALL, 0x80, 1 << 16, _DIRTY)
    near = [function ^ flip for function in known for flip in flips]
    far = [
        fast | width | owner.number << OWNER_SHIFT | _UNKNOWN_NUMBER
        for owner in Owner
        for fast in (FAST_CALL, 0)
        for width in (0, CALL_64)
    ]
    return [*near, *far, 0, 0x8400000B, 0xC3FFFFFF, MAXIMUM_WORD]


def guard_data(cnode_bits: int) -> int:
    """The data word that gives a capability table of 2^cnode_bits slots a guard up to 64 bits."""
    return (64 - cnode_bits) << _GUARD_SHIFT


def make_pools(population: Population, smc_functions: Mapping[str, int], labels: Mapping[str, int]) -> dict[str, Pool]:
    """All pools by kind. `labels` are the invocation labels that a Send may carry."""
    bits = population.cnode_bits
    rights = {
        "read-write": RIGHTS["read"] | RIGHTS["write"],
        "all": ALL_RIGHTS,
        "read": RIGHTS["read"],
        "write": RIGHTS["write"],
        "grant": RIGHTS["grant"],
        "none": 0,
        "read-grant": RIGHTS["read"] | RIGHTS["grant"],
        "write-grant": RIGHTS["write"] | RIGHTS["grant"],
    }
    attributes = {"cached": 3, "device": 0, "cached-execute-never": 7, "device-execute-never": 4}
    smc_badges = {f"smc:{name}": value for name, value in smc_functions.items()}
    badges = (0, 1, 2, 0x51, 0xFF, guard_data(bits), guard_data(4), MAXIMUM_WORD)
    mapped = population.mapped_addresses()
    code, stack = population.addresses.code, population.addresses.state + 0xFF0
    pools = [
        Pool("depth", (64, bits, 0, 1, bits - 1, bits + 1, 64 - bits, 63, 65, 128, 255)),
        Pool("node_index", (0, 1, 2, 1 << (bits - 1), MAXIMUM_WORD)),
        Pool("node_depth", (0, 64, bits, 1, 64 - bits)),
        Pool("count", (1, 2, 3, 4, 8, 0, 16, 64, 256, 257)),
        _named("object_type", {name: i for i, name in enumerate(OBJECT_TYPES)}, (len(OBJECT_TYPES), MAXIMUM_WORD)),
        Pool("size_bits", (12, 4, 5, 1, 2, 3, 6, 7, 8, 9, 10, 11, 13, 14, 16, 18, 21, 30, 0, 47, 48, 63, 64)),
        _named("rights", rights, (MAXIMUM_WORD,)),
        _named("attributes", attributes, (1, 2, MAXIMUM_WORD)),
        Pool("vaddr", tuple(mapped)),
        # Cleaning a 1 GiB frame takes the kernel half a second: no program asks for that.
        Pool("clean_start", (0, 8, 0x40, 0x800, 0x1000, MAXIMUM_WORD), closed=True),
        Pool("clean_end", (0x1000, 0x40, 0x48, 0x800, 0, 0x1001, 0x2000, MAXIMUM_WORD), closed=True),
        Pool("offset", (0, 8, 0x40, 0x800, 0x1000, 0x1FF000, 0x200000, 0x40000000, MAXIMUM_WORD)),
        Pool("vaddr_end", tuple(dict.fromkeys([*(a + 0x40 for a in mapped), *(a + 0x1000 for a in mapped), 0]))),
        _named("badge", smc_badges, badges),
        Pool("cnode_data", (0, guard_data(bits), guard_data(4), 1, guard_data(bits) | 1 << 20, MAXIMUM_WORD)),
        Pool("priorities", (0x3232, 0x6464, 0, 0x64, 0x6400, 0xFFFF, 0x1FFFF)),
        Pool("priority", (50, 100, 0, 1, 99, 101, 254, 255, 256)),
        Pool("irq", (92, 93, 90, 91, TIMER_LINE, 30, 27, 0, 255, 256, 0xFFFFFFFF)),
        Pool("line", (90, 91, TIMER_LINE, 92, 27, 0, 255), closed=True),
        Pool("ticks", (1, 2, 3, 5, 8, 12), closed=True),
        Pool("unknown_syscall", (0, 1, 0x40, 1 << 32, 1 << 63, MAXIMUM_WORD - 0xFFF), closed=True),
        Pool("domain", (1, 0, 2, 15, 16, 255)),
        Pool("flag", (0, 1)),
        Pool("register_count", (34, 1, 2, 3, 4, 9, 0, 35, 36, 255, MAXIMUM_WORD)),
        Pool("small", (1, 0, 2, 3, 8, 16, 34, 35, 255, 0xFFFF)),
        Pool("word", _WORDS),
        Pool("registers", (0, 1, code, stack, 0x10000000, 0x60000340, MAXIMUM_WORD)),
        _named("smc_function", smc_functions, smc_identifiers(smc_functions.values())),
        _named("smc_argument", {}, (*_WORDS, *smc_functions.values(), *_SMC_ARGUMENTS)),
        Pool("label", tuple(dict.fromkeys([0, 1, *labels.values(), 0xFFFFF])), tuple(labels.items()), closed=True),
        Pool("length", (0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 119, 120, 121, 127), closed=True),
        Pool("cap_count", (0, 1, 2, 3), closed=True),
    ]
    for pool in pools:
        assert len(set(pool.values)) == len(pool.values) < RAW_SELECTOR, f"pool {pool.kind} has duplicate values"
    return {pool.kind: pool for pool in pools}
