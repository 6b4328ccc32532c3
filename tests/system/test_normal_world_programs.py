# SPDX-License-Identifier: BSD-2-Clause
"""Programs of both worlds on the real machine: turns, faults, interrupts, registers, memory that changes while read."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fuzz.campaign import CampaignSettings, run_campaign
from fuzz.mutators import TypedMutator
from fuzz.shapes import shapes_of
from fuzz.targets import load_target
from harness import protocol
from harness.build.artefacts import PROJECT, Artefacts
from harness.build.system import build
from harness.cli import execute
from harness.configs import Level
from harness.errors import InputError
from harness.execution.executor import Executor
from harness.execution.observation import Observation, Outcome
from harness.findings.reproduce import flash_with
from harness.kernel_state.elf import Elf
from harness.programs.encodings import Decoder
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.protocol import CALL_BYTES, CallState, Command

EXAMPLES = PROJECT / "examples" / "two-worlds"
DECODE = Command.DECODE_ONLY | Command.RESTORE_REGISTERS | Command.INVALIDATE_TLB
READ_ABORT, WRITE_ABORT = 0x96000010, 0x96000050
FOREIGN_INTERRUPT = 0xFFFF0004
ACCESS_REFUSED = 0xFFFF0000
"""Results of the Trusted OS's messages from here on are errors."""


@pytest.fixture(scope="module")
def interface(two_worlds: Artefacts) -> Interface:
    return Interface.load(two_worlds)


@pytest.fixture(scope="module")
def machine(two_worlds: Artefacts) -> Iterator[Executor]:
    with Executor(two_worlds) as executor:
        yield executor


def run(machine: Executor, interface: Interface, program: str | Path) -> Observation:
    text = program if isinstance(program, str) else program.read_text()
    return machine.run(Program.from_yaml(text, interface, str(program)[:40]).to_bytes())


def calls(*lines: str) -> str:
    return "calls:\n" + "".join(f"- {{{line}}}\n" for line in lines)


def answers(observation: Observation) -> list[int]:
    """First register of each result."""
    return [int(mr[0]) for mr in observation.results["mr"]]


def test_each_call_does_its_work_in_an_example(machine: Executor, interface: Interface) -> None:
    done = set()
    for path in sorted(EXAMPLES.glob("*.yaml")):
        program = Program.load(path, interface)
        observation = machine.run(program.to_bytes())
        assert observation.status is Outcome.DONE, path
        for call, result in zip(program.calls, observation.results, strict=True):
            if result["state"] == CallState.DONE and not result["error"]:
                done.add(call.name)
            if call.name == "NormalSMC":
                assert result["info"] == 0, f"{path}: {call}: registers came back changed"
    assert done >= {call.name for call in interface.calls[interface.first_normal_call :]}
    assert not machine.audit()


def test_sessions_and_shared_buffers(machine: Executor, interface: Interface) -> None:
    session = answers(run(machine, interface, EXAMPLES / "session.yaml"))
    assert session[4] >> 32 >= ACCESS_REFUSED, "another client used the session"
    assert session[6] == 12
    buffers = answers(run(machine, interface, EXAMPLES / "shared-buffers.yaml"))
    assert buffers[6] == 0x1122334455667788
    assert buffers[9] >> 32 >= ACCESS_REFUSED, "secure memory was taken for shared memory"


def test_what_is_not_the_normal_worlds_aborts(machine: Executor, interface: Interface) -> None:
    observation = run(machine, interface, EXAMPLES / "confined.yaml")
    results = observation.results[:8]
    assert (results["state"] == CallState.FAULTED).all()
    assert set(results["error"].tolist()) == {READ_ABORT, WRITE_ABORT}
    assert (results["mr"][:, 0] == results["badge"]).all(), "FAR is the address"
    assert answers(observation)[9] == 0, "the secure lines' groups can be read"
    lines = [f"call: NormalStore, target: {place}, with: {{value: 1}}" for place in ("normal-world", "behind-shared")]
    refused = run(machine, interface, calls(*lines))
    assert refused.results["error"].tolist() == [1, 1]
    assert not machine.audit()


def test_interrupts_of_both_worlds(machine: Executor, interface: Interface) -> None:
    observation = run(machine, interface, EXAMPLES / "interrupts.yaml").keep()
    taken = [[int(word) for word in mr[:2]] for mr in observation.results["mr"][:3]]
    assert taken == [[1, 48], [1, 9], [0, 0]]
    assert answers(observation)[5] == FOREIGN_INTERRUPT
    assert int(observation.results["badge"][5]) == 1 << 16 | 49, "the interrupt comes once the call is back"
    assert answers(observation)[6] == 0
    assert answers(observation)[9] == 7
    # The controller's state is restored after it, too.
    again = run(machine, interface, EXAMPLES / "interrupts.yaml")
    np.testing.assert_array_equal(again.results, observation.results)


def test_turns_pass_between_the_worlds(machine: Executor, interface: Interface) -> None:
    victims = [victim.name for victim in interface.population.victims]
    source = random.Random(3)
    lines, wanted = [], []
    for _ in range(120):
        victim = source.randrange(len(victims) + 1)
        wanted.append(victim)
        known = "call: NormalSMC, with: {x0: psci_version}"
        lines.append(known if victim == len(victims) else f"call: Yield, victim: {victims[victim]}")
    observation = run(machine, interface, calls(*lines))
    assert observation.status is Outcome.DONE
    assert (observation.results["state"] == CallState.DONE).all()
    assert observation.results["victim"].tolist() == wanted
    assert not observation.results["info"].any()


def test_both_worlds_decode_as_the_host_does(machine: Executor, interface: Interface) -> None:
    decoder, source = Decoder(interface), random.Random(4)
    count, first = len(interface.calls), interface.first_normal_call
    decoded = set()
    for _ in range(400):
        program = source.randbytes(CALL_BYTES * source.randrange(1, 20))
        observation = machine.run(program, command=DECODE)
        assert observation.status is Outcome.DONE
        size = len(program) // CALL_BYTES * protocol.DECODED.itemsize
        data = machine.memory.read(machine.config.exchange.base + protocol.EXCHANGE_DECODED, size)
        np.testing.assert_array_equal(np.frombuffer(data, protocol.DECODED), decoder.decode_table(program))
        # The world that parks has decoded.
        decoded.add((program[0] % count >= first, int(observation.report["scr_el3"]) & 1))
    assert decoded == {(True, 1), (False, 0)}


def changed_after(machine: Executor, interface: Interface, reads: int) -> tuple[int, int]:
    """The sum that a service makes of a message, one of whose summands changes after so many reads; and the summand."""
    text = (EXAMPLES / "double-fetch.yaml").read_text()
    assert "reads: 8" in text
    observation = run(machine, interface, text.replace("reads: 8", f"reads: {reads}"))
    assert observation.status is Outcome.DONE
    return answers(observation)[5], answers(observation)[6]


def test_memory_changes_when_it_has_been_read_so_often(machine: Executor, interface: Interface) -> None:
    seen = {reads: changed_after(machine, interface, reads) for reads in (1, 2, 4, 8, 24)}
    assert seen[1] == (0x107, 0x100), "the Trusted OS sees the other summand"
    assert seen[8] == (12, 0x100), "it has copied the message by then"
    assert seen[24] == (12, 5), "it does not read so often"
    sums = [seen[reads][0] for reads in sorted(seen)]
    assert sums == sorted(sums, reverse=True)
    assert seen == {reads: changed_after(machine, interface, reads) for reads in seen}


def test_messages_are_logged_before_and_after(machine: Executor, interface: Interface, two_worlds: Artefacts) -> None:
    assert two_worlds.normal_world_elf is not None
    symbols = Elf(two_worlds.normal_world_elf).symbols
    run(machine, interface, EXAMPLES / "session.yaml")
    count = int.from_bytes(machine.memory.read(symbols["message_log_count"].address, 8), "little")
    size = protocol.NORMAL_MESSAGE_LOG.itemsize
    log = np.frombuffer(machine.memory.read(symbols["message_log"].address, size * count), protocol.NORMAL_MESSAGE_LOG)
    assert log["call"].tolist() == [1, 3, 5, 8]
    assert log["client"].tolist() == [1, 2, 1, 1]
    assert not log["answer"].any()
    assert bytes(log["before"][2]) != bytes(log["after"][2])


def typed_programs(interface: Interface, count: int) -> list[bytes]:
    typed = TypedMutator(shapes_of(interface, load_target("normal-world-smc")), seed=11, maximum_calls=12)
    return [typed(b"", 12 * CALL_BYTES, 0) for _ in range(count)]


def test_programs_of_both_worlds_repeat(machine: Executor, interface: Interface) -> None:
    programs = typed_programs(interface, 150)
    first = []
    for program in programs:
        seen = machine.run(program)
        first.append((seen.status, seen.results.tobytes(), seen.coverage.tobytes(), seen.changed.tolist()))
    order = list(range(len(programs)))
    random.Random(5).shuffle(order)
    for number in order:
        seen = machine.run(programs[number])
        assert (seen.status, seen.results.tobytes(), seen.coverage.tobytes(), seen.changed.tolist()) == first[number]
    assert not machine.audit()


def test_coverage_tells_the_worlds_apart(machine: Executor, interface: Interface) -> None:
    blocks = machine.blocks

    def covered(program: str) -> dict[str, int]:
        run(machine, interface, program)
        return {name: int((machine.coverage[blocks.of(name)] > 0).sum()) for name in blocks.components}

    # Victims run at the virtual addresses of the Trusted OS.
    assert covered(calls("call: Yield"))["trusted-os"] == 0
    el3, dispatcher = (
        covered(calls(f"call: NormalSMC, with: {{x0: {name}}}")) for name in ("psci_version", "optee_calls_uid")
    )
    assert 0 < el3["trusted-os"] < dispatcher["trusted-os"]
    assert all(dispatcher.values())


def test_a_program_in_flash_does_the_same(machine: Executor, interface: Interface, two_worlds: Artefacts) -> None:
    program = Program.load(EXAMPLES / "session.yaml", interface)
    warm = machine.run(program.to_bytes()).results.copy()
    with Executor(dataclasses.replace(two_worlds, flash=flash_with(two_worlds, program.to_bytes()))) as cold:
        observation = cold.observe_boot(len(program.calls))
        assert observation.status is Outcome.DONE
        np.testing.assert_array_equal(observation.results, warm)


def test_at_el2_registers_of_el2_come_back_too(two_worlds: Artefacts) -> None:
    normal = two_worlds.config.normal_world
    assert normal is not None
    changed = {"normal_world": normal.model_copy(update={"level": Level.EL2, "save_el2": True})}
    artefacts = build(two_worlds.config.model_copy(update=changed))
    interface = Interface.load(artefacts)
    with Executor(artefacts) as machine:
        for path in sorted(EXAMPLES.glob("*.yaml")):
            observation = run(machine, interface, path)
            assert observation.status is Outcome.DONE, path
            called = [call.name == "NormalSMC" for call in Program.load(path, interface).calls]
            assert not observation.results["info"][called].any(), f"{path}: registers came back changed"
        assert answers(run(machine, interface, EXAMPLES / "session.yaml"))[6] == 12
        assert answers(run(machine, interface, EXAMPLES / "interrupts.yaml"))[:2] == [1, 1]
        faults = run(machine, interface, EXAMPLES / "confined.yaml").results[:8]
        assert (faults["state"] == CallState.FAULTED).all()
        # From EL2 the syndrome also says which register; class and fault status are what is said at EL1.
        assert {int(error) >> 26 for error in faults["error"]} == {READ_ABORT >> 26}
        assert {int(error) & 0x3F for error in faults["error"]} == {READ_ABORT & 0x3F}
        assert not machine.audit()


def test_a_campaign_reaches_the_trusted_os(two_worlds: Artefacts, tmp_path: Path) -> None:
    settings = CampaignSettings(
        two_worlds, tmp_path, target="normal-world-smc", runs=250, seconds=60, workers=1, seed=3
    )
    result = json.loads(json.dumps(run_campaign(settings).to_json()))
    assert result["findings"] == [] and result["unreachable_but_hit"] == []
    assert all(result["coverage"][name]["blocks_hit"] > 150 for name in ("kernel", "firmware", "trusted-os"))
    assert result["labels"]["NormalSMC"]["attempted"] > 250


def test_a_target_without_its_world_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert execute(["fuzz", "normal-world-smc", "--config", "spanning-el1", "--out", out]) == InputError.exit_code
    said = capsys.readouterr()
    assert "--config spanning-el1: it has nothing that target 'normal-world-smc' aims at" in said.out + said.err


def test_run_takes_the_config_that_a_program_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["run", str(EXAMPLES / "confined.yaml")]) == 0
    said = capsys.readouterr().out
    assert "abort at 0xe000000, ESR 0x96000010" in said and "nothing wrong was found" in said
