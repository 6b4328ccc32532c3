# SPDX-License-Identifier: BSD-2-Clause
"""What a worker does with what it sees, without Atheris around it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fuzz.messages import (
    Added,
    Found,
    Message,
    Programs,
    Progress,
    Ready,
    Refile,
    Repeated,
    Request,
    Stop,
    WorkerSettings,
)
from fuzz.pending import Pending
from fuzz.worker import ALWAYS_REDUCED, Worker
from harness.build.artefacts import Artefacts
from harness.build.planted import planted_bugs
from harness.build.system import build
from harness.configs import MachineConfig
from harness.findings.bundle import read_bundle
from harness.findings.signature import Symptom
from harness.programs.interfaces import Interface
from harness.programs.program import Program

BUG = next(bug for bug in planted_bugs() if bug.name == "world_lost_on_remap")


class Pipe:
    """The worker's end of its pipe; keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.requests: list[Request] = []

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def poll(self) -> bool:
        return bool(self.requests)

    def recv(self) -> Request:
        return self.requests.pop(0)

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]


def start(artefacts: Artefacts, directory: Path, **options: Any) -> Worker:
    pipe: Any = Pipe()
    settings = WorkerSettings(0, artefacts, "invocations", None, 1, None, directory, directory / "log", **options)
    worker = Worker(settings, pipe)
    worker.boot()
    worker.registration = Any  # type: ignore[assignment]  # there is no libFuzzer here to register counters with
    return worker


@pytest.fixture
def worker(artefacts: Artefacts, tmp_path: Path) -> Iterator[Worker]:
    one = start(artefacts, tmp_path, check_every=2, audit_every=3)
    yield one
    one.close()


def sent(worker: Worker) -> Pipe:
    pipe: Any = worker.pipe
    assert isinstance(pipe, Pipe)
    return pipe


def program(worker: Worker, text: str) -> bytes:
    return Program.from_yaml(f"calls:\n{text}", worker.interface).to_bytes()


def test_ordinary_programs_are_counted_and_nothing_is_found(worker: Worker) -> None:
    data = program(worker, "- {call: ARM_Page_Unmap, target: page-n-mapped}\n- {call: Load, target: 0x10000000}\n")
    for _ in range(6):
        worker.execute(data + b"rest")
    worker.report()
    totals = sent(worker).of(Progress)[-1].totals
    assert totals.executions == 6 and totals.calls == 12 and totals.succeeded == 12
    assert totals.whole_checks == 3 and totals.audits == 2, "every second one"
    assert totals.invariants["ns_bit_matches_world"][0] == 6 and totals.invariants["mdb_cte_at"][0] in range(4, 7)
    assert totals.hit.any() and not sent(worker).of(Found)
    assert len(sent(worker).of(Ready)) == 1


def test_a_restore_that_misses_something_is_found_and_ends_the_machine(worker: Worker) -> None:
    data = program(worker, "- {call: ARM_Page_Unmap, target: page-n-mapped}\n")
    worker.execute(data)
    worker.executor.control.set_omit_page(1)
    worker.executions = 5
    worker.execute(data)
    (found,) = sent(worker).of(Found)
    assert found.kind == "harness-defect" and found.signature == "harness-defect:restore:-"
    assert read_bundle(found.path).finding.evidence["differences"]
    worker.report()
    assert sent(worker).of(Progress)[-1].totals.machines.total() == 1
    assert worker.audit(data), "the new machine is sound"


def test_one_bug_is_one_finding_however_often_it_is_hit(config: MachineConfig, tmp_path: Path) -> None:
    artefacts = build(config, extra_patches=[BUG.path])
    worker = start(artefacts, tmp_path)
    try:
        data = program(
            worker, "- {call: Yield}\n- {call: ARM_Page_Remap, target: page-n-mapped, with: {rights: read}}\n"
        )
        coverage = worker.executor.coverage
        for _ in range(20):
            coverage[:] = 0
            worker.execute(data)
        assert coverage.max() < 200, "what reducing executes is not counted for the input"
        worker.report()
        found = sent(worker).of(Found)
        again = sum(message.counts["ns_bit_matches_world:pte:ARM_Page_Remap"] for message in sent(worker).of(Repeated))
        assert len(found) + again == 20 and ALWAYS_REDUCED <= len(found) <= ALWAYS_REDUCED + 2
        assert {message.signature for message in found} == {"ns_bit_matches_world:pte:ARM_Page_Remap"}
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [found[0].path.name]
        assert found[0].calls == 1 and read_bundle(found[0].path).patches
    finally:
        worker.close()


def test_programs_of_other_workers_are_run_and_not_told_again(worker: Worker) -> None:
    own = program(worker, "- {call: Yield}\n")
    other = program(worker, "- {call: ARM_Page_Unmap, target: page-n-mapped}\n")
    worker.execute(own)
    assert [message.program for message in sent(worker).of(Added)] == [own], "it hits blocks for the first time"
    sent(worker).requests += [Programs((other,)), Programs((own,))]
    assert not worker.is_stopping()
    mutate = worker.inputs.mutator(lambda data, _maximum, _seed: data)
    before = int((worker.hit != 0).sum())
    worker.execute(mutate(b"", 512, 0))
    assert int((worker.hit != 0).sum()) > before and len(sent(worker).of(Added)) == 1
    sent(worker).requests.append(Stop())
    assert worker.is_stopping()


def test_a_finding_whose_directory_is_gone_is_filed_again(config: MachineConfig, tmp_path: Path) -> None:
    artefacts = build(config, extra_patches=[BUG.path])
    worker = start(artefacts, tmp_path, pending=tmp_path / "pending")
    try:
        data = program(worker, "- {call: ARM_Page_Remap, target: page-n-mapped, with: {rights: read}}\n")
        for _ in range(ALWAYS_REDUCED + 2):
            worker.execute(data)
        found = sent(worker).of(Found)[-1]
        assert found.program == data and not list((tmp_path / "pending").iterdir())
        shutil.rmtree(found.path)
        worker.execute(data)
        assert not found.path.exists(), "a known finding is only counted"
        sent(worker).requests.append(Refile(found.signature, found.program))
        worker.is_stopping()
        worker.execute(worker.inputs.mutator(lambda data, _maximum, _seed: data)(b"", 512, 0))
        assert read_bundle(found.path).finding.signature == found.signature
    finally:
        worker.close()


def test_what_another_worker_died_of_is_filed_at_the_start(config: MachineConfig, tmp_path: Path) -> None:
    artefacts = build(config, extra_patches=[BUG.path])
    interface = Interface.load(artefacts)
    text = "calls:\n- {call: Yield}\n- {call: ARM_Page_Remap, target: page-n-mapped, with: {rights: read}}\n"
    symptom = Symptom("violation", BUG.expected, "pte", "as it was seen")
    Pending(tmp_path / "pending", 3, interface).add(Program.from_yaml(text, interface).to_bytes(), symptom)
    worker = start(artefacts, tmp_path, pending=tmp_path / "pending")
    worker.close()
    (found,) = sent(worker).of(Found)
    assert found.signature == "ns_bit_matches_world:pte:ARM_Page_Remap" and read_bundle(found.path).patches
    assert not list((tmp_path / "pending").iterdir())
