# SPDX-License-Identifier: BSD-2-Clause
"""The world family on states made by hand: what holds, what is caught, which odd states are legal."""

from __future__ import annotations

import pytest

from harness.invariants.registry import invariants
from tests.unit.kernel_state_support import Change, Machine, both, broken


def judged_after(change: Change, *, snapshot_too: bool = False) -> list[str]:
    machine = Machine()
    if snapshot_too:
        change(machine)
    checker = machine.checker()
    change(machine)
    return broken(checker.check(machine.memory, families=["world"]))


def test_the_healthy_state_holds_and_every_invariant_judges_something() -> None:
    machine = Machine()
    report = machine.checker().check(machine.memory)
    assert report.violations == []
    assert set(report.judged) == {entry.id for entry in invariants() if entry.family != "two-worlds"}
    # Answers are those of a program, and there is none.
    of_programs = {entry.id for entry in invariants(["answers"])}
    assert all(judged for name, judged in report.judged.items() if name not in of_programs)


LEGAL: dict[str, Change] = {
    "a frame whose mapping is gone": lambda m: m.entry(m.pt, 0, 0),
    "a frame that says that it is mapped elsewhere": lambda m: m.set(
        m.slot(10), m.cap("frame_cap", capFBasePtr=m.virtual(m.page), capFMappedASID=9, capFMappedAddress=0x7000)
    ),
    "no thread runs": lambda m: m.memory.put(m.var("ksCurThread"), m.virtual(m.idle + m.layout.tcb_offset)),
    "no IPC buffer": lambda m: m.memory.put(m.slot(4, m.thread), 0, 0, 0, 0),
    "the address space that runs has no ASID": lambda m: m.memory.put(m.pool + 8, 0),
    "no address space": lambda m: m.report.__setitem__("ttbr0_el1", m.var("armKSGlobalUserPGD")),
    "an empty table": lambda m: m.entry(m.pd, 0, 0),
    "a zombie": lambda m: m.set(m.slot(2), m.cap("zombie_cap", capZombieID=m.virtual(m.cnode) | 3, capZombieType=9)),
    "any badge in the SMC capability that begins a group": lambda m: m.memory.put(
        m.slot(31), *m.cap("smc_cap", capSMCBadge=99)
    ),
}


@pytest.mark.parametrize("name", LEGAL)
def test_legal_states_hold(name: str) -> None:
    assert judged_after(LEGAL[name]) == []


CAUGHT: dict[str, tuple[str, Change]] = {
    "4K secure page with NS": ("ns_bit_matches_world", lambda m: m.entry(m.pt, 0, m.page | 0x423)),
    "4K non-secure page without NS": ("ns_bit_matches_world", lambda m: m.entry(m.pt, 1, m.normal | 0x403)),
    "4K device page without NS": ("ns_bit_matches_world", lambda m: m.entry(m.pt, 2, m.device | 0x403)),
    "2M page with NS": ("ns_bit_matches_world", lambda m: m.entry(m.pd, 1, m.large | 0x421)),
    "2M non-secure page without NS": ("ns_bit_matches_world", lambda m: m.entry(m.pd, 2, 0x40400000 | 0x401)),
    "1G page without NS": ("ns_bit_matches_world", lambda m: m.entry(m.pud, 1, m.huge | 0x401)),
    "NSTable above a secure page": ("ns_bit_matches_world", lambda m: m.entry(m.pd, 0, m.pt | 3 | 1 << 63)),
    "NSTable two levels above": ("ns_bit_matches_world", lambda m: m.entry(m.pgd, 0, m.pud | 3 | 1 << 63)),
    "page of nothing": ("ns_bit_matches_world", lambda m: m.entry(m.pt, 3, 0x20000000 | 0x403)),
    "page that only TTBR0 reaches": (
        "ns_bit_matches_world",
        both(lambda m: m.memory.put(m.pool + 8, 0), lambda m: m.entry(m.pt, 0, m.page | 0x423)),
    ),
    "window: normal RAM without NS": (
        "no_cross_world_mapping",
        lambda m: m.entry(m.var("armKSGlobalKernelPDs"), 0x40400000 >> 21, 0x40400000 | 0x401),
    ),
    "window: secure RAM with NS": (
        "no_cross_world_mapping",
        lambda m: m.entry(m.var("armKSGlobalKernelPDs"), 0x0E200000 >> 21, 0x0E200000 | 0x421),
    ),
    "window: memory of the firmware": (
        "no_cross_world_mapping",
        lambda m: m.entry(m.var("armKSGlobalKernelPDs"), 0x0EE00000 >> 21, 0x0EE00000 | 0x401),
    ),
    "window: a device that it must not map": (
        "no_cross_world_mapping",
        lambda m: m.entry(m.var("armKSGlobalKernelPDs"), 0, 0x09000000 | 0x421),
    ),
    "another table in TTBR1": ("no_cross_world_mapping", lambda m: m.report.__setitem__("ttbr1_el1", m.pgd)),
    "endpoint in normal memory": (
        "kernel_objects_in_secure_memory",
        lambda m: m.set(m.slot(40), m.cap("endpoint_cap", capEPPtr=m.virtual(m.normal))),
    ),
    "thread in a device": (
        "kernel_objects_in_secure_memory",
        lambda m: m.set(m.slot(40), m.cap("thread_cap", capTCBPtr=m.virtual(m.device))),
    ),
    "CNode that reaches into the firmware's memory": (
        "kernel_objects_in_secure_memory",
        lambda m: m.set(
            m.slot(40), m.cap("cnode_cap", capCNodePtr=m.virtual(0x0EDFF000), capCNodeRadix=8, capCNodeGuardSize=0)
        ),
    ),
    "page table in normal memory": (
        "kernel_objects_in_secure_memory",
        lambda m: m.set(m.slot(40), m.cap("page_table_cap", capPTBasePtr=m.virtual(m.normal))),
    ),
    "table outside of secure memory": ("kernel_objects_in_secure_memory", lambda m: m.entry(m.pd, 3, m.normal | 3)),
    "secure frame that says non-secure": (
        "world_is_inherited",
        lambda m: m.set(m.slot(40), m.frame(m.page, non_secure=True)),
    ),
    "non-secure frame that says secure": ("world_is_inherited", lambda m: m.set(m.slot(11), m.frame(m.normal))),
    "frame that says device": ("world_is_inherited", lambda m: m.set(m.slot(40), m.frame(m.page, device=True))),
    "device frame that does not say device": (
        "world_is_inherited",
        lambda m: m.set(m.slot(40), m.frame(m.device, non_secure=True)),
    ),
    "non-secure untyped that says secure": (
        "world_is_inherited",
        lambda m: m.set(m.slot(40), m.untyped(0x40400000, 22)),
    ),
    "untyped over two regions": (
        "world_is_inherited",
        lambda m: m.set(m.slot(40), m.untyped(0x40000000, 30, non_secure=True)),
    ),
    "untyped of reserved memory": (
        "world_is_inherited",
        lambda m: m.set(m.slot(40), m.untyped(m.config.region("gpio").base, 12, non_secure=True, device=True)),
    ),
    "IPC buffer in a device": (
        "ipc_buffer_not_device",
        lambda m: m.set(m.slot(4, m.thread), m.frame(m.device, non_secure=True, device=True)),
    ),
    "IPC buffer that is no frame": ("ipc_buffer_not_device", lambda m: m.set(m.slot(4, m.thread), m.cap("domain_cap"))),
    "mapping of the firmware's RAM": ("el3_untouched", lambda m: m.entry(m.pt, 3, m.config.firmware_ram.base | 0x403)),
    "mapping of flash": ("el3_untouched", lambda m: m.entry(m.pt, 3, 0x1000 | 0x403)),
    "frame of the firmware's RAM": ("el3_untouched", lambda m: m.set(m.slot(40), m.frame(m.config.firmware_ram.base))),
    "untyped of flash": ("el3_untouched", lambda m: m.set(m.slot(40), m.untyped(0x2000000, 24))),
    "SCR_EL3 changed": ("el3_untouched", lambda m: m.report.__setitem__("scr_el3", 0x1431)),
    "badge of an SMC capability differs from what it was copied from": (
        "smc_authority",
        both(
            lambda m: m.set(m.slot(32), m.cap("smc_cap", capSMCBadge=8)),
            lambda m: m.memory.put(m.slot(31) + 16, *m.node(m.slot(32), m.slot(30), first_badged=True)),
            lambda m: m.memory.put(m.slot(32) + 16, *m.node(0, m.slot(31))),
        ),
    ),
}


@pytest.mark.parametrize("name", CAUGHT)
def test_violations_are_caught(name: str) -> None:
    expected, change = CAUGHT[name]
    assert expected in judged_after(change)


@pytest.mark.parametrize(
    "name", ["1G page without NS", "non-secure frame that says secure", "endpoint in normal memory"]
)
def test_the_snapshot_is_judged_too(name: str) -> None:
    expected, change = CAUGHT[name]
    assert judged_after(change, snapshot_too=True) == [expected]


def test_a_frame_of_the_firmware_is_one_finding_and_not_two() -> None:
    assert judged_after(CAUGHT["frame of the firmware's RAM"][1]) == ["el3_untouched"]


def test_banked_devices_take_the_world_of_their_capability() -> None:
    machine = Machine()
    gicc = machine.config.region("gicc").base
    machine.set(machine.slot(40), machine.frame(gicc, non_secure=True, device=True))
    checker = machine.checker()

    def ns_broken(ns: int) -> bool:
        machine.entry(machine.pt, 3, gicc | 0x403 | ns)
        return "ns_bit_matches_world" in broken(checker.check(machine.memory))

    assert not ns_broken(0x20)
    assert ns_broken(0)


def test_evidence_names_entry_memory_and_world() -> None:
    machine = Machine()
    machine.entry(machine.pt, 1, machine.normal | 0x403)
    (violation,) = machine.checker().check(machine.memory, families=["world"]).violations
    assert violation.object_kind == "pte"
    assert "normal-ram" in violation.message
    assert violation.evidence["index"] == 1
    assert violation.evidence["physical"] == hex(machine.normal)
    assert str(violation).startswith("ns_bit_matches_world: ")
