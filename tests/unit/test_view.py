# SPDX-License-Identifier: BSD-2-Clause
"""Trees of a state made by hand: what is nested in what, merged, marked as wrong; and their bounds."""

from __future__ import annotations

import pytest
from rich.console import Console

from harness.view.nodes import MAXIMUM_DEPTH, MAXIMUM_NODES, Grower, Node, size_text
from harness.view.trees import VIEWS, render, tree
from tests.unit.kernel_state_support import Machine


def lines(machine: Machine, view: str, depth: int | None = None) -> list[str]:
    """A view's lines, without what stands in front of their text."""
    return render(machine.checker().snapshot, view, depth).splitlines()


def line(found: list[str], *words: str) -> str:
    """The one line that holds all these words."""
    matching = [text for text in found if all(word in text for word in words)]
    assert len(matching) == 1, (words, found)
    return matching[0]


def indentation(text: str) -> int:
    return len(text) - len(text.lstrip())


def test_untypeds_hold_what_was_made_of_them() -> None:
    machine = Machine()
    found = lines(machine, "untypeds")
    arena = found.index(line(found, f"untyped 256 KiB {machine.arena:#x}", "secure", "4 KiB used"))
    assert found[arena + 1].strip() == f"endpoint 16 bytes {machine.arena:#x}..{machine.arena + 15:#x}"
    assert indentation(found[arena + 1]) > indentation(found[arena])
    line(found, "untyped 4 MiB", "unused")
    line(found, "in no untyped:")
    line(found, f"frame 4 KiB {machine.normal:#x}", "2 capabilities")


def test_neighbours_are_one_line() -> None:
    machine = Machine()
    for number in range(4):
        address = machine.arena + 0x10 * number
        machine.set(machine.slot(40 + number), machine.cap("endpoint_cap", capEPPtr=machine.virtual(address)))
    found = lines(machine, "untypeds")
    line(found, f"4 x endpoint 16 bytes {machine.arena:#x}..{machine.arena + 0x3F:#x}", "5 capabilities")


def test_cspaces_show_slots_by_number_and_cnodes_in_cnodes() -> None:
    machine = Machine()
    inner = machine.arena + 0x400
    machine.set(machine.slot(50), machine.cap("cnode_cap", capCNodePtr=machine.virtual(inner), capCNodeRadix=4))
    machine.set(machine.slot(3, inner), machine.cap("smc_cap", capSMCBadge=0x77))
    machine.set(machine.slot(4, inner), machine.cap("cnode_cap", capCNodePtr=machine.virtual(inner), capCNodeRadix=4))
    found = lines(machine, "cspaces")
    root = line(found, f"CNode {machine.cnode:#x}", "of 512 slots used", f"root of tcb {machine.thread + 0x200:#x}")
    assert indentation(root) > 0
    assert line(found, "  2 cnode", "2^9 slots, guard 0x0/55").endswith("^")
    at = found.index(line(found, " 50 cnode", "2^4 slots"))
    assert found[at + 1].strip() == "3 smc badge 0x77"
    assert found[at + 2].strip().endswith("^"), "a CNode in itself is not followed for ever"
    line(found, "21 endpoint", "badge 0x5", "no rights")
    line(found, "14 frame 1 GiB non-secure 0x80000000")


def test_vspaces_merge_pages_and_mark_the_wrong_world() -> None:
    machine = Machine()
    for number in range(8, 12):
        machine.entry(machine.pt, number, (machine.large + (number << 12)) | 0x403)
    machine.entry(machine.pt, 20, machine.normal | 0x403)  # normal RAM as if it were secure
    machine.entry(machine.pd, 7, machine.config.normal_ram.base | 3)  # a table in normal RAM
    found = lines(machine, "vspaces")
    line(found, "page global directory", f"{machine.pgd:#x}", "ASID 1", "live in TTBR0")
    line(found, f"0x8000..0xbfff -> {machine.large + 0x8000:#x} 4 x 4 KiB", "secure, secure-ram")
    line(found, f"0x1000..0x1fff -> {machine.normal:#x} 4 KiB", " non-secure, normal-ram")
    line(found, "0x14000..0x14fff", " secure, normal-ram WRONG WORLD")
    line(found, "OUTSIDE OF SECURE MEMORY")
    depths = [
        indentation(line(found, f"{name} {at:#x}"))
        for name, at in (
            ("page upper directory", machine.pud),
            ("page directory", machine.pd),
            ("page table", machine.pt),
        )
    ]
    assert depths == sorted(set(depths))
    line(found, "the kernel's window")


def test_threads_and_what_they_wait_for() -> None:
    machine = Machine()
    found = lines(machine, "threads")
    current = f"tcb {machine.thread + 0x200:#x}"
    running = found.index(line(found, "  Running: 2 threads"))
    assert found[running + 2].strip() == f"{current}: priority 0, current"
    queued = found[running + 1].strip()
    assert queued.endswith(": priority 70, queued"), "the highest priority comes first"
    line(found, f"domain 0 priority 70: {queued.split(':')[0]}")
    waiting = found[found.index(line(found, "  BlockedOnSend: 1 thread")) + 1].strip()
    assert waiting.endswith(f"at {machine.endpoint:#x}")
    line(found, f"{machine.endpoint:#x}: Send: {waiting.split(':')[0]}")
    line(found, f"Idle, bound to {current}")


@pytest.mark.parametrize("view", VIEWS)
def test_depth(view: str) -> None:
    machine = Machine()
    assert len(lines(machine, view, 0)) == 1
    assert {indentation(text) for text in lines(machine, view, 1)} == {0, 2}
    assert lines(machine, view) == lines(machine, view, 100)


def test_a_terminal_gets_lines() -> None:
    console = Console(width=200, force_terminal=True, color_system=None, record=True)
    with console.capture() as captured:
        console.print(tree(Machine().checker().snapshot, "vspaces").rich(2))
    assert "├── " in captured.get()
    assert "└── " in captured.get()


def test_trees_are_bounded_in_lines_and_levels() -> None:
    root = Node("root")
    grower, node = Grower(root), root
    for number in range(2 * MAXIMUM_DEPTH):
        node = grower.add(node, str(number))
    text = list(root.lines())
    assert len(text) == 2 * MAXIMUM_DEPTH + 1
    assert max(indentation(each) for each in text) <= 2 * MAXIMUM_DEPTH
    for number in range(2 * MAXIMUM_NODES):
        grower.add(root, str(number))
    assert grower.full
    text = list(root.lines())
    assert len(text) == MAXIMUM_NODES + 2
    assert "more" in text[-1]


@pytest.mark.parametrize(
    ("size", "text"),
    [(16, "16 bytes"), (4096, "4 KiB"), (1 << 21, "2 MiB"), (1 << 30, "1 GiB"), (0x1100, "4352 bytes")],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text
