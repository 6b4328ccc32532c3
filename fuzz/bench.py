# SPDX-License-Identifier: BSD-2-Clause
"""How fast every part is, each beside a baseline that is measured in the same run.

The programs are those of `harness.programs.mix`: 16 calls, of which at least half succeed, Yield
at most 5 % and every other call of the table at least 4 %. What is repeated in one long program is in
`long_program.yaml`. Numbers of one machine at one time:
compare ratios, not values.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fuzz.bench_builds import rebuild_cost
from fuzz.bench_checks import check_costs
from fuzz.bench_worlds import world_rates
from fuzz.campaign import Campaign, CampaignSettings, run_campaign, usable_cores
from fuzz.metrics import Metric
from fuzz.mutators import TypedMutator
from fuzz.normal_mix import TARGET as NORMAL_TARGET
from fuzz.normal_mix import normal_programs
from fuzz.shapes import shapes_of
from fuzz.statistics import CallStatistics, Totals
from fuzz.targets import DEFAULT_TARGET, load_target
from fuzz.world_cost import world_costs, worst_of_groups
from harness.build.artefacts import Artefacts
from harness.build.system import build
from harness.configs import load_config
from harness.errors import EnvironmentFailure, MachineError
from harness.execution.executor import Executor
from harness.execution.observation import Outcome
from harness.machine.boot import Stage
from harness.machine.qemu import Qemu, QemuSettings
from harness.programs.interfaces import Interface
from harness.programs.mix import Mix
from harness.programs.program import Program
from harness.protocol import CALL_BYTES, EXCHANGE, MAXIMUM_CALLS

PROGRAMS = 256
NEW_PROGRAMS = 8192
"""Different programs: states that were judged before, as those of the mix, cost less."""
CALLS = 16
NORMAL_CALLS = 8
"""Calls of each program of the normal world."""
MUTATIONS = 5000
LONG_REPETITIONS = 200
LONG_PROGRAM = Path(__file__).with_name("long_program.yaml")
SLICE = 0.25
"""Seconds of one turn where two rates are measured in turns."""


def mix_programs(interface: Interface, count: int = PROGRAMS, seed: int = 1) -> list[bytes]:
    """The fixed mix: always the same programs for the same call table."""
    mix = Mix(interface, seed)
    return [mix.program(CALLS).to_bytes() for _ in range(count)]


class Bench:
    """Measurements on one build. Each method gives one or more metrics."""

    def __init__(self, artefacts: Artefacts, seconds: float, watch: Callable[[str], None] | None = None) -> None:
        self.artefacts = artefacts
        self.seconds = seconds
        self.interface = Interface.load(artefacts)
        self.programs = mix_programs(self.interface)
        self.core = usable_cores()[-1]
        self._watch = watch

    def _tell(self, what: str) -> None:
        if self._watch is not None:
            self._watch(what)

    @contextlib.contextmanager
    def executor(self, **options: Any) -> Iterator[Executor]:
        """A parked machine on the core that is measured on."""
        with Executor(self.artefacts, core=self.core, **options) as executor:
            yield executor

    def rate(self, step: Callable[[bytes], object], seconds: float | None = None) -> float:
        """How often `step` can be made a second with the programs of the mix in turn."""
        limit = self.seconds if seconds is None else seconds
        count, programs = 0, self.programs
        started = time.perf_counter()
        while True:
            for program in programs[:64]:
                step(program)
            count += 64
            programs = programs[64:] + programs[:64]
            passed = time.perf_counter() - started
            if passed >= limit:
                return count / passed

    # What a campaign makes of it all.

    def campaign(
        self,
        *,
        target: str = DEFAULT_TARGET,
        workers: int = 1,
        mix: Sequence[bytes] | None = None,
        coverage: bool = True,
        seconds: float = 0.0,
        strict: bool = False,
    ) -> Campaign:
        """A campaign in its default settings, which runs the mix, other programs, or (none) what the mutators make."""
        with tempfile.TemporaryDirectory(prefix="bothworlds-bench-") as directory:
            return run_campaign(
                CampaignSettings(
                    self.artefacts,
                    Path(directory),
                    target=target,
                    seconds=(seconds or self.seconds) + 2.0,  # the process and the machine come up in it, too
                    workers=workers,
                    coverage=coverage,
                    strict=strict,
                    mix=tuple(self.programs if mix is None else mix),
                )
            )

    def executions(self) -> list[Metric]:
        """Executions a second in a campaign, and by two other ways to come back to the snapshot."""
        self._tell("executions through Atheris")
        one = self.campaign()
        rate = one.rate
        _require(one)
        self._tell("the same with a snapshot of QEMU's own as reset")
        load = self.loadvm_rate()
        self._tell("the same with a new QEMU for each program")
        new = self.new_machine_rate()
        metrics = [
            Metric("executions_per_second", rate, "1/s", load, "HMP loadvm as reset"),
            Metric("executions_per_second_over_new_machine", rate, "1/s", new, "a new QEMU for each program"),
        ]
        self._tell("what the mutators make")
        free = self.campaign(mix=())
        metrics.append(Metric("campaign_executions_per_second", free.rate, "1/s", rate, "the fixed mix"))
        self._tell("every invariant after every program")
        strict = self.campaign(strict=True).rate
        metrics.append(Metric("strict_executions_per_second", strict, "1/s", rate, "without --strict"))
        new = self.campaign(strict=True, mix=mix_programs(self.interface, NEW_PROGRAMS)).rate
        metrics.append(Metric("strict_executions_per_second_new", new, "1/s", strict, "states seen before"))
        cores = usable_cores()
        if len(cores) > 1:
            self._tell("two workers")
            # Each worker judges all states that are new to it: that is over in the second half.
            both, alone = (_later_rate(self.campaign(workers=n, seconds=2 * self.seconds)) for n in (2, 1))
            metrics.append(Metric("workers2_speedup", both / alone, "x", 1.0, "one worker"))
        totals = one.totals
        if totals.executions:
            cost = totals.check_seconds / totals.executions * 1e6
            whole = totals.check_seconds_whole / totals.executions * 1e6
            metrics.append(Metric("check_us_per_execution", cost + whole, "us", 1e6 / rate, "a whole execution"))
        return metrics

    def loadvm_rate(self) -> float:
        """Executions a second if QEMU's own snapshot brings the machine back."""
        with _snapshot_disk() as settings, self.executor(settings=settings) as executor:
            executor.run(self.programs[0])
            run = 1 / self.no_restore_rate(executor)
            machine = executor.machine
            executor.control.leave(True)
            try:
                machine.hmp("stop")
                _make_disk(machine)
                if answer := machine.hmp("savevm bench").strip():
                    raise EnvironmentFailure(f"QEMU's own snapshots cannot be measured: {answer}")
                count, started = 0, time.perf_counter()
                while count < 3 or time.perf_counter() - started < self.seconds:
                    machine.hmp("loadvm bench")
                    count += 1
                reset = (time.perf_counter() - started) / count
            except MachineError as error:
                raise EnvironmentFailure(f"QEMU's own snapshots cannot be measured: {error}") from error
        return 1 / (reset + run)

    def new_machine_rate(self) -> float:
        """Executions a second if each program gets a new QEMU."""
        with self.executor() as executor:
            count, started = 0, time.perf_counter()
            while time.perf_counter() - started < self.seconds:
                executor.replace()
                executor.run(self.programs[count % PROGRAMS])
                count += 1
            return count / (time.perf_counter() - started)

    def no_restore_rate(self, executor: Executor, *, seconds: float = 0.0, **options: Any) -> float:
        """Executions a second of a program that changes nothing (it deletes what is not there), without restoring."""
        text = "calls:\n" + "- {call: CNode_Delete, target: cnode, with: {index: free:0}}\n" * CALLS
        harmless = Program.from_yaml(text, self.interface).to_bytes()
        chosen = {"restore": False, "collect": False} | options
        return self.rate(lambda _: executor.run(harmless, **chosen), seconds or self.seconds / 2)

    # Without Atheris.

    def machine_rates(self) -> list[Metric]:
        """The executor alone: restoring, coverage, calls in long programs."""
        self._tell("the executor alone")
        with self.executor() as executor:
            executor.run(self.programs[0])
            restore, success = self._restores(executor)
            harmless, restored = self._alternate(
                lambda: self.no_restore_rate(executor, seconds=SLICE),
                lambda: self.no_restore_rate(executor, seconds=SLICE, restore=True, collect=True),
            )
            executor.replace()
            long, long_success = self.long_program(executor)
            smc = self.smc_program(executor)
            with self.executor(coverage=False) as blind:
                # Both machines stand on one core and only one of them runs: what else the host does meets both.
                counted_rate, blind_rate = self._alternate(
                    lambda: self.rate(executor.run, SLICE), lambda: self.rate(blind.run, SLICE)
                )
        return [
            Metric("executions_per_second_no_restore", harmless, "1/s", restored, "the same programs, restored"),
            Metric("invocations_per_second", long, "1/s", counted_rate * CALLS, "calls a second in programs of 16"),
            Metric("smc_per_second", smc, "1/s", long, "all kinds of calls in one long program"),
            Metric("success_rate", success, "of calls", long_success, "in one long program"),
            Metric("restore_us", restore, "us", 1e6 / counted_rate, "a whole execution"),
            Metric("coverage_overhead", blind_rate / counted_rate, "x", 1.0, "no coverage"),
        ]

    def _alternate(self, one: Callable[[], float], other: Callable[[], float]) -> tuple[float, float]:
        """Two rates, measured in turns: the medians."""
        pairs = [(one(), other()) for _ in range(max(3, round(self.seconds / SLICE)))]
        return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)

    def _restores(self, executor: Executor) -> tuple[float, float]:
        """Median of restoring memory after a program, in microseconds, and the share of calls that succeed."""
        counted = CallStatistics([call.name for call in self.interface.calls])
        times = []
        fields = executor.control.fields
        for program in self.programs:
            observation = executor.run(program)
            counted.add(program, observation.results)
            compare = int(fields["compare_ns"][0])
            executor.run(b"")  # the restore after a program happens when the next one begins
            times.append((compare + int(fields["restore_ns"][0])) / 1000)
        started, done = counted.arrays()
        totals = Totals(len(self.programs), started, done)
        return statistics.median(times), totals.succeeded / max(1, totals.calls)

    def long_program(self, executor: Executor) -> tuple[float, float]:
        """Calls a second in one long program (`long_program.yaml`, repeated), and the share of them that succeed."""
        block = Program.load(LONG_PROGRAM, self.interface).to_bytes()
        program = block * (MAXIMUM_CALLS // (len(block) // CALL_BYTES))
        observation = executor.run(program, repetitions=LONG_REPETITIONS)
        performed, succeeded = _performed(executor)
        if observation.status is not Outcome.DONE or not performed:
            raise EnvironmentFailure(f"{LONG_PROGRAM}: the program ended with '{observation.status}', not at its end")
        return performed / observation.seconds, succeeded / performed

    def smc_program(self, executor: Executor) -> float:
        """SMCs a second through the capability in one long program."""
        text = "calls:\n" + "- {call: ARM_SMC_Call, target: smc, with: {}}\n" * MAXIMUM_CALLS
        program = Program.from_yaml(text, self.interface).to_bytes()
        observation = executor.run(program, repetitions=LONG_REPETITIONS)
        return _performed(executor)[0] / observation.seconds

    def world_tag(self) -> list[Metric]:
        """What the world tag adds to the kernel's instructions: counts, the same on any machine."""
        self._tell("instructions with and without the world tag")
        return [
            Metric(f"world_tag_{group}", cost.ratio, "x", 1.0, f"{cost.operation}: {cost.without} without the tag")
            for group, cost in worst_of_groups(world_costs(self.artefacts.config)).items()
        ]

    def two_worlds(self) -> list[Metric]:
        """The EL3 monitor between two worlds."""
        self._tell("calls and switches between two worlds")
        rates = world_rates(self.artefacts.config, self.core, release=self.artefacts.release)
        return [Metric(rate.name, rate.value, "1/s", rate.baseline, rate.meaning) for rate in rates]

    def normal_world(self) -> list[Metric]:
        """Short programs of the normal world, in a campaign and without one."""
        self._tell("programs of the normal world")
        artefacts = self.artefacts
        if artefacts.config.normal_world is None:
            artefacts = build(load_config(load_target(NORMAL_TARGET).config), release=artefacts.release)
        other = Bench(artefacts, self.seconds, self._watch)
        other.programs = normal_programs(other.interface, PROGRAMS, NORMAL_CALLS)
        campaign = other.campaign(target=NORMAL_TARGET)
        _require(campaign)
        with other.executor() as executor:
            alone = other.rate(executor.run, self.seconds / 2)
        name = "normal_world_executions_per_second"
        return [Metric(name, campaign.rate, "1/s", alone, "the executor alone")]

    def checks(self) -> list[Metric]:
        """What it costs to judge."""
        self._tell("judging")
        with self.executor() as executor:
            return check_costs(executor, self.interface, self.programs)

    def mutations(self) -> list[Metric]:
        """What a typed mutation costs, on programs of the mix."""
        change = TypedMutator(shapes_of(self.interface, load_target(DEFAULT_TARGET)), seed=1, maximum_calls=CALLS)
        for program in self.programs[:64]:
            change(program, CALLS * CALL_BYTES, 0)
        started = time.perf_counter()
        for number in range(MUTATIONS):
            change(self.programs[number % len(self.programs)], CALLS * CALL_BYTES, 0)
        return [Metric("mutation_us", (time.perf_counter() - started) / MUTATIONS * 1e6, "us")]

    def boots(self) -> list[Metric]:
        """From the start of QEMU to the first park."""
        self._tell("booting")
        seconds, launched = [], []
        with self.executor() as executor:
            for _ in range(5):
                executor.replace()
                events = {event.stage: event.seconds for event in executor.boot_events}
                seconds.append(events[Stage.PARKED])
                launched.append(events[Stage.LAUNCHED])
        return [
            Metric("boot_seconds", statistics.median(seconds), "s", statistics.median(launched), "starting QEMU alone")
        ]

    def builds(self) -> list[Metric]:
        """Building again after a change."""
        self._tell("building")
        return [rebuild_cost(self.artefacts)]


@contextlib.contextmanager
def _snapshot_disk() -> Iterator[QemuSettings]:
    """Room in memory, in a file without a name, for a disk on which QEMU keeps snapshots of its own."""
    descriptor = os.memfd_create("snapshots")
    try:
        os.ftruncate(descriptor, 1 << 30)
        room = f"driver=file,node-name=room,filename=/proc/self/fd/{descriptor}"
        yield QemuSettings(extra=("-blockdev", room), descriptors=(descriptor,))
    finally:
        os.close(descriptor)


def _make_disk(machine: Qemu) -> None:
    """Let QEMU make a disk in that room."""
    job, disk = "make-disk", {"driver": "qcow2", "file": "room"}
    machine.qmp("blockdev-create", job_id=job, options={**disk, "size": 1 << 20})
    deadline = time.monotonic() + 10
    while not any(entry["status"] == "concluded" for entry in machine.qmp("query-jobs")):
        if time.monotonic() > deadline:
            raise EnvironmentFailure("QEMU's own snapshots cannot be measured: it did not make a disk within 10 s")
        time.sleep(0.01)
    machine.qmp("job-dismiss", id=job)
    machine.qmp("blockdev-add", node_name="snapshots", **disk)


def _performed(executor: Executor) -> tuple[int, int]:
    """Calls that the last program performed over all its repetitions, and how many of them succeeded."""
    page = executor.memory.view(executor.config.exchange.base, EXCHANGE.itemsize)
    fields = page.view(EXCHANGE)[0]
    return int(fields["performed"]), int(fields["succeeded"])


def _later_rate(campaign: Campaign) -> float:
    """Executions a second in the second half of a campaign."""
    _require(campaign)
    moments = list(campaign.moments)
    half = (moments[0].time + moments[-1].time) / 2
    first, last = next(one for one in moments if one.time >= half), moments[-1]
    passed = last.time - first.time
    return (last.executions - first.executions) / passed if passed else campaign.rate


def _require(campaign: Campaign) -> None:
    """A campaign that found something has not measured executions only."""
    if campaign.totals.executions == 0:
        raise EnvironmentFailure(f"the campaign made no execution: {'; '.join(campaign.troubles) or 'no reason given'}")


def measure_all(artefacts: Artefacts, seconds: float, watch: Callable[[str], None] | None = None) -> list[Metric]:
    """All metrics."""
    bench = Bench(artefacts, seconds, watch)
    return [
        *bench.executions(),
        *bench.machine_rates(),
        *bench.checks(),
        *bench.mutations(),
        *bench.boots(),
        *bench.builds(),
        *bench.world_tag(),
        *bench.two_worlds(),
        *bench.normal_world(),
    ]
