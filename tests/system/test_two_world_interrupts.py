# SPDX-License-Identifier: BSD-2-Clause
"""Interrupts of two worlds: each comes where it belongs, neither disturbs the other, and everything repeats."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from harness import protocol
from harness.build.artefacts import Artefacts
from harness.build.kernel import FOREIGN_LINE
from harness.build.system import build
from harness.configs import Level, MachineConfig, NormalWorld, load_config
from harness.execution.executor import Executor
from harness.execution.observation import Observation, Outcome
from harness.invariants.controller_view import ControllerView
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CallState

NORMAL_TIMER, VIRTUAL_TIMER, SECURE_TIMER, SECURE_LINE = 30, 27, 29, 90
REVOKE_FIRST = 9
RPC_FOREIGN_INTERRUPT = 0xFFFF_0004
ALL = 0xFFFF_FFFF
CALLS_UID = 0xBF00_FF01
IAR, RPR = 0x0C, 0x14
TIMER = ("timer_control", "timer_value")
"""The secure timer's registers, which EL3 keeps in its report."""


@pytest.fixture(scope="module", params=["el1", "el2"])
def config(request: pytest.FixtureRequest) -> MachineConfig:
    """The Trusted OS beside a normal world at each level."""
    given = load_config("trusted-os")
    assert given.normal_world is not None
    level = Level(request.param)
    normal = given.normal_world.model_copy(update={"level": level, "save_el2": level is Level.EL2})
    return given.model_copy(update={"normal_world": normal})


@pytest.fixture(scope="module")
def normal(config: MachineConfig) -> NormalWorld:
    assert config.normal_world is not None
    return config.normal_world


@pytest.fixture(scope="module")
def artefacts(config: MachineConfig) -> Artefacts:
    return build(config)


@pytest.fixture(scope="module")
def executor(artefacts: Artefacts) -> Iterator[Executor]:
    with Executor(artefacts) as machine:
        yield machine


@pytest.fixture(scope="module")
def interface(artefacts: Artefacts) -> Interface:
    return Interface.load(artefacts)


def run(executor: Executor, interface: Interface, *lines: str) -> Observation:
    """Run calls, given as `name, field: value, ...` of YAML, and see that the program ended."""
    text = "calls:\n" + "".join(f"- {{call: {line}}}\n" for line in lines)
    observation = executor.run(Program.from_yaml(text, interface, "test").to_bytes())
    assert observation.status is Outcome.DONE, observation.console
    assert all(state == CallState.DONE for state in observation.results["state"]), observation.results
    return observation


def load(region: str, offset: int) -> str:
    return f"NormalLoad, target: {region}, with: {{offset: {offset:#x}, width: 4}}"


def store(region: str, offset: int, value: str) -> str:
    return f"NormalStore, target: {region}, with: {{offset: {offset:#x}, width: 4, value: {value}}}"


def interrupt(line: int, next_call: int = 0) -> str:
    return f"NormalInterrupt, with: {{line: {line}, next_call: {next_call}}}"


SMC = f"NormalSMC, with: {{x0: {CALLS_UID:#x}}}"


def worlds(executor: Executor) -> dict[str, int]:
    """EL3's account of the normal world."""
    data = executor.memory.read(executor.config.firmware_ram.base + protocol.WORLDS_OFFSET, protocol.WORLDS.itemsize)
    account = np.frombuffer(data, protocol.WORLDS)[0]
    return {name: int(account[name]) for name in ("entries", "interrupted", "state")}


def secure_view(executor: Executor, region: str, offset: int, count: int) -> list[int]:
    """Registers of the interrupt controller as EL3 sees them, which has parked."""
    address = executor.config.region(region).base + offset
    shown = executor.machine.hmp(f"x/{count}xw {address:#x}")
    words = re.findall(r"0x([0-9a-f]{8})\b", re.sub(r"(?m)^[0-9a-f]+:", "", shown))
    assert len(words) == count, shown
    return [int(word, 16) for word in words]


REGISTERS = (
    ("gicd", 0x000, 3),  # GICD_CTLR, TYPER, IIDR
    ("gicd", 0x080, 9),  # GICD_IGROUPR
    *(("gicd", offset, 9) for offset in range(0x100, 0x400, 0x80)),  # set and clear: enabled, pending, active
    ("gicd", 0x400, 36),  # GICD_IPRIORITYR, in two parts, since a program has 256 calls
    ("gicd", 0x490, 36),
    ("gicd", 0xC00, 18),  # GICD_ICFGR
    ("gicd", 0xF10, 8),  # GICD_CPENDSGIR, SPENDSGIR
    ("gicc", 0x000, 3),  # GICC_CTLR, PMR, BPR
    ("gicc", 0x014, 1),  # GICC_RPR
    ("gicc", 0x01C, 1),  # GICC_ABPR
    ("gicc", 0x0D0, 8),  # GICC_APR, NSAPR
)
"""The controller's registers that a read does not change: region, offset of the first, and how many."""
DISTRIBUTOR_WORDS = 0x520 // 4
"""Up to the end of GICD_IPRIORITYR."""


def controller(executor: Executor) -> dict[tuple[str, int], int]:
    """All of REGISTERS, by region and offset."""
    parts = [("gicd", 0, DISTRIBUTOR_WORDS), *(part for part in REGISTERS if part[0] == "gicc" or part[1] >= 0xC00)]
    shown = {
        (region, first + 4 * n): value
        for region, first, count in parts
        for n, value in enumerate(secure_view(executor, region, first, count))
    }
    return {
        (region, first + 4 * n): shown[region, first + 4 * n]
        for region, first, count in REGISTERS
        for n in range(count)
    }


def test_groups_and_priorities(executor: Executor, normal: NormalWorld) -> None:
    groups = secure_view(executor, "gicd", 0x080, 8)
    assert {line for line in range(256) if groups[line // 32] >> line % 32 & 1} == set(normal.interrupts)
    priorities = b"".join(word.to_bytes(4, "little") for word in secure_view(executor, "gicd", 0x400, 64))
    for line, priority in enumerate(priorities):
        assert (priority >= 0x80) == (line in normal.interrupts), line


def test_secure_fields_read_as_zero_and_ignore_writes(
    executor: Executor, interface: Interface, config: MachineConfig, normal: NormalWorld
) -> None:
    """Register by register: the normal world reads it, writes ones, reads it, writes zeros, reads it."""
    view = ControllerView(config, normal)
    before = controller(executor)
    # GICD_SGIR is left out: QEMU lets the normal world make software interrupts of either group pending.
    for region, first, count in REGISTERS:
        offsets = [first + 4 * n for n in range(count)]
        calls = [
            (load(region, offset), store(region, offset, hex(ALL)), load(region, offset), store(region, offset, "0"))
            for offset in offsets
        ]
        observation = run(executor, interface, *(line for four in calls for line in (*four, four[0])))
        for offset, values in zip(offsets, observation.results["mr"][:, 0].reshape(count, 5).tolist(), strict=True):
            address = config.region(region).base + offset
            assert not any(view.secret(address, 4, value) for value in values[::2]), (region, hex(offset), values)
        after = controller(executor)
        for place, value in after.items():
            if place[0] == "gicd" and place[1]:
                hidden = view.secret(config.region("gicd").base + place[1], 4, ALL)
                assert value & hidden == before[place] & hidden, (place, "after", region, hex(first))
        # The two controls have another layout for each world: Group 0 stays enabled, and FIQ.
        assert after["gicd", 0] & 1
        assert after["gicc", 0] & 0b1001 == 0b1001
        # No secure interrupt can be masked: the mask stays in the normal world's half of priorities.
        assert after["gicc", 4] >= 0x80
    executor.run(b"")
    assert controller(executor) == before


def test_an_interrupt_that_stays_active_is_over_with_the_program(executor: Executor, interface: Interface) -> None:
    """The normal world acknowledges an interrupt and never ends it: meanwhile none of its group comes."""
    before = controller(executor)
    pending = store("gicd", 0x200, hex(1 << NORMAL_TIMER))
    observation = run(executor, interface, pending, load("gicc", IAR), load("gicc", RPR), interrupt(VIRTUAL_TIMER))
    values = observation.results["mr"][:, 0].tolist()
    assert values[1] == NORMAL_TIMER
    assert values[2] < 0xFF  # the running priority
    assert values[3] == 0  # none was taken
    observation = run(executor, interface, interrupt(VIRTUAL_TIMER), load("gicc", RPR))
    assert observation.results["mr"][0, :2].tolist() == [1, VIRTUAL_TIMER]
    assert observation.results["mr"][1, 0] == 0xFF
    executor.run(b"")
    assert controller(executor) == before


def test_the_normal_world_takes_its_own(executor: Executor, interface: Interface, normal: NormalWorld) -> None:
    lines = list(normal.interrupts)
    observation = run(executor, interface, *(interrupt(line) for line in lines))
    assert observation.results["mr"][:, :2].tolist() == [[1, line] for line in lines]
    assert worlds(executor)["interrupted"] == 0


def test_a_secure_interrupt_in_the_normal_world(executor: Executor, interface: Interface) -> None:
    """EL3 hands it to the secure world: the handler's notification is signalled, and the normal world goes on."""
    poll = "NBRecv, target: doorbell, victim: secure"
    observation = run(
        executor, interface,
        "IRQHandler_SetNotification, target: irq, victim: secure, with: {notification: doorbell-badged}",
        poll,
        interrupt(SECURE_LINE), SMC, load("gicd", 0x100 + 4 * (SECURE_LINE // 32)),
        poll,
        interrupt(SECURE_LINE),
        poll,
        "IRQHandler_Ack, target: irq, victim: secure",
        poll,
    )  # fmt: skip
    badges = observation.results["badge"].tolist()
    assert [badges[n] for n in (1, 5, 7, 9)] == [0, 1, 0, 1]  # masked until it is acknowledged
    assert observation.results["mr"][2, 0] == 0  # no interrupt of the normal world's own
    assert observation.results["info"][[2, 3]].tolist() == [0, 0]  # all its registers are as they were
    assert observation.results["mr"][4, 0] == 0  # it sees nothing of the secure line
    assert worlds(executor)["interrupted"] == 1


def test_a_normal_interrupt_in_the_secure_world(executor: Executor, interface: Interface) -> None:
    """While a victim has the turn: the dispatcher is signalled, the normal world takes it, the victim goes on."""
    turn = "Yield, victim: secure"
    run(executor, interface, SMC, turn)
    entries = worlds(executor)["entries"]
    observation = run(executor, interface, interrupt(NORMAL_TIMER, next_call=1), turn)
    assert observation.results["mr"][0, 0] == 0  # it was not taken at once
    assert worlds(executor)["entries"] == entries  # the normal world ran once more, in place of its SMC
    assert secure_view(executor, "gicd", 0x200, 1)[0] >> NORMAL_TIMER & 1 == 0  # and took it


def test_a_yielding_call_is_interrupted_and_resumes(executor: Executor, interface: Interface) -> None:
    """The Trusted OS leaves it with the foreign-interrupt RPC; the normal world takes its line, and comes back."""
    message = "NormalMessage, target: shared, with: {command: open_session, service: counter}"
    call = "NormalSMC, with: {x0: optee_call_with_arg, x1: 0, x2: shared, x7: 1}"
    resume = "NormalSMC, with: {x0: optee_return_from_rpc, x1: 0, x2: 0, x3: answer-x3, x7: 1}"
    result, session = load("shared", 0x14), load("shared", 0x08)
    plain = run(executor, interface, message, call, result, session)
    assert plain.results["mr"][1:3, 0].tolist() == [0, 0]
    opened = int(plain.results["mr"][3, 0])
    assert opened
    observation = run(executor, interface, message, interrupt(NORMAL_TIMER, next_call=1), call, resume, result, session)
    answers = observation.results["mr"][:, 0].tolist()
    assert answers[2:] == [RPC_FOREIGN_INTERRUPT, 0, 0, opened]
    assert observation.results["badge"][2] == 1 << 16 | NORMAL_TIMER
    assert observation.results["info"][2:4].tolist() == [0, 0]


def test_the_trusted_os_has_the_line(executor: Executor, interface: Interface) -> None:
    """Nobody else can be told of the normal world's interrupts."""
    take = f"IRQControl_Get, target: irq-control, victim: secure, with: {{irq: {FOREIGN_LINE}, index: 'free:0'}}"
    assert run(executor, interface, take).results["error"][0] == REVOKE_FIRST


def test_a_normal_interrupt_at_a_preemption_point(executor: Executor, interface: Interface) -> None:
    """A revoke is interrupted by a line of the normal world, which runs before the revoke goes on."""
    make = (
        "CNode_Mint, target: cnode, victim: secure, "
        "with: {dest_index: 'free:0', src_index: channel, rights: all, badge: 1}",
        "Untyped_Retype, target: arena, victim: secure, with: {type: endpoint, node_offset: 'free:1', num_objects: 8}",
    )
    revoke = "CNode_Revoke, target: cnode, victim: secure, with: {index: arena}"
    plain = run(executor, interface, *make, revoke)
    entries = worlds(executor)["entries"]
    assert "Received" not in plain.console
    asked = f"Interrupt, victim: secure, with: {{line: {VIRTUAL_TIMER}, count: 1, next_call: 1}}"
    run(executor, interface, *make, asked, revoke)
    assert worlds(executor)["entries"] > entries


def test_timers_do_not_disturb_each_other(executor: Executor, interface: Interface) -> None:
    """Ticks of the kernel leave the normal world's timers alone, and the other way round."""
    ticks = f"Interrupt, victim: secure, with: {{line: {SECURE_TIMER}, count: 3}}"
    observation = run(
        executor, interface,
        SMC, ticks, "Yield, victim: secure", SMC, interrupt(NORMAL_TIMER), interrupt(VIRTUAL_TIMER),
        interrupt(SECURE_TIMER), SMC, "Yield, victim: secure",
    )  # fmt: skip
    assert observation.results["info"][[0, 3, 7]].tolist() == [0, 0, 0]  # the timers' registers are among them
    assert observation.results["mr"][4:7, 0].tolist() == [1, 1, 0]  # the last one is the kernel's
    assert worlds(executor)["interrupted"] == 1
    report = observation.report
    assert int(report["ticks"]) == 0
    alone = run(executor, interface, SMC, interrupt(NORMAL_TIMER), interrupt(VIRTUAL_TIMER), SMC)
    assert [int(alone.report[name]) for name in TIMER] == [int(report[name]) for name in TIMER]


def test_the_same_every_time(executor: Executor, interface: Interface) -> None:
    """Interrupts of both groups in both worlds: results, coverage and changed pages repeat, in any order."""
    programs = [
        (interrupt(line, next_call), SMC, "Yield, victim: secure", interrupt(SECURE_LINE), SMC)
        for line in (NORMAL_TIMER, VIRTUAL_TIMER, 8)
        for next_call in (0, 1)
    ]
    seen: dict[int, object] = {}
    for turn in range(4):
        for number in list(range(len(programs)))[:: 1 if turn % 2 else -1]:
            observation = run(executor, interface, *programs[number])
            found = (
                observation.results.tobytes(), bytes(observation.coverage), observation.changed.tolist(),
                [page.tobytes() for page in observation.pages], worlds(executor),
            )  # fmt: skip
            assert seen.setdefault(number, found) == found, (number, turn)
    executor.run(b"")
    assert not executor.audit()
