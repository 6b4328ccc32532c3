# SPDX-License-Identifier: BSD-2-Clause
"""Slots, address spaces, lookups and boot information of a state made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ImageError
from harness.kernel_state.layout import Layout
from harness.kernel_state.lookup import lookup_slot
from harness.kernel_state.memory import FileImage, Ram
from harness.kernel_state.page_tables import walk
from harness.kernel_state.state import ContainerKind, KernelState, open_state
from tests.unit.kernel_state_support import OFFSET, Machine


def state_of(machine: Machine, state: KernelState | None = None) -> KernelState:
    hints = state.containers if state is not None else ()
    return KernelState(machine.layout, machine.config, machine.memory, report=machine.report[0], hints=hints)


def test_slots_are_found_from_the_kernels_roots() -> None:
    machine = Machine()
    state = state_of(machine)
    kinds = {(c.kind, c.address) for c in state.containers}
    assert (ContainerKind.CNODE, machine.cnode) in kinds
    assert (ContainerKind.THREAD, machine.thread) in kinds
    assert (ContainerKind.IRQ_NODE, machine.irq_node) in kinds
    assert state.slot_count == 512 + 256 + 6 * state.layout.tcb_slots
    row = int(state.caps.rows_at(state.thread_slot("tcbBuffer"))[list(state.threads.address).index(machine.thread)])
    assert state.caps.type_name(row) == "frame_cap"
    assert state.caps.describe(row)["cap"] == "frame_cap"


def test_a_cnode_that_only_links_lead_to_is_found() -> None:
    machine = Machine()
    hidden = machine.arena + 0x8000
    own = machine.cap("cnode_cap", capCNodePtr=machine.virtual(hidden), capCNodeRadix=6, capCNodeGuardSize=58)
    machine.set(machine.slot(2, hidden), own)
    machine.set(machine.slot(9, hidden), machine.cap("endpoint_cap", capEPPtr=machine.virtual(machine.endpoint)))
    machine.link(machine.slot(8), machine.slot(9, hidden))
    state = state_of(machine)
    assert hidden in {c.address for c in state.containers}
    # With hints the same state is found, and a hint that no capability backs any more is left out.
    assert {c.address for c in state_of(machine, state).containers} == {c.address for c in state.containers}
    machine.link(machine.slot(8))
    for number in (2, 9):
        machine.memory.put(machine.slot(number, hidden), 0, 0, 0, 0)
    assert hidden not in {c.address for c in state_of(machine, state).containers}


def test_nothing_runs_and_the_root_cnode_is_found_all_the_same() -> None:
    machine = Machine()
    machine.memory.put(machine.var("ksCurThread"), machine.virtual(machine.idle + machine.layout.tcb_offset))
    assert machine.cnode in {c.address for c in state_of(machine).containers}


def test_objects_of_capabilities() -> None:
    machine = Machine()
    caps = state_of(machine).caps

    def shape(number: int) -> tuple[int, int]:
        row = int(caps.rows_at(caps.address[caps.address == machine.slot(number)])[0])
        return int(caps.base[row]), int(caps.bits[row])

    assert shape(1) == (machine.thread, machine.layout.tcb_bits)
    assert shape(2) == (machine.cnode, 14)
    assert shape(7) == (machine.pool, 12)
    assert shape(8) == (machine.endpoint, 4)
    assert [shape(n) for n in (10, 13, 14)] == [(machine.page, 12), (machine.large, 21), (machine.huge, 30)]
    assert shape(20) == (machine.arena, 18)
    assert shape(30) == (0, 0)


@pytest.mark.parametrize(("type_", "kind"), [(6, ContainerKind.ZOMBIE), (32, ContainerKind.THREAD)])
def test_zombies_hold_slots(type_: int, kind: ContainerKind) -> None:
    machine = Machine()
    address = machine.arena + 0x8000
    machine.set(
        machine.slot(50), machine.cap("zombie_cap", capZombieID=machine.virtual(address) | 3, capZombieType=type_)
    )
    state = state_of(machine)
    assert (kind, address) in {(c.kind, c.address) for c in state.containers}


def test_the_walk_counts_nstable_and_follows_four_levels() -> None:
    machine = Machine()
    found = state_of(machine).user_walk
    assert sorted(found.level.tolist()) == [0, 1, 1, 2, 2, 3, 3, 3]
    leaves = {int(v): bool(n) for v, n in zip(found.virtual[found.leaf], found.ns[found.leaf], strict=True)}
    assert leaves == {0x40000000: True, 0x200000: False, 0: False, 0x1000: True, 0x2000: True}
    machine.entry(machine.pgd, 0, machine.pud | 3 | 1 << 63)
    again = state_of(machine).user_walk
    assert again.ns.all()


def test_upper_half_addresses() -> None:
    machine = Machine()
    assert int(state_of(machine).kernel_walk.virtual.min()) == OFFSET


def test_a_walk_of_tables_that_point_to_themselves_ends() -> None:
    machine = Machine()
    for index in range(512):
        machine.entry(machine.pgd, index, machine.pgd | 3)
    ram = Ram(machine.memory, machine.config.secure_ram)
    found = walk(ram, [machine.pgd])
    assert found.overflow
    assert found.tables > len(ram.pages)
    assert len(walk(ram, [])) == 0
    assert len(walk(ram, [0x1000, machine.pgd + 8, machine.normal])) == 0


def test_boot_information() -> None:
    machine = Machine()
    info = state_of(machine).boot_info
    assert info is not None
    assert info.regions["untyped"][0] == 110
    assert [(u.slot, u.base, u.bits, u.device, u.non_secure) for u in info.untypeds[:2]] == [
        (110, machine.arena, 18, False, False),
        (111, machine.normal, 21, False, True),
    ]
    machine.memory.put(machine.boot_info + 16, 1 << 60)
    assert state_of(machine).boot_info is None
    machine.memory.put(machine.slot(9), 0, 0)
    assert state_of(machine).boot_info is None


def test_lookups_follow_guards_and_levels() -> None:
    machine = Machine()
    layout, ram = machine.layout, Ram(machine.memory, machine.config.secure_ram)
    found = lookup_slot(layout, ram, machine.thread, 8)
    assert found is not None and found.type == "endpoint_cap" and found.base == machine.endpoint
    assert lookup_slot(layout, ram, machine.thread, 1 << 63 | 8) is None
    assert lookup_slot(layout, ram, machine.idle, 8) is None
    # Two levels: 7 bits with a guard of 53, then 4 bits.
    inner = machine.arena + 0x8000
    root = machine.cap("cnode_cap", capCNodePtr=machine.virtual(machine.cnode), capCNodeRadix=7, capCNodeGuardSize=53)
    machine.set(machine.slot(0, machine.thread), root)
    machine.set(machine.slot(60), machine.cap("cnode_cap", capCNodePtr=machine.virtual(inner), capCNodeRadix=4))
    machine.set(machine.slot(5, inner), machine.cap("domain_cap"))
    deep = lookup_slot(layout, ram, machine.thread, 60 << 4 | 5)
    assert deep is not None and deep.type == "domain_cap"
    early = lookup_slot(layout, ram, machine.thread, 8 << 4 | 5)
    assert early is not None and early.type == "endpoint_cap"
    # A CNode that leads to itself without using bits up, and one that leads out of memory.
    machine.set(machine.slot(0, machine.thread), machine.cap("cnode_cap", capCNodePtr=machine.virtual(machine.cnode)))
    assert lookup_slot(layout, ram, machine.thread, 1) is None
    out = machine.cap("cnode_cap", capCNodePtr=machine.virtual(machine.normal), capCNodeRadix=7, capCNodeGuardSize=57)
    machine.set(machine.slot(0, machine.thread), out)
    assert lookup_slot(layout, ram, machine.thread, 1) is None


def test_files_and_what_they_lack(tmp_path: Path) -> None:
    machine = Machine()
    path = tmp_path / "memory.bin"
    path.write_bytes(machine.memory.bytes.tobytes())
    image = FileImage(path, machine.config.secure_ram.base)
    assert len(open_state(machine.layout, machine.config, image).caps) == len(state_of(machine).caps)
    with pytest.raises(ImageError, match="0x1000"):
        image.read(0x1000, 8)
    path.write_bytes(machine.memory.bytes[: 1 << 20].tobytes())
    with pytest.raises(ImageError):
        open_state(machine.layout, machine.config, FileImage(path, machine.config.secure_ram.base))
    with pytest.raises(ImageError, match="absent"):
        FileImage(tmp_path / "absent", 0)
    machine.memory.bytes[:] = 0
    with pytest.raises(ImageError, match="no CNode"):
        open_state(machine.layout, machine.config, machine.memory)


def test_a_layout_says_what_it_misses(tmp_path: Path) -> None:
    layout = Machine().layout
    for look in (layout.block, layout.union, layout.struct, layout.variable, layout.constant):
        with pytest.raises(ImageError, match="'absent'"):
            look("absent")
    with pytest.raises(ImageError, match=r"absent\.elf"):
        Layout.from_elf(tmp_path / "absent.elf", tmp_path)
    assert layout.error_names == {0: "seL4_NoError", 1: "seL4_InvalidArgument"}
    assert layout.physical(layout.virtual(0x1234)) == 0x1234
