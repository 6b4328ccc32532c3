# SPDX-License-Identifier: BSD-2-Clause
"""The executor: what it observes, and what it does when the machine misbehaves. Mostly on the toy."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from harness.build.artefacts import Artefacts
from harness.errors import MachineLost
from harness.execution.executor import Executor
from harness.execution.observation import Outcome
from harness.protocol import PAGE, CallState
from tests.system.toy import CALL, COUNT, HANG, NORMAL, OUTSIDE, PARK, PRINT, SECURE, SET, STORE, TOY_RANGES, X27, call


def test_results_and_changed_pages(toy_executor: Executor) -> None:
    program = call(SET, value=5) + call(STORE, SECURE + 8, 0x1234) + call(STORE, NORMAL + PAGE, 7) + call(SET, value=2)
    observation = toy_executor.run(program)
    assert observation.status is Outcome.DONE
    assert observation.calls == 4
    assert list(observation.results["state"]) == [CallState.DONE] * 4
    assert list(observation.results["mr"][:, 0]) == [5, 5, 5, 7]
    assert list(observation.changed) == [SECURE, NORMAL + PAGE]
    assert int.from_bytes(observation.page(0)[8:16].tobytes(), "little") == 0x1234
    assert observation.page(1)[0] == 7
    assert int(observation.report["x"][27]) == 7


def test_each_program_starts_from_the_snapshot(toy_executor: Executor) -> None:
    toy_executor.run(call(SET, value=5) + call(STORE, SECURE, 1))
    observation = toy_executor.run(call(SET, value=1))
    assert list(observation.results["mr"][:, 0]) == [1]
    assert not len(observation.changed)
    assert not toy_executor.audit()


def test_trailing_bytes_and_many_calls(toy_executor: Executor) -> None:
    assert toy_executor.run(call(SET) + bytes(31)).calls == 1
    observation = toy_executor.run(call(SET, value=1) * 300)
    assert observation.calls == 256
    assert int(observation.results["mr"][255, 0]) == 256
    assert toy_executor.run(b"").calls == 0


def test_stops_after_some_calls(toy_executor: Executor) -> None:
    observation = toy_executor.run(call(SET, value=1) * 8, stop_after=3)
    assert list(observation.results["state"]) == [CallState.DONE] * 3 + [CallState.NOT_REACHED] * 5


def test_without_restore_it_goes_on(toy_executor: Executor) -> None:
    toy_executor.run(call(SET, value=5) + call(STORE, SECURE, 1))
    observation = toy_executor.run(call(SET, value=1), restore=False)
    assert list(observation.results["mr"][:, 0]) == [6]
    assert list(observation.changed) == [SECURE]
    assert not toy_executor.audit()


def test_without_collecting(toy_executor: Executor) -> None:
    toy_executor.run(call(STORE, SECURE, 1), collect=False)
    assert toy_executor.run(b"").status is Outcome.DONE
    assert not toy_executor.audit()


def test_what_the_host_writes_is_undone(toy_executor: Executor) -> None:
    toy_executor.memory.write(SECURE + 3 * PAGE, b"host")
    assert toy_executor.run(b"").status is Outcome.DONE
    assert toy_executor.memory.read(SECURE + 3 * PAGE, 4) == bytes(4)
    assert not toy_executor.audit()


def test_audit_sees_what_the_restore_set_misses(toy_executor: Executor) -> None:
    toy_executor.run(call(STORE, OUTSIDE + 16, 0xAB) + call(STORE, 0x7000_0000, 1))
    found = toy_executor.audit()
    assert [(d.page, d.offset, d.expected, d.found) for d in found] == [
        (OUTSIDE, 16, 0, 0xAB),
        (0x7000_0000, 0, 0, 1),
    ]
    toy_executor.replace()
    assert not toy_executor.audit()


def test_more_changed_pages_than_listed(toy: Artefacts) -> None:
    """They are all restored, and the overflow is counted."""
    stores = b"".join(call(STORE, 0x4080_0000 + n * 5 * PAGE, 1) for n in range(256))
    with Executor(toy, ranges=[(0x4080_0000, 256 * 5 * PAGE)]) as executor:
        for _ in range(3):
            assert len(executor.run(stores).changed) == 256
        for n in range(1200):
            executor.memory.write(0x4080_0000 + n * PAGE, b"x")
        executor.run(b"")
        assert not executor.audit()


def test_code_that_changed_replaces_the_machine(toy_executor: Executor) -> None:
    """QEMU would go on running the old translation, so no program may ever see it."""
    ret, add = 0xD65F03C0, 0x9100077B
    before = toy_executor.replacements.total()
    for _ in range(3):
        observation = toy_executor.run(call(STORE, NORMAL, ret << 32 | add) + call(CALL, NORMAL))
        assert observation.status is Outcome.DONE
        assert int(observation.report["x"][27]) == 1
    observation = toy_executor.run(call(STORE, NORMAL, ret << 32 | ret) + call(CALL, NORMAL))
    assert int(observation.report["x"][27]) == 0
    assert toy_executor.replacements.total() == before + 3


def test_omitted_register(toy_executor: Executor) -> None:
    toy_executor.run(call(SET, value=1))
    assert int(toy_executor.run(call(SET, value=1), omit_register=X27).report["x"][27]) == 2
    assert int(toy_executor.run(call(SET, value=1)).report["x"][27]) == 1


def test_coverage_saturates_and_repeats(toy_executor: Executor) -> None:
    blocks = toy_executor.blocks
    seen = {}
    for count in (1, 100, 255, 1000):
        toy_executor.run(call(COUNT, value=count))
        seen[count] = toy_executor.coverage.copy()
    loop = int(np.flatnonzero(seen[1] != seen[100])[0])
    assert [int(seen[count][loop]) for count in seen] == [0 if seen[1][loop] == 0 else 1, 99 + seen[1][loop], 255, 255]
    assert "toy.S" in blocks.source(loop)
    for _ in range(50):
        toy_executor.run(call(SET) * 5)
        toy_executor.run(call(COUNT, value=100))
        assert np.array_equal(toy_executor.coverage, seen[100])


def test_no_coverage(toy: Artefacts) -> None:
    with Executor(toy, ranges=TOY_RANGES, coverage=False) as executor:
        executor.run(call(COUNT, value=100))
        assert not executor.coverage.any()
        assert len(executor.coverage) == len(executor.blocks)


def test_console_of_one_program(toy_executor: Executor) -> None:
    assert toy_executor.run(call(PRINT, value=0x6F6C6C6568)).console == "hello"
    assert toy_executor.run(call(SET)).console == ""
    flood = toy_executor.run(call(PRINT, value=0x41414141414141) * 256)
    assert flood.console == "A" * 7 * 256


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(3, Outcome.FORGED), (5, Outcome.EL3_PANIC), (6, Outcome.SYSTEM_OFF), (7, Outcome.SYSTEM_RESET)],
)
def test_reported_outcomes(toy_executor: Executor, status: int, outcome: Outcome) -> None:
    assert toy_executor.run(call(PARK, value=status)).status is outcome
    assert toy_executor.run(call(SET)).status is Outcome.DONE


def test_old_observations_do_not_lie(toy_executor: Executor) -> None:
    old, kept = toy_executor.run(call(SET, value=1)), toy_executor.run(call(SET, value=2)).keep()
    with pytest.raises(MachineLost, match="another program"):
        _ = old.results
    toy_executor.run(call(SET, value=3))
    assert int(kept.results["mr"][0, 0]) == 2
    assert not len(kept.changed)


def test_a_hang_is_told_and_the_machine_replaced(toy_executor: Executor) -> None:
    before = toy_executor.replacements["a hang"]
    observation = toy_executor.run(call(SET) + call(HANG))
    assert observation.status is Outcome.HANG_EL3  # where the toy runs
    assert "hang" in observation.gdb_backtrace
    assert list(observation.results["state"]) == [CallState.DONE, CallState.NOT_REACHED]
    assert toy_executor.run(call(SET)).status is Outcome.DONE
    assert toy_executor.replacements["a hang"] == before + 1


def test_killed_while_a_program_runs(toy_executor: Executor) -> None:
    for delay in (0.0, 0.02, 0.1):
        threading.Timer(delay, os.kill, (toy_executor.machine.pid, signal.SIGKILL)).start()
        with pytest.raises(MachineLost, match="QEMU ended"):
            while True:
                toy_executor.run(call(COUNT, value=100_000))
        assert toy_executor.run(call(SET)).status is Outcome.DONE


def test_interrupted_while_a_program_runs(toy_executor: Executor) -> None:
    """Ctrl-C leaves the executor usable."""
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        toy_executor.run(call(HANG))
    assert toy_executor.run(call(SET, value=4)).report["x"][27] == 4


def test_the_guest_cannot_reach_the_park(toy_executor: Executor) -> None:
    assert not toy_executor.control.fields["refused"][0]


def test_fast(toy_executor: Executor) -> None:
    """Host and plugin take tens of microseconds, not milliseconds."""
    program = call(SET, value=1) * 16
    start = time.perf_counter()
    for _ in range(2000):
        toy_executor.run(program)
    assert (time.perf_counter() - start) / 2000 < 0.001


def test_real_guest_is_up(executor: Executor) -> None:
    assert executor.run(b"").status is Outcome.DONE
    assert not executor.audit()
    assert sum(size for _, size in executor.ranges) < 2 << 20
    assert executor.boot_events[-1].seconds < 5
