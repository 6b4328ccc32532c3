# SPDX-License-Identifier: BSD-2-Clause
"""Objects, derivation, tables and ASIDs on states made by hand."""

from __future__ import annotations

import pytest

from tests.unit.kernel_state_support import BOOT_INFO, Change, Machine, both, broken

FAMILIES = ["objects", "cdt", "vspace"]


def judged_after(change: Change) -> list[str]:
    machine = Machine()
    checker = machine.checker()
    change(machine)
    return sorted(broken(checker.check(machine.memory, families=FAMILIES)))


def _cnode(address: int, radix: int = 2, **fields: int) -> Change:
    return lambda m: m.set(
        m.slot(60), m.cap("cnode_cap", capCNodePtr=m.virtual(address), capCNodeRadix=radix, **fields)
    )


def _in_arena(m: Machine, *slots: int) -> None:
    """Make capabilities descend from the arena."""
    m.link(m.slot(20), m.slot(21), *(m.slot(number) for number in slots))


def _table(m: Machine, number: int, *, mapped: int = 0, address: int = 0, at: int = 0x8000) -> None:
    cap = m.cap(
        "page_table_cap",
        capPTBasePtr=m.virtual(m.arena + at),
        capPTIsMapped=mapped,
        capPTMappedASID=mapped,
        capPTMappedAddress=address,
    )
    m.set(m.slot(number), cap)


def _nowhere(m: Machine) -> None:
    """Nobody's address space is live."""
    m.report["ttbr0_el1"] = m.var("armKSGlobalUserPGD")


def _second_cap(m: Machine, *, linked: bool) -> None:
    """A copy of the endpoint's capability."""
    m.set(m.slot(60), m.cap("endpoint_cap", capEPPtr=m.virtual(m.endpoint)))
    if linked:
        m.link(m.slot(8), m.slot(60))


def _frame_again(m: Machine, at: int | None) -> None:
    m.set(m.slot(10), m.frame(m.page, at=at))


ARENA = 0x0E200000
LEGAL: dict[str, Change] = {
    "as it is": lambda m: None,
    "a table that was never mapped": both(lambda m: _table(m, 60), lambda m: _in_arena(m, 60)),
    "two capabilities to a mapped table": both(
        lambda m: _table(m, 60, mapped=1, address=0x600000),
        lambda m: _table(m, 61, mapped=1, address=0x600000),
        lambda m: _in_arena(m, 60, 61),
    ),
    "a mapped table whose place holds nothing": lambda m: m.entry(m.pd, 0, 0),
    "a table with entries that no ASID reaches": both(
        lambda m: _table(m, 60, mapped=1, address=0x600000),
        lambda m: m.entry(m.arena + 0x8000, 3, 0x403),
        lambda m: _in_arena(m, 60),
    ),
    "a frame whose mapping is gone": lambda m: m.entry(m.pt, 0, 0),
    "a frame that says where it was mapped before": both(
        lambda m: m.entry(m.pt, 0, 0), lambda m: _frame_again(m, 0x7000)
    ),
    "a copy next to its original": lambda m: _second_cap(m, linked=True),
    "an ASID pool that was deleted": both(
        lambda m: m.memory.put(m.var("armKSASIDTable"), 0), lambda m: m.memory.put(m.slot(7), 0, 0, 0, 0), _nowhere
    ),
    "a pool that is not in the table any more": both(lambda m: m.memory.put(m.var("armKSASIDTable"), 0), _nowhere),
    "a CNode without guard": both(_cnode(ARENA + 0x100), lambda m: _in_arena(m, 60)),
    "an object whose untyped was not made by Retype": _cnode(0x0E12A000),
}


@pytest.mark.parametrize("name", LEGAL)
def test_legal_states_hold(name: str) -> None:
    assert judged_after(LEGAL[name]) == []


CAUGHT: dict[str, tuple[list[str], Change]] = {
    # objects
    "a CNode that is not aligned": (["pspace_aligned"], _cnode(0x0E12A020)),
    "a pointer into a thread": (
        ["pspace_aligned"],
        lambda m: m.set(m.slot(53), m.cap("thread_cap", capTCBPtr=m.tcb(m.caller) + 8)),
    ),
    "an endpoint in a page table": (
        ["pspace_distinct"],
        lambda m: m.set(m.slot(60), m.cap("endpoint_cap", capEPPtr=m.virtual(m.page + 0x40))),
    ),
    "two kinds of object at one address": (
        ["pspace_distinct"],
        lambda m: m.set(
            m.slot(60), m.cap("page_table_cap", capPTBasePtr=m.virtual(m.boot_info), capPTIsMapped=1, capPTMappedASID=1)
        ),
    ),
    "a CNode of another size": (
        ["descendants_inc", "pspace_distinct", "untyped_mdb"],
        lambda m: m.set(m.slot(60), m.cap("cnode_cap", capCNodePtr=m.virtual(m.cnode), capCNodeRadix=6)),
    ),
    "an object outside of the window": (
        ["pspace_in_kernel_window"],
        lambda m: m.entry(m.var("armKSGlobalKernelPDs"), m.large >> 21, 0),
    ),
    "an object that the window maps elsewhere": (
        ["pspace_in_kernel_window", "valid_global_vspace_mappings"],
        lambda m: m.entry(m.var("armKSGlobalKernelPDs"), m.large >> 21, m.arena | 0x401),
    ),
    "a frame of the kernel's data": (
        ["valid_global_refs"],
        lambda m: m.set(m.slot(60), m.frame(m.var("ksCurThread") & -4096)),
    ),
    "a capability to the idle thread": (
        ["valid_global_refs"],
        lambda m: m.set(m.slot(60), m.cap("thread_cap", capTCBPtr=m.tcb(m.idle))),
    ),
    "an untyped of the IRQ node": (
        ["ut_revocable", "valid_global_refs"],
        lambda m: m.set(m.slot(60), m.untyped(m.irq_node, 13, 1 << 13), revocable=False),
    ),
    "an unknown type of capability": (["valid_objs"], lambda m: m.memory.put(m.slot(60), 31)),
    "a guard that is too long": (["valid_objs"], _cnode(0x0E12A000, capCNodeGuardSize=63)),
    "a guard that does not fit its size": (["valid_objs"], _cnode(0x0E12A000, capCNodeGuardSize=2, capCNodeGuard=7)),
    "a frame of no size": (["valid_objs"], lambda m: m.set(m.slot(60), m.frame(0x0E12A000, 3))),
    "a frame mapped at a crooked address": (
        ["valid_objs"],
        lambda m: m.set(m.slot(60), m.frame(0x0E12A000, at=0x1234)),
    ),
    "a frame mapped at the kernel's address": (
        ["valid_objs"],
        lambda m: m.set(m.slot(60), m.frame(0x0E12A000, at=0xFFFFFF8000000000)),
    ),
    "a table mapped in no ASID": (
        ["valid_objs"],
        lambda m: m.set(m.slot(60), m.cap("page_table_cap", capPTBasePtr=m.virtual(0x0E12A000), capPTIsMapped=1)),
    ),
    "an ASID pool with a crooked base": (
        ["valid_objs", "valid_vs_lookup"],
        lambda m: m.set(m.slot(7), m.cap("asid_pool_cap", capASIDPool=m.virtual(m.pool), capASIDBase=1)),
    ),
    "an impossible state of a thread": (
        ["valid_objs"],
        lambda m: m.memory.put(m.caller + m.layout.tcb_offset + 800, 9),
    ),
    "a priority that is too high": (["valid_objs"], lambda m: m.member(m.caller, "tcbPriority", 128)),
    "a domain that there is not": (["valid_objs"], lambda m: m.member(m.caller, "tcbDomain", 2)),
    "a page of boot information that there is not": (
        ["boot_information"],
        lambda m: m.memory.put(m.boot_info + 168, 1),
    ),
    "a second processor": (["boot_information"], lambda m: m.memory.put(m.boot_info + 144, 2)),
    "an empty slot that is not": (["boot_information"], lambda m: m.memory.put(m.boot_info + 176, 111)),
    "an untyped that is told smaller than it is": (
        ["boot_information"],
        lambda m: m.set(m.slot(110), m.untyped(m.arena, 19)),
    ),
    "an untyped of the wrong world": (
        ["boot_information"],
        lambda m: m.memory.put(m.boot_info + BOOT_INFO["untypedList"], m.arena, 18 << 16 | 1),
    ),
    "no boot information": (["boot_information"], lambda m: m.memory.put(m.slot(9), 0, 0, 0, 0)),
    "no time left": (["valid_objs"], lambda m: m.member(m.thread, "tcbTimeSlice", 0)),
    "more time than there is": (["valid_objs"], lambda m: m.member(m.ready, "tcbTimeSlice", 6)),
    "an impossible fault": (["valid_objs"], lambda m: m.member(m.caller, "tcbFault", 4)),
    "a crooked IPC buffer": (["valid_objs"], lambda m: m.member(m.caller, "tcbIPCBuffer", 0x1008)),
    "an address space that is none": (
        ["valid_objs"],
        lambda m: m.set(m.slot(1, m.caller), m.cap("domain_cap")),
    ),
    "a thread that receives with a caller": (
        ["valid_objs"],
        lambda m: m.state(m.thread, "BlockedOnReceive", m.endpoint),
    ),
    "an idle endpoint with a queue": (
        ["valid_objs"],
        lambda m: m.queue("endpoint", m.endpoint, "EPState_Idle", m.sender),
    ),
    "an endpoint that waits for nobody": (
        ["valid_objs"],
        lambda m: m.queue("endpoint", m.endpoint, "EPState_Recv"),
    ),
    "a notification with a message and a queue": (
        ["valid_objs"],
        lambda m: m.queue("notification", m.notification, "NtfnState_Active", m.waiter),
    ),
    "somebody waits for a bound notification": (
        ["valid_objs"],
        lambda m: m.queue("notification", m.bound, "NtfnState_Waiting", m.waiter, bound=m.thread),
    ),
    "an impossible state of an endpoint": (["valid_objs"], lambda m: m.memory.put(m.endpoint, 3)),
    # cdt
    "an object that does not descend from its untyped": (["untyped_mdb"], _cnode(ARENA + 0x100)),
    "copies of one capability apart": (["descendants_inc"], lambda m: _second_cap(m, linked=False)),
    "something between copies": (
        ["descendants_inc"],
        both(
            lambda m: _second_cap(m, linked=True),
            lambda m: m.set(m.slot(61), m.cap("domain_cap")),
            lambda m: m.link(m.slot(8), m.slot(61), m.slot(60)),
        ),
    ),
    "two handlers of one interrupt apart": (
        ["descendants_inc"],
        lambda m: m.set(m.slot(60), m.cap("irq_handler_cap", capIRQ=90)),
    ),
    "an untyped that is not revocable": (
        ["ut_revocable"],
        lambda m: m.set(m.slot(22), m.untyped(0x0E800000, 22), revocable=False),
    ),
    # vspace
    "a table that is not mapped and not empty": (
        ["valid_table_caps"],
        both(
            lambda m: _table(m, 60),
            lambda m: m.entry(m.arena + 0x8000, 3, 1),
            lambda m: _in_arena(m, 60),
        ),
    ),
    "two capabilities to a table mapped in two places": (
        ["unique_table_refs"],
        both(
            lambda m: _table(m, 60, mapped=1, address=0x600000),
            lambda m: _table(m, 61, mapped=1, address=0x800000),
            lambda m: _in_arena(m, 60, 61),
        ),
    ),
    "two capabilities to a table that is not mapped": (
        ["unique_table_refs"],
        both(lambda m: _table(m, 60), lambda m: _table(m, 61), lambda m: _in_arena(m, 60, 61)),
    ),
    "a page whose capability is not mapped": (["valid_vs_lookup"], lambda m: _frame_again(m, None)),
    "a page whose capability is mapped elsewhere": (["valid_vs_lookup"], lambda m: _frame_again(m, 0x5000)),
    "a page at another address than its capability's": (
        ["valid_vs_lookup"],
        lambda m: m.entry(m.pt, 9, m.page | 0xC03),
    ),
    "a table whose capability is mapped elsewhere": (
        ["valid_vs_lookup"],
        lambda m: m.set(
            m.slot(6),
            m.cap(
                "page_table_cap",
                capPTBasePtr=m.virtual(m.pt),
                capPTIsMapped=1,
                capPTMappedASID=1,
                capPTMappedAddress=0x400000,
            ),
        ),
    ),
    "an ASID whose root says another": (
        ["valid_arch_state", "valid_vs_lookup"],
        lambda m: m.memory.put(m.pool + 16, m.virtual(m.pgd)),
    ),
    "a pool twice in the table": (
        ["valid_arch_state", "valid_vs_lookup"],
        lambda m: m.memory.put(m.var("armKSASIDTable") + 8, m.virtual(m.pool)),
    ),
    "a pool without capability": (["valid_vs_lookup"], lambda m: m.memory.put(m.slot(7), 0, 0, 0, 0)),
    "a crooked pool": (
        ["valid_arch_state", "valid_vs_lookup", "valid_vspace_objs"],
        lambda m: m.memory.put(m.var("armKSASIDTable") + 8, m.virtual(m.pool + 8)),
    ),
    "something in the empty root": (["valid_arch_state"], lambda m: m.entry(m.var("armKSGlobalUserPGD"), 3, 2)),
    "the live address space without its ASID": (
        ["valid_arch_state"],
        lambda m: m.report.__setitem__("ttbr0_el1", m.pgd | 2 << 48),
    ),
    "an FPU owner that is no thread": (
        ["valid_arch_state"],
        lambda m: m.memory.put(m.var("ksActiveFPUState"), m.virtual(m.arena + 0x800)),
    ),
}


@pytest.mark.parametrize("name", CAUGHT)
def test_violations_are_caught_by_what_they_break_alone(name: str) -> None:
    expected, change = CAUGHT[name]
    assert judged_after(change) == expected
