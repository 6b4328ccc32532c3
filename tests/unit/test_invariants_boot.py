# SPDX-License-Identifier: BSD-2-Clause
"""What the kernel sets up once, on states made by hand: all memory, the initial thread's spaces, its own window."""

from __future__ import annotations

import pytest

from tests.unit.kernel_state_support import BOOT_INFO, FIRST_UNTYPED, Change, Machine, both, broken

PAGING, FRAMES = 106, 109
NEVER_EXECUTE, NORMAL, NOT_GLOBAL, ACCESSED, READ_ONLY, USER = 1 << 54, 4 << 2, 1 << 11, 1 << 10, 1 << 7, 1 << 6


def _untyped(m: Machine, number: int, bits: int) -> None:
    """Tell another size of an untyped."""
    m.memory.view(m.boot_info + BOOT_INFO["untypedList"] + 12 * number + 10, 1)[:] = [bits]


def _space(m: Machine, *, buffer: int = 0x1000, level: str = "page_table_cap", executable: bool = True) -> None:
    """Put capabilities to tables and to a page of the image where the boot information says; `buffer`: where it is."""
    for slot, name, prefix, table in (
        (PAGING, "page_upper_directory_cap", "PUD", m.pud),
        (PAGING + 1, "page_directory_cap", "PD", m.pd),
        (PAGING + 2, level, "PT" if level == "page_table_cap" else "PD", m.pt if level == "page_table_cap" else m.pd),
    ):
        fields = {f"cap{prefix}BasePtr": m.virtual(table), f"cap{prefix}IsMapped": 1, f"cap{prefix}MappedASID": 1}
        m.set(m.slot(slot), m.cap(name, **fields))
        m.set(m.slot({m.pud: 4, m.pd: 5, m.pt: 6}[table]), (0, 0))
    m.set(m.slot(FRAMES), m.frame(m.page, at=0))
    m.set(m.slot(10), (0, 0))
    m.memory.put(m.boot_info + BOOT_INFO["ipcBuffer"], buffer)
    if not executable:
        m.entry(m.pt, 0, m.page | 0x403 | NOT_GLOBAL | NEVER_EXECUTE)


def _window(m: Machine, address: int, change: int) -> None:
    table = m.var("armKSGlobalKernelPDs")
    index = address >> 21
    m.entry(table, index, int(m.memory.words[(table + 8 * index - m.memory.base) >> 3]) ^ change)


def _page(m: Machine, change: int) -> None:
    m.entry(m.pt, 0, (m.page | 0x403 | NOT_GLOBAL) ^ change)


LEGAL: dict[str, Change] = {
    "as it is": lambda m: None,
    "the initial thread has all that it was told of": _space,
    "a page that may only be read": lambda m: _page(m, READ_ONLY | USER),
    "a page that nobody may access": lambda m: _page(m, 0),
    "cached memory": lambda m: _page(m, NORMAL),
    "a page that is never executed": lambda m: _page(m, NEVER_EXECUTE),
    "a page that is shared by processors": lambda m: _page(m, 3 << 8),
}
BROKEN: dict[str, tuple[str, Change]] = {
    "half of an untyped is told": ("boot_information", lambda m: _untyped(m, 0, 17)),
    "half of the normal RAM's first untyped is told": ("boot_information", lambda m: _untyped(m, 1, 20)),
    "an untyped holds what lies behind it": ("boot_information", lambda m: _untyped(m, 2, 30)),
    "an untyped is not told": (
        "boot_information",
        lambda m: m.memory.put(m.boot_info + 8, FIRST_UNTYPED + 1),
    ),
    "a guard that does not fit": (
        "boot_information",
        lambda m: m.set(
            m.slot(2), m.cap("cnode_cap", capCNodePtr=m.virtual(m.cnode), capCNodeRadix=9, capCNodeGuardSize=54)
        ),
    ),
    "a table in another one's slot": ("boot_information", lambda m: _space(m, level="page_directory_cap")),
    "tables of another place": ("boot_information", lambda m: _space(m, buffer=0x201000)),
    "one table too few": (
        "boot_information",
        lambda m: m.memory.put(m.boot_info + BOOT_INFO["ipcBuffer"], 0x1FF000),
    ),
    "code that cannot be executed": ("boot_information", lambda m: _space(m, executable=False)),
    "a page without rights to write": (
        "boot_information",
        both(_space, lambda m: m.memory.put(m.slot(FRAMES), *_read_only(m))),
    ),
    "a page of all ASIDs": ("valid_vspace_objs", lambda m: _page(m, NOT_GLOBAL)),
    "a page whose access faults": ("valid_vspace_objs", lambda m: _page(m, ACCESSED)),
    "a page that only the kernel may read": ("valid_vspace_objs", lambda m: _page(m, READ_ONLY)),
    "a shareability that there is not": ("valid_vspace_objs", lambda m: _page(m, 1 << 8)),
    "an attribute index that nobody uses": ("valid_vspace_objs", lambda m: _page(m, 1 << 2)),
    "a page that claims its neighbours": ("valid_vspace_objs", lambda m: _page(m, 1 << 52)),
    "a table that limits what is below": ("valid_vspace_objs", lambda m: m.entry(m.pd, 0, m.pt | 3 | 1 << 60)),
    "the kernel's memory for users": ("valid_global_vspace_mappings", lambda m: _window(m, 0x0E000000, USER)),
    "the kernel's memory executed by users": (
        "valid_global_vspace_mappings",
        lambda m: _window(m, 0x0E000000, NEVER_EXECUTE),
    ),
    "the kernel's memory as a device": ("valid_global_vspace_mappings", lambda m: _window(m, 0x0E000000, NORMAL)),
    "the kernel's memory of one ASID": ("valid_global_vspace_mappings", lambda m: _window(m, 0x40200000, NOT_GLOBAL)),
    "a device as cached memory": (
        "valid_global_vspace_mappings",
        lambda m: m.entry(m.var("armKSGlobalKernelPT"), 0, 0x08000000 | 0x403 | NEVER_EXECUTE | NORMAL),
    ),
    "memory at another address": (
        "valid_global_vspace_mappings",
        lambda m: m.entry(m.var("armKSGlobalKernelPDs"), 1500, 0x40200000 | 0x421 | NEVER_EXECUTE | NORMAL),
    ),
    "a directory that limits what is below": (
        "valid_global_vspace_mappings",
        lambda m: m.entry(m.var("armKSGlobalKernelPUD"), 2, (m.var("armKSGlobalKernelPDs") + 8192) | 3 | 1 << 59),
    ),
}


def _read_only(m: Machine) -> tuple[int, int]:
    field = m.layout.block("frame_cap")["capFVMRights"]
    words = list(m.frame(m.page, at=0))
    words[field.word] |= 3 << (field.shift % 64)
    return words[0], words[1]


@pytest.mark.parametrize("change", LEGAL.values(), ids=LEGAL.keys())
def test_what_is_legal_holds(change: Change) -> None:
    machine = Machine()
    checker = machine.checker()
    change(machine)
    report = checker.check(machine.memory)
    assert broken(report) == []
    assert broken(machine.checker().check(machine.memory)) == []


@pytest.mark.parametrize(("id", "change"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_wrong_is_seen(id: str, change: Change) -> None:
    machine = Machine()
    checker = machine.checker()
    change(machine)
    assert id in broken(checker.check(machine.memory))
    assert id in broken(machine.checker().check(machine.memory)), "whatever the snapshot was"


def test_memory_that_is_lost_is_named() -> None:
    machine = Machine()
    _untyped(machine, 0, 17)
    found = [v for v in machine.checker().check(machine.memory).violations if v.invariant == "boot_information"]
    assert any(f"{machine.arena + (1 << 17):#x}" in v.message and "nobody" in v.message for v in found)
