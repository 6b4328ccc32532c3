# SPDX-License-Identifier: BSD-2-Clause
"""Every cell of the table of worlds and kinds of memory, on the running kernel.

(secure, non-secure) x (general purpose, device): what may be made of it, the error of what may not, and what each
capability and page table entry says at every step. Secure device memory is what the kernel knew before it had worlds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from harness.build.artefacts import Artefacts
from harness.configs import Kind, MachineConfig, Use, World
from harness.execution.executor import Executor
from harness.execution.restore_set import restore_set
from harness.findings.judge import Judge
from harness.kernel_state.layout import Layout
from harness.kernel_state.state import open_state
from harness.programs.population import FRAME_BITS, OBJECT_TYPES, Population
from tests.system.cells import (
    CELLS,
    MARK,
    POPULATION,
    SECURE,
    SECURE_DEVICE,
    Call,
    Cell,
    Memory,
    build_with,
    call,
    errors,
    retype,
    with_all_kinds,
)

OK, INVALID_ARGUMENT, INVALID_CAPABILITY, ILLEGAL_OPERATION, REVOKE_FIRST, NOT_ENOUGH_MEMORY = 0, 1, 2, 3, 9, 10
ADDRESSES = {
    "page-4k": (0x10000000, 0x10001000, 0x10002000),
    "page-2m": (0x10200000, 0x10400000, 0x10600000),
    "page-1g": (0x40000000, 0x80000000, 0xC0000000),
}
FRAMES = [(cell, page) for cell in CELLS for page in FRAME_BITS if page != "page-1g" or cell.non_secure]
"""Without the two empty cells: the machine has 16 MiB of secure RAM, and no secure device of 1 GiB."""
READ_WRITE, READ_ONLY = 1, 3
"""AP of user mappings."""
DEVICE_MEMORY, CACHED = 0, 4
"""AttrIndx of the kernel's MAIR."""


@pytest.fixture(scope="module")
def built(config: MachineConfig) -> Artefacts:
    return build_with(with_all_kinds(config), Population.load(POPULATION))


@pytest.fixture(scope="module")
def cells(built: Artefacts) -> Iterator[Executor]:
    with Executor(built, ranges=[]) as first:
        ranges = restore_set(built, first.memory)
    # With ranges that are given, the host does not compare the untyped memory of 1 GiB.
    with Executor(built, ranges=ranges) as executor:
        yield executor


@pytest.fixture(scope="module")
def judge(cells: Executor) -> Judge:
    found = Judge.of(cells)
    assert found.judge_start().symptoms == ()
    return found


def legal(judge: Judge, memory: Memory, calls: list[Call]) -> bool:
    """Whether every invariant holds after a program."""
    return not judge.check(memory.run(calls)).violations


def test_every_kind_is_handed_out(cells: Executor) -> None:
    """With the world that the config says, which the boot information says as well."""
    offered = {(r.world, r.kind) for r in cells.config.regions if r.use in (Use.KERNEL, Use.UNTYPED)}
    assert offered == {(world, kind) for world in (World.SECURE, World.NON_SECURE) for kind in (Kind.RAM, Kind.DEVICE)}
    info = open_state(Layout.from_artefacts(cells.artefacts), cells.config, cells.snapshot).boot_info
    assert info is not None
    seen = set()
    for untyped in info.untypeds:
        region = cells.config.region_at(untyped.base)
        assert region is not None and region.covers(untyped.base, 1 << untyped.bits)
        assert untyped.device == (region.kind == Kind.DEVICE)
        assert untyped.non_secure == (region.world == World.NON_SECURE)
        seen.add((region.world, region.kind))
    assert seen == offered


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_objects(cells: Executor, judge: Judge, cell: Cell) -> None:
    """Secure general-purpose memory becomes any object, other memory untypeds and frames."""
    memory = Memory(cells, cell)
    untouched = memory.capabilities()
    for type_ in OBJECT_TYPES:
        calls = [retype(memory.untyped, type_, bits=4)]
        observation = memory.run(calls, marks=(0, 0x800))
        allowed = not cell.foreign or type_ == "untyped" or type_ in FRAME_BITS
        expected = NOT_ENOUGH_MEMORY if type_ == "page-1g" else OK if allowed else INVALID_ARGUMENT
        assert errors(observation) == [expected], type_
        assert (len(memory.capabilities()) > len(untouched)) == (expected == OK), type_
        if cell.foreign:
            assert memory.words(0, 0x800) == [MARK, MARK], type_
        assert legal(judge, memory, calls), type_
    pool = [
        retype(memory.untyped, "untyped", bits=12),
        call("ARM_ASIDControl_MakePool", "asid-control", untyped="result:0", index="free:1", depth=64),
    ]
    assert errors(memory.run(pool)) == [OK, INVALID_CAPABILITY if cell.foreign else OK]


def life_of_a_frame(untyped: str, page: str) -> list[tuple[Call, int]]:
    """Every call that concerns a frame's mapping or its capability, and how many mappings there are after it."""
    first, second, third = ADDRESSES[page]

    def map_(frame: str, at: int, rights: str, attributes: str) -> Call:
        return call("ARM_Page_Map", frame, pd="vspace", vaddr=at, rights=rights, attr=attributes)

    def remap(frame: str, rights: str, attributes: str) -> Call:
        return call("ARM_Page_Remap", frame, pd="vspace", rights=rights, attr=attributes)

    def node(name: str, to: str, frame: str, **more: Any) -> Call:
        return call(name, "cnode", dest_index=to, src_index=frame, **more)

    return [
        (retype(untyped, page), 0),
        (map_("result:0", first, "read-write", "cached"), 1),
        (remap("result:0", "read", "device-execute-never"), 1),
        (remap("result:0", "read-write", "cached-execute-never"), 1),
        (node("CNode_Copy", "free:1", "result:0", rights="read"), 1),
        (map_("free:1", second, "read-write", "cached"), 2),
        (node("CNode_Mint", "free:2", "result:0", rights="all", badge=0), 2),
        (map_("free:2", third, "read-write", "device"), 3),
        (node("CNode_Move", "free:3", "free:2"), 3),
        (node("CNode_Mutate", "free:4", "free:3", badge=0), 3),
        (remap("free:4", "read", "cached"), 3),
        (call("ARM_Page_Unmap", "free:4"), 2),
        (map_("free:4", third, "read-write", "cached"), 3),
        (call("CNode_Delete", "cnode", index="free:1"), 2),
        (call("CNode_Revoke", "cnode", index="result:0"), 1),
        (call("ARM_Page_Unmap", "result:0"), 0),
        (map_("result:0", first, "read-write", "cached"), 1),
        (call("CNode_Revoke", "cnode", index=untyped), 0),
        # The untyped is reset, and gives the same frame again.
        (retype(untyped, page), 0),
        (map_("free:0", second, "read-write", "cached"), 1),
    ]


@pytest.mark.parametrize(("cell", "page"), FRAMES, ids=lambda value: str(value))
def test_frames(cells: Executor, judge: Judge, cell: Cell, page: str) -> None:
    """World and kind stay what they are, in every capability and entry, whatever is done to a frame."""
    memory = Memory(cells, cell, page)
    life = life_of_a_frame(memory.untyped, page)
    calls, counts = [step for step, _ in life], [count for _, count in life]
    marks = (0, 0x800, (1 << FRAME_BITS[page]) - 8)
    first, second, third = ADDRESSES[page]
    bits = FRAME_BITS[page]
    at: dict[int, list[tuple[int, int, int, int]]] = {}
    for done in range(1, len(calls) + 1):
        observation = memory.run(calls, stop_after=done, marks=marks)
        assert errors(observation)[:done] == [OK] * done
        at[done - 1] = memory.mappings()
        assert len(at[done - 1]) == counts[done - 1], done
        assert (("frame_cap", bits) in memory.capabilities()) == (done != 18)
    assert at[1] == [(first, bits, READ_WRITE, CACHED)]
    assert at[2] == [(first, bits, READ_ONLY, DEVICE_MEMORY)]
    assert at[3] == [(first, bits, READ_WRITE, CACHED)]
    assert at[5] == [(first, bits, READ_WRITE, CACHED), (second, bits, READ_ONLY, CACHED)]
    assert at[10][2] == (third, bits, READ_ONLY, CACHED)
    assert at[19] == [(second, bits, READ_WRITE, CACHED)]
    assert memory.words(*marks) == [MARK if cell.foreign else 0] * len(marks), "cleared if it is the kernel's to clear"
    assert not judge.check(observation).violations


def parts(untyped: str, bits: int) -> list[tuple[Call, int]]:
    """Retype of parts: an untyped in two halves, smaller ones in a half, frames of these."""
    half = bits - 1

    def node(name: str, to: str, source: str, **more: Any) -> Call:
        return call(name, "cnode", dest_index=to, src_index=source, **more)

    return [
        (retype(untyped, "untyped", bits=half, count=2), OK),
        (retype("free:0", "page-4k", "free:2", count=2), OK),
        (retype("free:0", "untyped", "free:4", bits=13), OK),
        (retype("free:4", "page-4k", "free:5", count=2), OK),
        (retype("free:4", "page-4k", "free:7"), NOT_ENOUGH_MEMORY),
        (retype("free:0", "endpoint", "free:12"), INVALID_ARGUMENT),
        (node("CNode_Copy", "free:7", "free:0", rights="all"), REVOKE_FIRST),
        (node("CNode_Copy", "free:7", "free:1", rights="all"), OK),
        (node("CNode_Mint", "free:8", "free:1", rights="read", badge=0), REVOKE_FIRST),
        (node("CNode_Move", "free:9", "free:7"), OK),
        (node("CNode_Mutate", "free:10", "free:9", badge=0), OK),
        (retype("free:10", "page-4k", "free:11"), OK),
        (call("CNode_Revoke", "cnode", index="free:0"), OK),
        (call("CNode_Delete", "cnode", index="free:1"), OK),
        (call("CNode_Revoke", "cnode", index=untyped), OK),
        (retype(untyped, "page-4k", count=3), OK),
    ]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_parts(cells: Executor, judge: Judge, cell: Cell) -> None:
    memory = Memory(cells, cell)
    steps = parts(memory.untyped, 21)
    calls = [step for step, _ in steps]
    expected = [error for _, error in steps]
    if not cell.foreign:
        expected[5] = OK
    marks = (0, 0x1FF8, 0x2FF8)
    for done in range(1, len(calls) + 1):
        observation = memory.run(calls, stop_after=done, marks=marks)
        assert errors(observation)[:done] == expected[:done]
        revoked = calls[done - 1] == call("CNode_Revoke", "cnode", index=memory.untyped)
        assert (len(memory.capabilities()) == 2) == revoked
    assert memory.words(*marks) == [MARK if cell.foreign else 0] * len(marks)
    assert not judge.check(observation).violations


@pytest.mark.parametrize(("cell", "page"), FRAMES, ids=lambda value: str(value))
def test_buffers(cells: Executor, judge: Judge, cell: Cell, page: str) -> None:
    """A frame of general-purpose memory may be an IPC buffer, in both worlds; device memory may not."""
    memory = Memory(cells, cell, page)
    calls = [
        retype(memory.untyped, page),
        call("TCB_SetIPCBuffer", "thread", buffer=0x10000000, bufferFrame="result:0"),
    ]
    observation = memory.run(calls)
    assert errors(observation) == [OK, ILLEGAL_OPERATION if cell.device else OK]
    frames = [frame for frame in memory.capabilities() if frame[0] == "frame_cap"]
    assert len(frames) == (1 if cell.device else 2)
    assert not judge.check(observation).violations


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell not in (SECURE, SECURE_DEVICE)], ids=str)
def test_refusals_are_those_of_device_memory(cells: Executor, cell: Cell) -> None:
    """Call by call, with arguments that are wrong as well: the first complaint is the same."""

    def attempts(untyped: str) -> list[Call]:
        wrong = {"num_objects": 0, "node_offset": 127, "size_bits": 63}
        found = [retype(untyped, type_, bits=4, slot="free:0") for type_ in OBJECT_TYPES if type_ not in FRAME_BITS]
        for name, value in wrong.items():
            for type_ in ("tcb", "page-table", "cnode", "page-4k", "untyped"):
                given: dict[str, Any] = {
                    "type": type_,
                    "size_bits": 4,
                    "node_offset": "free:0",
                    "num_objects": 1,
                    name: value,
                }
                found.append(call("Untyped_Retype", untyped, **given))
        return found

    model, memory = Memory(cells, SECURE_DEVICE), Memory(cells, cell)
    for wanted, tried in zip(attempts(model.untyped), attempts(memory.untyped), strict=True):
        answers = []
        for where, attempt in ((model, wanted), (memory, tried)):
            observation = where.run([attempt])
            # Message registers say which argument was wrong, and the range that it should be in.
            answers.append((errors(observation), observation.results["mr"][0][:4].tolist()))
        assert answers[0] == answers[1], tried
