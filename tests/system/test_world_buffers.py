# SPDX-License-Identifier: BSD-2-Clause
"""IPC buffers in non-secure general-purpose memory: what the kernel reads and writes there, read back by the host."""

from __future__ import annotations

import numpy as np
import pytest

from harness.execution.executor import Executor
from harness.execution.observation import Outcome
from harness.kernel_state.layout import Layout
from harness.kernel_state.state import open_state
from harness.programs.interfaces import Interface
from harness.programs.population import ReportedRange, read_report
from harness.protocol import PAGE, PopulationKind
from tests.system.cells import Call, call, errors, program_of

# Words of seL4_IPCBuffer: tag, msg[120], userData, caps_or_badges[3], receiveCNode, receiveIndex, receiveDepth
LENGTH = 120
FIRST_IN_BUFFER = 4
"""Shorter messages stay in registers."""
EXTRA = 122
RECEIVE = 125
BUFFER_WORDS = 128
CNODE_SLOT, FREE_SLOT, DEPTH = 1, 0x40, 0x40
FRAMES = {
    "page-n-mapped": ("page-n-a", 0x10002000),
    "large-n-mapped": ("large-n-a", 0x10400000),
    "huge-n-mapped": ("huge-n", 0x40000000),
}
"""The first victim's non-secure frames: the object, and where it is mapped."""
PLACE = 0x400
"""Where in the frame the buffer lies."""


@pytest.fixture(scope="module")
def interface(shared_executor: Executor) -> Interface:
    found = Interface.load(shared_executor.artefacts)
    assert found.population.slot_number(0, "cnode") == CNODE_SLOT
    assert len(found.population.slots(0)) < FREE_SLOT
    return found


def ranges(executor: Executor, interface: Interface) -> list[ReportedRange]:
    return read_report(executor.snapshot.read(executor.config.exchange.base, PAGE), interface.population)


def words(executor: Executor, address: int, count: int = BUFFER_WORDS) -> list[int]:
    data = executor.memory.read(address, 8 * count)
    return [int(word) for word in np.frombuffer(data, np.uint64)]


@pytest.mark.parametrize("frame", FRAMES)
def test_a_long_message_with_capabilities(executor: Executor, interface: Interface, frame: str) -> None:
    """From a victim all of whose memory is non-secure, to one whose buffer lies in a non-secure frame of each size."""
    name, vaddr = FRAMES[frame]
    found = ranges(executor, interface)
    place = next(item.address for item in found if item.object == name) + PLACE
    own = next(r.address for r in found if (r.victim, r.kind, r.object) == (1, PopulationKind.STATE, None))
    store = [
        call("Store", vaddr, offset=PLACE + 8 * (RECEIVE + i), value=value)
        for i, value in enumerate((CNODE_SLOT, FREE_SLOT, DEPTH))
    ]
    calls: list[Call] = [
        call("TCB_SetIPCBuffer", "tcb", buffer=vaddr + PLACE, bufferFrame=frame),
        *store,
        call("Recv", "channel"),
        call(
            "Send", "channel", "normal-world",
            label=1, length=LENGTH, caps=2, cap="page-n", cap1="channel", mr0=1, mr1=2, mr2=3, mr3="2 step 1",
        ),
        call("Yield", None),
        call("ARM_Page_GetAddress", FREE_SLOT),
    ]  # fmt: skip
    observation = executor.run(program_of(calls, interface))
    assert observation.status is Outcome.DONE
    assert not any(errors(observation))
    info = int(observation.results["info"][4])
    assert (info & 0x7F, info >> 12) == (LENGTH, 1)
    assert info >> 7 & 3 == 2, "one capability was copied, one unwrapped"
    sent, received = words(executor, own), words(executor, place)
    assert received[1 + FIRST_IN_BUFFER : 1 + LENGTH] == sent[1 + FIRST_IN_BUFFER : 1 + LENGTH]
    assert len(set(received[1 + FIRST_IN_BUFFER : 1 + 24])) > 5
    # The capability to the endpoint itself arrives as its badge, the frame as a capability in the slot on offer.
    assert received[EXTRA + 1] == 0x63
    given = next(item.address for item in found if item.object == "page-n-c")
    table = open_state(Layout.from_artefacts(executor.artefacts), executor.config, executor.memory).caps
    cnode = next(r.address for r in found if (r.victim, r.kind, r.object) == (0, PopulationKind.CNODE, None))
    (row,) = np.flatnonzero(table.address == cnode + FREE_SLOT * table.layout.slot_bytes).tolist()
    assert (table.type_name(row), int(table.base[row]), bool(table.non_secure[row])) == ("frame_cap", given, True)
    # Nothing of the frame but the buffer was written.
    start = place - PLACE
    for address, size in ((start, PLACE), (place + 8 * BUFFER_WORDS, PAGE - PLACE - 8 * BUFFER_WORDS)):
        assert executor.memory.read(address, size) == executor.snapshot.read(address, size)
    assert not executor.audit()


def test_a_short_message_leaves_the_buffer_alone(executor: Executor, interface: Interface) -> None:
    """Four words or fewer travel in registers: no word of the receiver's buffer is written."""
    name, vaddr = FRAMES["large-n-mapped"]
    place = next(item.address for item in ranges(executor, interface) if item.object == name) + PLACE
    calls: list[Call] = [
        call("TCB_SetIPCBuffer", "tcb", buffer=vaddr + PLACE, bufferFrame="large-n-mapped"),
        call("Recv", "channel"),
        call("Send", "channel", "normal-world", length=4, mr0=1, mr1=2, mr2=3),
        call("Yield", None),
    ]
    observation = executor.run(program_of(calls, interface))
    assert not any(errors(observation))
    assert executor.memory.read(place, 8 * BUFFER_WORDS) == executor.snapshot.read(place, 8 * BUFFER_WORDS)
    assert observation.results["mr"][1][:3].tolist() == [1, 2, 3]
