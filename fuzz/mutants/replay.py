# SPDX-License-Identifier: BSD-2-Clause
"""Programs that everybody has, run once and judged strictly: every invariant, outcomes and answers after each.

These are the examples, the programs that show planted bugs, and whatever corpus is given. What they show on a
mutant is what a night would show first, which begins with what earlier nights have collected.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from fuzz.corpus import read_for
from harness.build.artefacts import PROJECT
from harness.build.planted import planted_bugs
from harness.configs import DEFAULT_CONFIG
from harness.errors import InputError, MachineError, ProgramError
from harness.execution.executor import Executor
from harness.findings.judge import HANGS, Judge
from harness.findings.signature import Symptom
from harness.programs.encodings import records
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.programs.yaml import config_of
from harness.protocol import CALL_BYTES

EXAMPLES = PROJECT / "examples"
COLLECTIONS = tuple(
    PROJECT / "tests" / "system" / f"{name}.yaml" for name in ("legal_states", "refused_states", "steps")
)
"""Files that hold many programs, by name."""
AT_START = "the machine as it parks"
"""What stands for a program where the snapshot itself is judged."""
LOSSES = 3
"""Machines that may be lost on a mutant before it is given up: it wears QEMU out."""
_SMALL = 512
"""Details of an error below this are numbers of arguments, lengths and bounds; others are chance."""
FURTHER_SECONDS = 4.0
"""After the first that something was noticed: other oracles may notice it too, and that is of interest."""


@dataclass
class Replay:
    """What a set of programs has shown; `oracles` in the order in which they noticed something.

    `detail` says what the first of them noticed, `program` its name; `seconds` and `executions` count until then, or
    are those of the whole replay.
    """

    oracles: list[str] = field(default_factory=list)
    detail: str = ""
    program: str = ""
    seconds: float = 0.0
    executions: int = 0

    @property
    def found(self) -> bool:
        """Whether anything was noticed."""
        return bool(self.oracles)


def beginnings(programs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Programs up to each of their calls but the last: some oracles judge the last call only."""
    known = set(programs.values())
    found: dict[bytes, str] = {}
    for name, program in programs.items():
        for calls in range(1, len(records(program))):
            found.setdefault(program[: calls * CALL_BYTES], f"{name}, {calls} calls of it")
    return {name: program for program, name in found.items() if program not in known}


def known_programs(interface: Interface, config: str) -> dict[str, bytes]:
    """The programs that come with the project for a config, in bytes, by name; InputError for one that is wrong."""
    paths = {path: config_of(path) or DEFAULT_CONFIG for path in sorted(EXAMPLES.rglob("*.yaml"))}
    paths |= {bug.program: bug.config or DEFAULT_CONFIG for bug in planted_bugs()}
    programs = {path.stem: Program.load(path, interface).to_bytes() for path, name in paths.items() if name == config}
    for path in COLLECTIONS if config == DEFAULT_CONFIG else ():
        for name, calls in yaml.safe_load(path.read_text()).items() if path.is_file() else ():
            try:
                programs[name] = Program.from_yaml(yaml.safe_dump({"calls": calls}), interface).to_bytes()
            except ProgramError as error:
                raise InputError(f"{path}: '{name}': {error}") from error
    return programs


def corpus_programs(corpora: Sequence[Path], interface: Interface) -> dict[str, bytes]:
    """The programs of corpora, in their order, of each the short ones first; InputError where one cannot be read."""
    programs = dict.fromkeys(program for corpus in corpora for program in read_for(corpus, interface).programs)
    return {f"corpus program {number}": program for number, program in enumerate(programs)}


def telling_first(executor: Executor, interface: Interface, programs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Programs in another order: first those in which a call is answered in a way that none before them had."""
    seen: set[tuple[object, ...]] = set()
    first: dict[str, bytes] = {}
    rest: dict[str, bytes] = {}
    for name, program in programs.items():
        answers = _answers(executor, interface, program)
        (rest if answers <= seen else first)[name] = program
        seen |= answers
    return {**first, **rest}


def _answers(executor: Executor, interface: Interface, program: bytes) -> set[tuple[object, ...]]:
    """Calls of a program with how they ended: error, and its details where these are small numbers."""
    found: set[tuple[object, ...]] = set()
    calls = interface.calls
    for row, result in zip(records(program), executor.run(program).results, strict=False):
        error = int(result["error"])
        details = [int(word) for word in result["mr"][:2]] if error else []
        shown = tuple(word if word < _SMALL else None for word in details)
        found.add((row[0] % len(calls), int(result["state"]), error, *shown))
    return found


def replay(
    executor: Executor, judge: Judge, programs: Mapping[str, bytes], deadline: float, *, start: bool = False
) -> Replay:
    """Run and judge programs until `deadline` (monotonic), or some seconds after the first that shows something.

    With `start` the machine as it parks is judged first. Raises MachineError if machines keep being lost.
    """
    found = Replay()
    begun = time.monotonic()
    losses = 0
    jobs: list[tuple[str, bytes | None]] = [(AT_START, None)] if start else []
    for name, program in [*jobs, *programs.items()]:
        if time.monotonic() > deadline:
            break
        symptoms: Sequence[Symptom] = ()
        try:
            symptoms = _symptoms(judge, program)
            if symptoms and symptoms[0].kind in HANGS:
                symptoms = _symptoms(judge, program)  # once is chance: the host may have been slow
        except MachineError:
            losses += 1
            if losses > LOSSES:
                raise
            executor.replace("the machine was lost")
        found.executions += not found.found
        if symptoms and not found.found:
            found.detail, found.program, found.seconds = symptoms[0].message, name, time.monotonic() - begun
            deadline = min(deadline, time.monotonic() + FURTHER_SECONDS)
        found.oracles += [name for name in dict.fromkeys(one.name for one in symptoms) if name not in found.oracles]
    if not found.found:
        found.seconds = time.monotonic() - begun
    return found


def _symptoms(judge: Judge, program: bytes | None) -> Sequence[Symptom]:
    return (judge.judge_start() if program is None else judge.judge(program)).symptoms
