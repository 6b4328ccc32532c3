# SPDX-License-Identifier: BSD-2-Clause
"""What an invocation must have written, on a kernel state made by hand: right as it is, wrong with any word changed."""

from __future__ import annotations

import numpy as np
import pytest

from harness.kernel_state.lookup import SlotContent
from harness.kernel_state.memory import Ram
from harness.kernel_state.state import KernelState
from harness.programs.population import OBJECT_TYPES
from harness.specification.answers import DONE, NotCoveredError
from harness.specification.consequences import consequences
from harness.specification.invocations import Invocation
from harness.specification.memory import Memory, Slot
from harness.specification.model import Model
from harness.specification.table import expected
from harness.specification.transitions import Changes, Comparison
from tests.unit.kernel_state_support import Machine

CNODE, VSPACE, ENDPOINT, UNTYPED, EMPTY_UNTYPED, PAGE, UNMAPPED, MAPPED = 2, 3, 8, 20, 22, 60, 62, 10
FREE, SPARE, CONTROL, POOL, SMALL_UNTYPED, NODE, INNER, COPY = 70, 63, 64, 7, 65, 66, 67, 68
ALL, RIGHTS = 64, 7
TYPE = {name: number for number, name in enumerate(OBJECT_TYPES)}
NODE_PAGE = 0x3000
"""Where in the page behind the machine's own the inner CNode lies."""


class Bench:
    """A machine with more slots, and what one invocation must make of it."""

    def __init__(self) -> None:
        self.machine = machine = Machine()
        v, cap, put = machine.virtual, machine.cap, machine.set
        put(machine.slot(PAGE), machine.frame(machine.page + 0x1000))
        put(machine.slot(UNMAPPED), cap("page_table_cap", capPTBasePtr=v(machine.page + 0x2000)))
        put(machine.slot(SPARE), cap("page_global_directory_cap", capPGDBasePtr=v(machine.page + 0x5000)))
        put(machine.slot(CONTROL), cap("asid_control_cap"))
        put(machine.slot(SMALL_UNTYPED), machine.untyped(machine.page + 0x8000, 12))
        node = machine.page + NODE_PAGE
        put(machine.slot(NODE), cap("cnode_cap", capCNodePtr=v(node), capCNodeRadix=2))
        put(node, cap("endpoint_cap", capEPPtr=v(machine.page + 0x9000)))
        put(machine.slot(INNER), cap("endpoint_cap", capEPPtr=v(machine.page + 0x9000), capEPBadge=3))
        machine.link(node, machine.slot(INNER))
        full = cap("endpoint_cap", capEPPtr=v(machine.endpoint), capCanSend=1, capCanReceive=1, capCanGrant=1)
        put(machine.slot(ENDPOINT), full)
        badged = cap("endpoint_cap", capEPPtr=v(machine.endpoint), capEPBadge=9)
        put(machine.slot(COPY), badged)
        machine.link(machine.slot(ENDPOINT), machine.slot(COPY))
        self.ram = Ram(machine.memory, machine.config.secure_ram)
        self.look()

    def look(self) -> None:
        """Take the state as it is now for that before the call."""
        machine = self.machine
        state = KernelState(machine.layout, machine.config, machine.memory)
        self.model = Model(state, Memory(machine.layout, self.ram))

    def invoke(self, target: int, label: str, words: tuple[int, ...], extra: tuple[int, ...] = ()) -> Model:
        """Work out what an invocation that succeeds writes."""
        memory = self.model.memory
        slots = tuple(memory.slot(self.machine.slot(number)) for number in (target, *extra))
        call = Invocation(memory, self.machine.thread, slots[0], slots[0].cap, len(words), words, slots[1:])
        assert expected(call, label).answer == DONE
        consequences(self.model, call, label)
        return self.model

    def judge(self, words: dict[int, int]) -> str:
        """What is wrong if the call has written these words."""
        numbers = np.array(sorted((address - self.ram.base) >> 3 for address in words), np.int64)
        values = np.array([words[self.ram.base + 8 * int(number)] for number in numbers], np.uint64)
        return Comparison(self.model, self.ram, Changes.none(), Changes(numbers, values)).wrong()

    def slot(self, number: int) -> SlotContent:
        """A capability afterwards."""
        return self.model.cap(self.machine.slot(number))

    def next(self, number: int) -> int:
        """The slot behind one in the mapping database afterwards."""
        return self.model.neighbour(self.machine.slot(number), "mdbNext")


@pytest.fixture
def bench() -> Bench:
    return Bench()


CALLS: dict[str, tuple[int, str, tuple[int, ...], tuple[int, ...]]] = {
    "copy": (CNODE, "CNodeCopy", (FREE, ALL, MAPPED, ALL, RIGHTS), (CNODE,)),
    "mint": (CNODE, "CNodeMint", (FREE, ALL, ENDPOINT, ALL, 2, 77), (CNODE,)),
    "copy of an untyped": (CNODE, "CNodeCopy", (FREE, ALL, EMPTY_UNTYPED, ALL, RIGHTS), (CNODE,)),
    "move": (CNODE, "CNodeMove", (FREE, ALL, COPY, ALL), (CNODE,)),
    "mutate": (CNODE, "CNodeMutate", (FREE, ALL, NODE, ALL, 1 << 8 | 4 << 2), (CNODE,)),
    "rotate": (CNODE, "CNodeRotate", (FREE, ALL, 0, PAGE, ALL, 0, MAPPED, ALL), (CNODE, CNODE)),
    "exchange of neighbours": (CNODE, "CNodeRotate", (20, ALL, 0, PAGE, ALL, 0, 20, ALL), (CNODE, CNODE)),
    "delete": (CNODE, "CNodeDelete", (COPY, ALL), ()),
    "delete of a CNode": (CNODE, "CNodeDelete", (NODE, ALL), ()),
    "delete of a mapped frame": (CNODE, "CNodeDelete", (MAPPED, ALL), ()),
    "delete of a table": (CNODE, "CNodeDelete", (6, ALL), ()),
    "delete of an address space": (CNODE, "CNodeDelete", (VSPACE, ALL), ()),
    "delete of a pool": (CNODE, "CNodeDelete", (POOL, ALL), ()),
    "revoke": (CNODE, "CNodeRevoke", (ENDPOINT, ALL), ()),
    "retype": (EMPTY_UNTYPED, "UntypedRetype", (TYPE["cnode"], 2, 0, 0, FREE, 3), (CNODE,)),
    "retype of untypeds": (UNTYPED, "UntypedRetype", (TYPE["untyped"], 13, 0, 0, FREE, 2), (CNODE,)),
    "make a pool": (CONTROL, "ARMASIDControlMakePool", (FREE, ALL), (SMALL_UNTYPED, CNODE)),
    "assign an ASID": (POOL, "ARMASIDPoolAssign", (), (SPARE,)),
    "map": (PAGE, "ARMPageMap", (0x5000, 3, 1), (VSPACE,)),
    "remap": (MAPPED, "ARMPageRemap", (2, 4), (VSPACE,)),
    "unmap": (MAPPED, "ARMPageUnmap", (), ()),
    "map a table": (UNMAPPED, "ARMPageTableMap", (0x600000, 0), (VSPACE,)),
    "unmap a table": (6, "ARMPageTableUnmap", (), ()),
    "hand out an interrupt": (69, "IRQIssueIRQHandler", (33, FREE, ALL), (CNODE,)),
    "silence an interrupt": (56, "IRQClearIRQHandler", (), ()),
}


@pytest.mark.parametrize("case", CALLS)
def test_what_a_call_writes_is_right_and_any_other_word_is_wrong(case: str, bench: Bench) -> None:
    bench.machine.set(bench.machine.slot(69), bench.machine.cap("irq_control_cap"))
    model = bench.invoke(*CALLS[case])
    cleared = {a: 0 for new in model.fresh for a in range(new.start, new.end, 8)}
    right = {**cleared, **model.words}
    assert bench.judge(right) == ""
    gone = [address for address in right if any(first <= address < end for first, end in model.gone)]
    for address, word in model.words.items():
        if address not in gone:
            assert bench.judge({**right, address: word ^ 1 << 21})
    before = bench.ram.word(bench.machine.slot(30))
    assert "slot 30" in bench.judge({**right, bench.machine.slot(30): before ^ 1})
    assert not bench.judge({**right, bench.machine.page + 0x4000: 5}), "memory of the victims is theirs"


def test_the_copy_of_a_frame_is_mapped_nowhere(bench: Bench) -> None:
    bench.invoke(*CALLS["copy"])
    assert bench.slot(FREE).field("capFMappedASID") == 0
    assert bench.slot(MAPPED).field("capFMappedASID") == 1
    assert bench.next(MAPPED) == bench.machine.slot(FREE)


def test_a_minted_capability_has_the_rights_and_the_badge(bench: Bench) -> None:
    bench.invoke(*CALLS["mint"])
    cap = bench.slot(FREE)
    rights = [cap.field(name) for name in ("capCanSend", "capCanReceive", "capCanGrant")]
    assert (cap.field("capEPBadge"), rights) == (77, [0, 1, 0])
    node = {name: bench.model.node(bench.machine.slot(FREE), name) for name in ("mdbRevocable", "mdbFirstBadged")}
    assert node == {"mdbRevocable": 1, "mdbFirstBadged": 1}
    assert bench.next(FREE) == bench.machine.slot(COPY)


def test_the_original_of_a_copied_untyped_is_full(bench: Bench) -> None:
    bench.invoke(*CALLS["copy of an untyped"])
    assert bench.slot(EMPTY_UNTYPED).field("capFreeIndex") == 1 << 18
    assert bench.slot(FREE).field("capFreeIndex") == 0


def test_a_moved_capability_keeps_its_place(bench: Bench) -> None:
    bench.invoke(*CALLS["move"])
    assert bench.next(ENDPOINT) == bench.machine.slot(FREE)
    assert bench.slot(COPY).type == "null_cap"


def test_neighbours_in_the_database_can_be_exchanged(bench: Bench) -> None:
    slots = [bench.machine.slot(number) for number in (ENDPOINT, COPY)]
    first, second = (bench.model.cap(slot) for slot in slots)
    bench.model.exchange(slots[0], slots[1], first, second)
    assert (bench.slot(ENDPOINT), bench.slot(COPY)) == (second, first)
    assert (bench.next(COPY), bench.next(ENDPOINT)) == (slots[0], 0)


def test_what_is_in_a_cnode_goes_with_it(bench: Bench) -> None:
    bench.invoke(*CALLS["delete of a CNode"])
    assert bench.slot(NODE).type == "null_cap"
    assert bench.model.neighbour(bench.machine.slot(INNER), "mdbPrev") == 0
    assert bench.slot(INNER).type == "endpoint_cap"


def test_a_cnode_with_another_capability_stays(bench: Bench) -> None:
    inner = bench.machine.page + NODE_PAGE
    cap = bench.slot(NODE)
    bench.machine.set(inner + 32, (cap.low, cap.high))
    bench.look()
    bench.invoke(*CALLS["delete of a CNode"])
    assert bench.model.cap(inner).type == "endpoint_cap"


def test_objects_lie_one_behind_the_other_aligned(bench: Bench) -> None:
    bench.invoke(*CALLS["retype of untypeds"])
    bases = [bench.slot(number).base for number in (FREE, FREE + 1)]
    assert bases == [bench.machine.arena + 0x2000, bench.machine.arena + 0x4000]
    assert bench.slot(UNTYPED).field("capFreeIndex") << 4 == 0x6000
    assert bench.next(UNTYPED) == bench.machine.slot(FREE + 1), "the last one comes first"


def test_an_object_that_was_not_cleared_is_noticed(bench: Bench) -> None:
    model = bench.invoke(*CALLS["retype"])
    assert model.fresh
    assert "not cleared" in bench.judge({**model.words, model.fresh[0].end - 8: 1})


@pytest.mark.parametrize(
    ("rights", "attributes", "bits"),
    [
        (3, 3, 0x0000_0000_0000_0C53),  # read and write, cached
        (2, 1, 0x0000_0000_0000_0CD3),  # read only
        (1, 1, 0x0000_0000_0000_0C13),  # no access
        (3, 0, 0x0000_0000_0000_0C43),  # a device
        (3, 5, 0x0040_0000_0000_0C53),  # never executed
    ],
)
def test_a_page_is_mapped_as_the_architecture_says(bench: Bench, rights: int, attributes: int, bits: int) -> None:
    machine = bench.machine
    words = machine.cap("frame_cap", capFBasePtr=machine.virtual(machine.page + 0x1000), capFVMRights=1)
    machine.set(machine.slot(PAGE), words)
    model = bench.invoke(PAGE, "ARMPageMap", (0x5000, rights, attributes), (VSPACE,))
    assert model.words[machine.pt + 8 * 5] == (machine.page + 0x1000) | bits


def test_a_page_of_the_other_world_has_its_bit(bench: Bench) -> None:
    model = bench.invoke(11, "ARMPageRemap", (3, 1), (VSPACE,))
    assert model.words[bench.machine.pt + 8] & 0x20


def test_an_unfinished_deletion_leaves_nothing_to_say(bench: Bench) -> None:
    zombie = bench.machine.cap("zombie_cap", capZombieID=bench.machine.virtual(bench.machine.page), capZombieType=1)
    bench.machine.set(bench.machine.slot(99), zombie)
    bench.look()
    with pytest.raises(NotCoveredError):
        bench.invoke(*CALLS["delete"])


def test_a_parent_is_known_by_badge(bench: Bench) -> None:
    memory = bench.model.memory
    parent, child = (Slot(memory, bench.machine.slot(number)) for number in (ENDPOINT, COPY))
    assert parent.is_parent_of(child)
    assert not child.is_parent_of(parent)
