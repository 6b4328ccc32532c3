# SPDX-License-Identifier: BSD-2-Clause
"""Campaigns on a host that fails: corpus and findings survive, and the summary says what happened.

BOTHWORLDS_KILLS and BOTHWORLDS_SIGNALS ask for more machines killed and more moments of signals than usual.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz.directory import LOCK, Lock, corpus_lock
from harness.build.artefacts import Artefacts
from harness.build.system import build
from harness.configs import MachineConfig
from harness.errors import InputError, MachineLost
from harness.execution import executor as executors
from harness.execution.executor import Executor
from harness.execution.observation import Outcome
from tests.system.hosts import (
    PLANTED,
    count_of,
    descendants,
    gone_within,
    qemus_below,
    report,
    start,
    torn_files,
    until,
)

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("BOTHWORLDS_KILLS", "3"))
SECONDS_BETWEEN = 2.0
"""Mean time from one kill to the next; a worker that is killed while it boots does not get on."""
SIGNALS = int(os.environ.get("BOTHWORLDS_SIGNALS", "2"))


@pytest.fixture(scope="module")
def planted(config: MachineConfig) -> Artefacts:
    """The kernel in which every campaign finds something; built before any campaign starts."""
    return build(config, extra_patches=[PLANTED])


def test_machines_killed_at_random_cost_nothing(planted: Artefacts, tmp_path: Path) -> None:
    numbers = random.Random(1)
    process = start(
        "--time", "3600", "--workers", "2", "--seed", "1", "--out", str(tmp_path), "--extra-patch", str(PLANTED)
    )
    killed = 0
    assert until(lambda: qemus_below(process.pid), 60)
    while killed < KILLS:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(numbers.expovariate(1 / SECONDS_BETWEEN))
        machines = sorted(qemus_below(process.pid))
        if machines:
            os.kill(numbers.choice(machines), signal.SIGKILL)
            killed += 1
    assert until(lambda: list(tmp_path.glob("ns_bit_matches_world-*")), 60)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    result = report(tmp_path)
    assert result["state"] == "interrupted" and result["executions"] > 0
    lost = sum(count_of(f"worker {number}: machine lost, and replaced", output) for number in (0, 1))
    workers = result["restarts"]["workers"]
    # One that is killed while a finding is reduced is replaced without a word, one that is going anyway not at all.
    assert 0 < lost + workers <= killed and lost <= result["restarts"]["machines"]
    assert not torn_files(tmp_path) and not list((tmp_path / "pending").iterdir())
    assert len(list((tmp_path / "corpus").glob("[0-9a-f]*"))) == result["corpus"]["programs"] > 20
    assert all(Path(finding["path"]).is_dir() for finding in result["findings"])
    kinds = {finding["kind"] for finding in result["findings"]}
    assert kinds == {"violation"}, "what the host does is no finding"
    print(f"killed {killed}: told {lost} machines, {result['restarts']}, {result['executions']} executions, "
          f"{sorted(finding['signature'] for finding in result['findings'])}")  # fmt: skip


def test_a_stopped_machine_is_waited_for_and_then_replaced(
    artefacts: Artefacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Executor(artefacts) as executor:
        hold = "import os, signal, sys, time; time.sleep(1.2); os.kill(int(sys.argv[1]), signal.SIGCONT)"
        os.kill(executor.machine.pid, signal.SIGSTOP)
        with subprocess.Popen([sys.executable, "-c", hold, str(executor.machine.pid)]):
            observation = executor.run(b"")
        assert observation.status is Outcome.DONE, "three times as long as a hang, and yet none"
        monkeypatch.setattr(executors, "_HELD_SECONDS", 0.5)
        for use in (lambda: executor.run(b""), executor.restore):
            os.kill(executor.machine.pid, signal.SIGSTOP)
            with pytest.raises(MachineLost, match=r"held QEMU|did not restore"):
                use()
            executor.replace()
            assert executor.run(b"").status is Outcome.DONE


STOPPED_ON_SIGHT = """
"$@" & campaign=$!
tries=0
while [ ! -e "$STOP" ] && [ $tries -lt 900 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -TERM $campaign
wait $campaign
code=$?
cp -r "$FULL" "$KEPT"
exit $code
"""


def test_a_full_disk_loses_neither_corpus_nor_findings(planted: Artefacts, tmp_path: Path) -> None:
    """On a file system of 240 KiB: a finding's memory does not fit, and the corpus soon does not."""
    full, kept, elsewhere, stop = (tmp_path / name for name in ("full", "kept", "elsewhere", "stop"))
    for directory in (full, elsewhere):
        directory.mkdir()
    confined = ["bwrap", "--dev-bind", "/", "/", "--size", str(240 << 10), "--tmpfs", str(full)]
    confined += ["--cap-add", "ALL"] if os.geteuid() == 0 else []
    process = start(
        "--time", "0", "--workers", "1", "--seed", "1", "--extra-patch", str(PLANTED), "--out", str(full / "out"),
        before=(*confined, "--", "/bin/sh", "-c", STOPPED_ON_SIGHT, "sh"),
        TMPDIR=str(elsewhere), FULL=str(full), KEPT=str(kept), STOP=str(stop),
    )  # fmt: skip
    assert until(lambda: list(elsewhere.glob("bothworlds-*/ns_bit_matches_world-*/finding.yaml")), 80)
    time.sleep(1)
    stop.touch()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "No space left on device" in output and "findings were filed elsewhere" in output
    (other,) = elsewhere.glob("bothworlds-*")
    assert other.stat().st_mode & 0o777 == 0o700
    assert not torn_files(kept / "out") and not torn_files(other)
    names = {path.name for part in (kept / "out", other) for path in (part / "corpus").glob("[0-9a-f]*")}
    assert f"corpus: {len(names)} programs" in output
    assert any((part / "campaign.json").exists() for part in (kept / "out", other))
    assert f"in {other}/ns_bit_matches_world" in output


def test_a_directory_that_is_removed_is_made_again(planted: Artefacts, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("--time", "60", "--workers", "1", "--seed", "1", "--out", str(out), "--extra-patch", str(PLANTED))
    assert until(lambda: list(out.glob("ns_bit_matches_world-*/finding.yaml")), 60)
    before = {path.name for path in (out / "corpus").glob("[0-9a-f]*")}
    out.rename(tmp_path / "gone")
    found = {path.parent.name for path in (tmp_path / "gone").glob("ns_bit_matches_world-*/finding.yaml")}
    shutil.rmtree(tmp_path / "gone")
    # Each is filed again when a program shows it again.
    again = until(lambda: all((out / name / "finding.yaml").is_file() for name in found), 60)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert again and process.returncode == 1 and "the output directory was removed; it was made again" in output
    assert before <= {path.name for path in (out / "corpus").glob("[0-9a-f]*")} and not torn_files(out)
    listed = {Path(finding["path"]).name for finding in report(out)["findings"]}
    assert found <= listed and all((out / name).is_dir() for name in found)


def test_two_campaigns_do_not_share_a_directory(artefacts: Artefacts, tmp_path: Path) -> None:
    first = start("--time", "60", "--workers", "1", "--out", str(tmp_path))
    assert until(lambda: qemus_below(first.pid), 60)
    second = start("--time", "5", "--out", str(tmp_path))
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 2 and f"campaign of process {first.pid} works in this directory" in output
    with pytest.raises(InputError, match="works in this directory"), corpus_lock(tmp_path / "corpus"):
        raise AssertionError("a corpus is not changed while a campaign uses it")
    first.kill()
    first.communicate()
    with Lock(tmp_path):
        assert f"process {os.getpid()}" in (tmp_path / LOCK).read_text(), "a dead process has no lock"


def test_signals_at_any_moment_end_it_in_order(planted: Artefacts, tmp_path: Path) -> None:
    numbers = random.Random(2)
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
    for round_ in range(SIGNALS):
        out = tmp_path / str(round_)
        number = list(codes)[round_ % 3]
        twice = round_ % 2 == 1
        process = start("--time", "60", "--workers", "2", "--out", str(out), "--extra-patch", str(PLANTED))
        moments: dict[str, Callable[[], object]] = {
            "while it reduces a finding": lambda out=out: list(out.glob("pending/*.json")),  # type: ignore[misc]
            "while it boots": lambda pid=process.pid: qemus_below(pid),  # type: ignore[misc]
            "once it has found something": lambda out=out: list(out.glob("ns_bit*")),  # type: ignore[misc]
            "before it builds": lambda out=out: out.is_dir(),  # type: ignore[misc]
            "while it fuzzes": lambda out=out: list(out.glob("corpus/[0-9a-f]*")),  # type: ignore[misc]
        }
        name = list(moments)[round_ % len(moments)]
        assert until(moments[name], 60), name
        time.sleep(numbers.random() * (2 if name == "before it builds" else 0.3))
        below = descendants(process.pid)
        process.send_signal(number)
        if twice:
            time.sleep(0.2)
            process.send_signal(number)
        output, _ = process.communicate(timeout=120)
        said = f"{number.name} {name}{', twice' if twice else ''}: {process.returncode}\n{output}"
        # A second signal may come when the interpreter has taken its handlers away, on its way out.
        assert process.returncode in (1, codes[number], -number) and "Traceback" not in output, said
        assert gone_within(below, 10), said
        assert not torn_files(out), said
        if (out / "campaign.json").exists():
            assert report(out)["state"] == "interrupted" and number.name in output, said
        else:
            assert name in ("before it builds", "while it boots"), said
        print(said.splitlines()[0])


JUMPING_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

static long jump(void)
{
    static unsigned calls;
    return ((long)(++calls / 50 % 5) - 2) * 7200 + (calls / 500 % 2 ? 100000000 : 0);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += jump();
    return result;
}

time_t time(time_t *to)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to)
        *to = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}
"""


def test_a_clock_that_jumps_changes_nothing(artefacts: Artefacts, tmp_path: Path) -> None:
    source, library, out = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "out"
    source.write_text(JUMPING_CLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    begun = time.monotonic()
    process = start("--time", "4", "--workers", "2", "--out", str(out), LD_PRELOAD=str(library))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "What went wrong" not in output, output
    result = report(out)
    assert 4 <= result["seconds"] < time.monotonic() - begun and result["executions"] > 0
    assert len(list((out / "corpus").glob("[0-9a-f]*"))) == result["corpus"]["programs"]
