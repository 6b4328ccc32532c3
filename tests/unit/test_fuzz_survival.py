# SPDX-License-Identifier: BSD-2-Clause
"""Nothing that a campaign has found is lost, whatever the host does; without machines."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fuzz import corpus, crew, directory
from fuzz.clerk import Clerk
from fuzz.directory import Lock, OutputDirectory, prepare_directory
from fuzz.inputs import Inputs
from fuzz.messages import Phase, Programs, Stop, Trouble, WorkerSettings
from fuzz.pending import Pending
from fuzz.stopping import Stopping
from fuzz.troubles import Troubles
from harness.errors import InputError, OutputError
from harness.findings.filing import Origin, Reduced
from harness.findings.signature import Signature, Symptom
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from tests.unit import programs_support

PROJECT = Path(__file__).resolve().parents[2]
SYMPTOM = Symptom("violation", "no_mloop", "cte", "why", {"slot": 3})


@pytest.fixture
def interface() -> Interface:
    return programs_support.interface()


@pytest.fixture
def out(tmp_path: Path, interface: Interface) -> Any:
    with OutputDirectory(tmp_path / "out", interface, Troubles()) as one:
        yield one


class Disk:
    """Makes `add_program` fail as a full disk does, while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        real = corpus.add_program

        def add(where: Path, program: bytes) -> bool:
            if self.full:
                raise OutputError(f"{where}: No space left on device")
            return real(where, program)

        monkeypatch.setattr(corpus, "add_program", add)
        monkeypatch.setattr(directory, "FIRST_PAUSE", 0.0)


def test_programs_that_cannot_be_written_are_written_later(
    out: OutputDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    assert out.add(b"a") and not out.add(b"a") and corpus.read_corpus(out.corpus) == [b"a"]
    disk.full = True
    assert out.add(b"b") and out.add(b"c") and out.programs == 3
    out.tick()
    assert corpus.read_corpus(out.corpus) == [b"a"]
    disk.full = False
    out.tick()
    assert corpus.read_corpus(out.corpus) == [b"a", b"b", b"c"]
    assert not out.finish({"troubles": []}) and not out.elsewhere.exists()


def test_what_is_left_at_the_end_goes_elsewhere(out: OutputDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, real = Disk(monkeypatch), corpus.add_program
    disk.full = True
    out.add(b"b")
    out.add(b"c")

    def add(where: Path, program: bytes) -> bool:
        disk.full = where == out.corpus
        return real(where, program)

    monkeypatch.setattr(corpus, "add_program", add)
    (place,) = out.finish({"executions": 7})
    assert corpus.read_corpus(place) == [b"b", b"c"] and place.parent.stat().st_mode & 0o777 == 0o700
    assert '"executions": 7' in (out.path / directory.REPORT).read_text()
    assert "2 programs of the corpus were written elsewhere" in (out.path / directory.REPORT).read_text()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    with Lock(tmp_path), pytest.raises(InputError, match=f"campaign of process {os.getpid()} works in this"):
        Lock(tmp_path)
    (tmp_path / directory.LOCK).write_text("campaign of process 1\n")
    Lock(tmp_path).release()


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another with --out"):
        prepare_directory(tmp_path / "file" / "out")


# -- findings


class BadFiler:
    """A filer that can write only to some places."""

    def __init__(self, *writable: Path) -> None:
        self.directory = Path("unset")
        self.writable = list(writable)

    def file(self, reduced: Reduced, _origin: Origin) -> tuple[Path, bool]:
        if self.directory not in self.writable:
            raise OutputError(f"{self.directory}: No space left on device")
        return self.directory / reduced.signature.directory_name, True

    def verdict(self, _program: bytes, _symptom: Symptom) -> None:
        return None


def reduced() -> Reduced:
    return Reduced(b"x" * 32, Signature("no_mloop", "cte", "Copy"), 0, True, None, SYMPTOM)


def test_a_finding_is_filed_elsewhere_or_kept_in_memory(tmp_path: Path) -> None:
    usual, elsewhere = tmp_path / "usual", tmp_path / "elsewhere"
    filer: Any = BadFiler(usual)
    clerk = Clerk(filer, usual, elsewhere)
    path = clerk.file(reduced(), Origin())
    assert path is not None and path.parent == usual
    filer.writable = [elsewhere]
    path = clerk.file(reduced(), Origin())
    assert path is not None and path.parent == elsewhere and filer.directory == usual
    filer.writable = []
    assert clerk.file(reduced(), Origin()) is None and clerk.again(now=True) == []
    filer.writable = [usual]
    ((kept, path),) = clerk.again(now=True)
    assert kept.program == reduced().program and path.parent == usual and clerk.again(now=True) == []


def test_what_a_dead_worker_was_reducing_is_taken_up_once(tmp_path: Path, interface: Interface) -> None:
    program = Program.from_yaml("calls:\n- call: Yield\n", interface).to_bytes()
    first = Pending(tmp_path, 0, interface)
    done = first.add(program, SYMPTOM)
    assert done is not None and first.add(program, SYMPTOM) == done
    third = Pending(tmp_path, 2, interface)
    third.add(program, Symptom("assertion", "", "f"))
    ((path, taken, symptom),) = Pending(tmp_path, 0, interface).left(workers=3)
    assert taken == program and symptom == SYMPTOM and symptom.evidence == {"slot": 3}
    assert Pending(tmp_path, 0, interface).left(workers=3) == [], "what ended two workers is left to people"
    assert [one.suffix for one in tmp_path.iterdir() if one.name.startswith("0-")] == [".unreadable"]
    first.done(path)
    # A campaign with fewer workers takes up what there is no worker for.
    assert len(Pending(tmp_path, 0, interface).left(workers=2)) == 1
    (tmp_path / "0-bad.json").write_text("{")
    assert Pending(tmp_path, 0, interface).left(workers=1)[1:] == []


# -- workers


class Worker:
    """Stands for the process of a worker: it ends as it is told."""

    def __init__(self, code: int) -> None:
        self.exitcode = code

    def join(self, _seconds: float | None = None) -> None: ...

    def is_alive(self) -> bool:
        return False


def member(monkeypatch: pytest.MonkeyPatch) -> crew.Member:
    artefacts: Any = None
    monkeypatch.setattr(crew.Member, "_start", lambda _: None)
    return crew.Member(WorkerSettings(0, artefacts, "invocations", None, 1, None, Path(), Path("log")))


def test_a_worker_that_gets_on_is_started_again_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    one, process = member(monkeypatch), None
    for round_ in range(50):
        process = Worker(-9)
        monkeypatch.setattr(one, "_process", process)
        one.executions = crew.GOT_ON
        assert one.left(ever_ready=True, runs_left=0) == "killed by SIGKILL" and not one.over
        assert one.restarts == round_ + 1 and one.resume_at - time.monotonic() <= crew.FIRST_PAUSE
    assert one.phase is Phase.WAITING and one.settings.seed == 1 + 50 * 1000


def test_a_worker_that_never_gets_on_is_given_up_after_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    one = member(monkeypatch)
    pauses = []
    while not one.over:
        monkeypatch.setattr(one, "_process", Worker(3))
        one.fatal = Trouble("no machine", fatal=True, detail="why")
        assert one.left(ever_ready=True, runs_left=0) == "no machine\nwhy"
        pauses.append(one.resume_at - time.monotonic())
    assert len(pauses) == crew.FRUITLESS and pauses[6] > 16 * pauses[1] > 0 and one.given_up
    early = member(monkeypatch)
    monkeypatch.setattr(early, "_process", Worker(3))
    early.fatal = Trouble("bad", fatal=True, exit_code=InputError.exit_code)
    early.left(ever_ready=True, runs_left=0)
    assert early.given_up, "what the user gave does not get better by trying again"
    good = member(monkeypatch)
    monkeypatch.setattr(good, "_process", Worker(0))
    assert good.left(ever_ready=True, runs_left=0) is None and good.ended


def test_programs_of_others_go_in_batches_when_a_worker_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    one = member(monkeypatch)
    sent: list[Any] = []
    pipe: Any = SimpleNamespace(send=sent.append)
    one.pipe = pipe
    one.offer([bytes([number]) for number in range(100)])
    assert sent == []
    one.listens()
    one.listens()
    one.listens()
    assert [len(message.programs) for message in sent] == [64, 36] and isinstance(sent[0], Programs)
    one.tell(Stop())
    assert isinstance(sent[-1], Stop)


def test_inputs_go_in_by_the_mutator_and_come_out_by_the_log(tmp_path: Path) -> None:
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    inputs = Inputs(log)
    mutate = inputs.mutator(lambda data, _maximum, _seed: data + b"changed")
    inputs.offer([b"one", b"a long one"])
    assert [mutate(b"x", 5, 0) for _ in range(3)] == [b"one", b"a lon", b"xchanged"]
    assert not inputs.is_new(b"one") and inputs.is_new(b"two") and not inputs.is_new(b"two")
    assert not inputs.last_was_new()
    for line, new in ((b"#9\tREDUCE cov: 3\n", False), (b"#12\tNEW    cov: 4\n", True), (b"#16\tpulse  cov\n", False)):
        os.write(log, line)
        assert inputs.last_was_new() is new and not inputs.last_was_new()
    os.write(log, b"." * (5 << 20))
    assert not inputs.last_was_new() and os.fstat(log).st_size == 0, "a log does not fill the disk"
    os.write(log, b"#20\tNEW    cov: 5\n")
    assert inputs.last_was_new()
    os.close(log)


# -- signals and clocks


def test_signals_are_requests_until_the_third() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stopping() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.count == 2 and stopping.number == signal.SIGTERM
        assert os.read(stopping.fileno(), 9) == b"!!"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stopping.count == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_may_hold_it_too() -> None:
    seen: list[int] = []

    def hold() -> None:
        with Stopping() as stopping:
            seen.append(stopping.count)

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert seen == [0]


def test_troubles_are_told_once_with_their_number() -> None:
    troubles = Troubles()
    for number in range(3):
        troubles.add("machine lost", f"reason {number}")
    troubles.add("disk full")
    first, second = troubles.texts()
    assert re.fullmatch(r"machine lost \(3 times, first after 0\.\d s, last after 0\.\d s\): reason 2", first)
    assert re.fullmatch(r"disk full \(after 0\.\d s\)", second) and len(troubles) == 2


def test_no_duration_is_taken_from_the_time_of_day() -> None:
    for part in ("fuzz", "harness/execution", "harness/machine", "harness/findings"):
        for path in (PROJECT / part).glob("*.py"):
            found = re.findall(r"\btime\.(?:time|time_ns|localtime|gmtime)\(|st_mtime\b", path.read_text())
            assert not found, f"{path}: {found}"
