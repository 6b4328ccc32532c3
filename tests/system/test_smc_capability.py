# SPDX-License-Identifier: BSD-2-Clause
"""The SMC capability, rule by rule, on the running kernel: what it takes, what it gives, and who may use it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.build.artefacts import PROJECT
from harness.build.smc_functions import NOT_SUPPORTED, load_smc_functions
from harness.configs import MachineConfig
from harness.execution.executor import Executor
from harness.execution.observation import Observation
from harness.findings.judge import Judge
from harness.kernel_state.layout import Layout
from harness.kernel_state.state import open_state
from harness.programs.interfaces import Interface
from harness.programs.population import Population, read_report
from harness.programs.program import Program
from harness.protocol import PAGE, CallState, PopulationKind
from tests.system.cells import POPULATION, Call, build_with, call, errors, program_of

OK, INVALID_CAPABILITY, ILLEGAL_OPERATION, TRUNCATED_MESSAGE = 0, 2, 3, 7
SMC = {function.name: function.id for function in load_smc_functions()}
ECHO = SMC["echo"]
LABEL = "ARM_SMC_Call"
REGISTERS = 18
"""x0 to x17, as the kernel saves them at the beginning of tcb_t."""


@pytest.fixture(scope="module")
def interface(shared_executor: Executor) -> Interface:
    return Interface.load(shared_executor.artefacts)


def run(executor: Executor, interface: Interface, *calls: Call) -> Observation:
    observation = executor.run(program_of(list(calls), interface))
    assert (observation.results["state"] == CallState.DONE).all()
    return observation


def smc(target: str, function: object = "echo", victim: str = "secure", **more: object) -> Call:
    return call("ARM_SMC_Call", target, victim, x0=function, **more)


def mint(source: str, slot: str, badge: object) -> Call:
    return call("CNode_Mint", "cnode", dest_index=slot, src_index=source, rights="all", badge=badge)


def copy(source: str, slot: str) -> Call:
    return call("CNode_Copy", "cnode", dest_index=slot, src_index=source, rights="all")


def saved_registers(executor: Executor, interface: Interface) -> list[int]:
    """x0 to x17 of the first victim, as its last entry into the kernel left them for its return."""
    report = read_report(executor.snapshot.read(executor.config.exchange.base, PAGE), interface.population)
    thread = next(r.address for r in report if (r.victim, r.kind, r.object) == (0, PopulationKind.TCB, None))
    offset = Layout.from_artefacts(executor.artefacts).tcb_offset
    data = executor.memory.read(thread + offset, 8 * REGISTERS)
    return [int(word) for word in np.frombuffer(data, np.uint64)]


def test_only_its_own_label(executor: Executor, interface: Interface) -> None:
    """Any other label is an illegal operation, and no SMC is made."""
    labels = [value for _, value in interface.pools["label"].names]
    own = interface.call(LABEL).label
    for label in (0, 1, *labels, 0xFFFFF):
        observation = run(executor, interface, call("Call", "smc", label=label, length=8, mr0=f"raw:{ECHO:#x}"))
        answer = int(observation.results["info"][0]) >> 12
        assert answer == (OK if label == own else ILLEGAL_OPERATION), label
        assert len(observation.smc_log) == (label == own)


@pytest.mark.parametrize("length", [0, 1, 4, 7, 8, 16, 120])
def test_eight_message_registers_at_least(executor: Executor, interface: Interface, length: int) -> None:
    observation = run(executor, interface, call("Call", "smc", label=LABEL, length=length, mr0=f"raw:{ECHO:#x}", mr1=3))
    info = int(observation.results["info"][0])
    assert info >> 12 == (OK if length >= 8 else TRUNCATED_MESSAGE)
    assert len(observation.smc_log) == (length >= 8)
    if length >= 8:
        assert info & 0x7F == 8, "x0 to x7 come back"


def test_eight_registers_each_way(executor: Executor, interface: Interface) -> None:
    words: dict[str, Any] = {
        "x1": 1,
        "x2": 2,
        "x3": 0x40,
        "x4": 0x1000,
        "x5": 0x80000000,
        "x6": 0xFFFFFFFF,
        "x7": 1 << 63,
    }
    observation = run(executor, interface, smc("smc", **words))
    (entry,) = observation.smc_log
    assert entry["arguments"].tolist() == [ECHO, *words.values()]
    # The firmware answers in x0, and leaves the others as they are.
    assert observation.results["mr"][0].tolist() == [0, *words.values()]
    assert int(observation.results["badge"][0]) == 0


def test_a_send_makes_the_call_and_brings_nothing_back(executor: Executor, interface: Interface) -> None:
    """The same message once with Call, once with Send and NBSend: one SMC each, an answer for the first only."""
    message: dict[str, Any] = {"label": LABEL, "length": 8, "mr0": f"raw:{ECHO:#x}", "mr1": 3, "mr2": 0x40}
    sent = [ECHO, 3, 0x40]
    left = {}
    for name in ("Call", "Send", "NBSend"):
        observation = run(executor, interface, call(name, "smc", **message))
        assert len(observation.smc_log) == 1
        assert observation.smc_log[0]["arguments"][:3].tolist() == sent
        assert observation.smc_log[0]["result"][:3].tolist() == [0, 3, 0x40]
        left[name] = saved_registers(executor, interface)
    capability = interface.population.slot_number(0, "smc")
    asked = interface.call(LABEL).label << 12 | 8
    assert left["Call"][:5] == [0, 8, 0, 3, 0x40], "badge, message information, and the results"
    assert left["Send"][:5] == left["NBSend"][:5] == [capability, asked, *sent], "all as it was when the call was made"


def test_registers_behind_x7(executor: Executor, interface: Interface) -> None:
    """x8 to x17 of caller and kernel do not go along, and the caller has its own afterwards."""
    left = []
    for label in (LABEL, 0):
        observation = run(executor, interface, call("Call", "smc", label=label, length=8, mr0=1))
        assert len(observation.smc_log) == (label == LABEL)
        assert not any(entry["beyond"].any() for entry in observation.smc_log)
        left.append(saved_registers(executor, interface)[8:])
    assert sum(value != 0 for value in left[0]) > 5
    assert left[0] == left[1], "a refused call of the same caller goes the same way, but for the SMC"


def test_badge_0_is_any_function(executor: Executor, interface: Interface) -> None:
    for function, answer in (("smccc_version", 0x10001), ("psci_version", 0x10001), ("raw:0x12345678", NOT_SUPPORTED)):
        observation = run(executor, interface, smc("smc", function))
        assert errors(observation) == [OK]
        assert int(observation.results["mr"][0][0]) == answer


def test_a_badge_is_one_function(executor: Executor, interface: Interface) -> None:
    """Compared as a whole word, although the firmware looks at its low half only."""
    high = 1 << 32 | ECHO
    observation = run(
        executor, interface,
        smc("smc-echo"),
        smc("smc-echo", "smccc_version"),
        smc("smc-echo", f"raw:{high:#x}"),
        smc("smc-echo", 0),
        mint("smc", "free:0", f"raw:{high:#x}"),
        smc("free:0", f"raw:{high:#x}"),
        smc("free:0"),
    )  # fmt: skip
    wrong = ILLEGAL_OPERATION
    assert errors(observation) == [OK, wrong, wrong, wrong, OK, OK, wrong]
    assert [int(entry["call"]) for entry in observation.smc_log] == [0, 5]


def test_a_badge_is_set_once(executor: Executor, interface: Interface) -> None:
    """By Mint, on a capability without one; copying and moving keep it."""
    again = [mint("smc-echo", f"free:{n}", badge) for n, badge in enumerate(("smc:smccc_version", 0, "smc:echo"))]
    mutate = call("CNode_Mutate", "cnode", dest_index="free:3", src_index="smc-echo", badge="smc:smccc_version")
    late = call("CNode_Mutate", "cnode", dest_index="free:3", src_index="smc", badge="smc:echo")
    observation = run(executor, interface, *again, mutate, late, *(smc(f"free:{n}") for n in range(4)))
    assert errors(observation) == [ILLEGAL_OPERATION] * 5 + [INVALID_CAPABILITY] * 4
    observation = run(
        executor, interface,
        copy("smc-echo", "free:0"),
        call("CNode_Move", "cnode", dest_index="free:1", src_index="smc-echo"),
        mint("smc", "free:2", 0),
        mint("free:2", "free:3", "smc:echo"),
        *(smc(f"free:{n}", "smccc_version") for n in range(4)),
        *(smc(f"free:{n}") for n in range(4)),
    )  # fmt: skip
    refused = [ILLEGAL_OPERATION, ILLEGAL_OPERATION, OK, ILLEGAL_OPERATION]
    assert errors(observation) == [OK] * 4 + refused + [OK] * 4


def test_revoke_and_delete_follow_the_derivation_tree(executor: Executor, interface: Interface) -> None:
    """As with badged endpoints: copies of a badged capability are its children, other badged ones its siblings."""
    observation = run(
        executor, interface,
        mint("smc", "free:0", "smc:echo"),
        copy("free:0", "free:1"),
        copy("free:1", "free:2"),
        mint("smc", "free:3", "smc:echo"),
        mint("smc", "free:4", "smc:smccc_version"),
        call("CNode_Revoke", "cnode", index="free:0"),
        *(smc(f"free:{n}") for n in range(4)),
        smc("free:4", "smccc_version"),
        # A copy without a badge has no children: they belong to the capability that it is a copy of.
        call("CNode_Revoke", "cnode", index="smc"),
        smc("free:0"),
        call("CNode_Delete", "cnode", index="free:0"),
        smc("free:0"),
        smc("free:3"),
        smc("smc"),
    )  # fmt: skip
    gone = INVALID_CAPABILITY
    assert errors(observation) == [OK] * 6 + [OK, gone, gone, OK, OK] + [OK, OK, OK, gone, OK, OK]
    verdict = Judge.of(executor).judge(program_of([mint("smc", "free:0", "smc:echo")], interface))
    assert verdict.symptoms == ()


def example(executor: Executor, interface: Interface, name: str) -> Observation:
    program = Program.load(PROJECT / "examples" / f"{name}.yaml", interface)
    assert Judge.of(executor).judge(program.to_bytes()).symptoms == ()
    observation = executor.run(program.to_bytes())
    assert (observation.results["state"] == CallState.DONE).all()
    return observation


def test_exclusive_use(executor: Executor, interface: Interface) -> None:
    """One holder makes SMCs for its clients, which have no capability; its answer is what the firmware said."""
    observation = example(executor, interface, "secure-monitor-server")
    results = observation.results
    assert [int(entry["call"]) for entry in observation.smc_log] == [3, 6]
    names = [victim.name for victim in interface.population.victims]
    assert {names[int(results["victim"][int(entry["call"])])] for entry in observation.smc_log} == {"secure"}
    assert int(results["error"][0]) == INVALID_CAPABILITY, "the client has no capability of its own"
    # What the client of the first call gets in its answer, and what the firmware returned.
    answered = results["mr"][2][:3].tolist()
    assert answered == results["mr"][3][1:4].tolist() == [1, 2, 3]
    assert int(results["mr"][5][0]) == int(results["mr"][6][0]) & 0xFFFF == 1


def test_a_reduced_capability_is_handed_on(executor: Executor, interface: Interface) -> None:
    """The receiver may make the one call that the badge names, until the sender takes it back."""
    observation = example(executor, interface, "secure-monitor-delegated")
    tries = [i for i, r in enumerate(observation.results) if int(r["victim"]) != 0 and r["error"]]
    assert [int(observation.results["error"][i]) for i in tries] == [
        ILLEGAL_OPERATION,
        ILLEGAL_OPERATION,
        INVALID_CAPABILITY,
    ]
    (entry,) = observation.smc_log
    assert int(entry["arguments"][0]) == ECHO


def test_it_is_off_by_default(config: MachineConfig) -> None:
    """A kernel whose config does not ask for it: no type of capability, no label, and none at boot."""
    options = {name: value for name, value in config.kernel.options.items() if name != "ALLOW_SMC_CALLS"}
    without = config.model_copy(update={"kernel": config.kernel.model_copy(update={"options": options})})
    data = Population.load(POPULATION).data
    for victim in data["slots"]:
        data["slots"][victim] = [
            s for s in data["slots"][victim] if "device" not in s["of"] and "normal" not in s["of"]
        ]
    data["objects"] = [o for o in data["objects"] if "device" not in o["name"] and "normal" not in o["name"]]
    artefacts = build_with(without, Population(data))
    layout = Layout.from_artefacts(artefacts)
    assert "smc_cap" not in layout.cap_types
    assert LABEL not in Interface.load(artefacts).index
    with Executor(artefacts) as executor:
        state = open_state(layout, without, executor.snapshot)
        assert {state.caps.type_name(row) for row in range(len(state.caps))} >= {"domain_cap", "cnode_cap", "frame_cap"}
        known = set(layout.cap_types.values())
        assert set(state.caps.type.tolist()) <= known
