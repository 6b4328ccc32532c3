# SPDX-License-Identifier: BSD-2-Clause
"""Invariants by id, and what they say when they do not hold.

An invariant is a function from a Context to a Judgement. It sees kernel state, the config's
address map and the observation of a program, never a machine; so it judges a finding's memory
as it judges a live one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.invariants.regions import RegionMap
from harness.kernel_state.capabilities import CapTable
from harness.kernel_state.state import KernelState
from harness.kernel_state.threads import IpcObjects, Threads

if TYPE_CHECKING:
    from harness.invariants.smc import SmcAuthority
    from harness.invariants.trusted_os import TrustedOsThreads
    from harness.invariants.two_worlds import TwoWorlds
    from harness.specification.messages import MessageOracle
    from harness.specification.normal_world.oracle import NormalOracle
    from harness.specification.oracle import AnswerOracle
    from harness.specification.steps.oracle import StepOracle

MAXIMUM_VIOLATIONS = 16
"""Violations of one invariant that a report keeps; corrupt memory can hold millions."""


@dataclass(frozen=True)
class Violation:
    """One object that breaks an invariant.

    `evidence` is plain data (strings, numbers, lists) for a finding; `object_kind` is the kernel's
    name for what broke it (`frame_cap`, `page table entry`, `tcb`) and part of a finding's signature.
    """

    invariant: str
    message: str
    evidence: dict[str, Any]
    object_kind: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.message}"


@dataclass(frozen=True)
class Request:
    """A question that stays open: the invariant asks for the state right before call number `call`."""

    invariant: str
    call: int
    evidence: dict[str, Any]


@dataclass
class Judgement:
    """What an invariant found: how many objects it judged, and those that break it."""

    judged: int = 0
    broken: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    """Message, evidence and kind of each broken object."""
    requests: list[Request] = field(default_factory=list)
    """Questions that only the state right before a call answers."""

    @property
    def full(self) -> bool:
        """Whether further objects are left out: then they need not be described."""
        return len(self.broken) >= MAXIMUM_VIOLATIONS

    def fail(self, message: str, object_kind: str, **evidence: Any) -> None:
        """Add an object that breaks the invariant."""
        if not self.full:
            self.broken.append((message, evidence, object_kind))

    def fail_field(
        self, place: str, object_kind: str, field: str, found: object, expected: object, **evidence: Any
    ) -> None:
        """Add an object at `place` whose `field` holds `found` where `expected` must stand."""
        self.fail(
            f"{place}: {field} is {found}; it must be {expected}",
            object_kind,
            **evidence,
            field=field,
            found=str(found),
            expected=str(expected),
        )

    def fail_thread(self, threads: Threads, row: int, field: str, found: object, expected: object) -> None:
        """Add a thread whose `field` is wrong."""
        if self.full:
            return
        described = threads.describe(row)
        name = f" ({described['name']})" if described.get("name") else ""
        self.fail_field(f"tcb at {described['tcb']}{name}", "tcb", field, found, expected, **described)

    def fail_object(self, objects: IpcObjects, row: int, field: str, found: object, expected: object) -> None:
        """Add an endpoint or notification whose `field` is wrong."""
        if self.full:
            return
        described, kind = objects.describe(row), objects.block.name
        self.fail_field(f"{kind} at {described[kind]}", kind, field, found, expected, **described)

    def fail_cap(self, caps: CapTable, row: int, field: str, found: object, expected: object, **evidence: Any) -> None:
        """Add a capability whose `field` is wrong, by row of the state's table."""
        if self.full:
            return
        described = caps.describe(row) | evidence
        self.fail_field(
            f"{described['cap']} at {described['slot']}", described["cap"], field, found, expected, **described
        )

    def fail_caps(
        self,
        context: Context,
        rows: Iterable[int],
        message: Callable[[int], str],
        field: str,
        found: Callable[[int], object],
        expected: object,
    ) -> None:
        """Add capabilities, given as rows of the state's table, that break the invariant.

        `field`, `found` and `expected` say the same as the message, as data.
        """
        caps = context.state.caps
        for row in list(rows)[:MAXIMUM_VIOLATIONS]:
            described = caps.describe(int(row))
            described["memory"] = f"{int(caps.base[row]):#x}..{int(caps.last[row]):#x}"
            described |= {"field": field, "found": str(found(int(row))), "expected": str(expected)}
            self.fail(f"{described['cap']} at {described['slot']}: {message(int(row))}", described["cap"], **described)


@dataclass(frozen=True)
class WindowFacts:
    """The kernel's own translation tables, and how they were judged: worlds, and all else that their entries say."""

    words: tuple[np.ndarray[Any, np.dtype[np.uint64]], ...]
    worlds: Judgement
    attributes: Judgement


@dataclass(frozen=True)
class BootFacts:
    """Numbers of the words of secure RAM that are written at boot only, these words, and how they were judged."""

    numbers: np.ndarray[Any, np.dtype[np.int64]]
    words: np.ndarray[Any, np.dtype[np.uint64]]
    judgement: Judgement


@dataclass(frozen=True)
class Facts:
    """What must be as it was when the machine was set up: taken from the snapshot.

    `scr_el3`: the values that SCR_EL3 may have, one for each world that runs; `window`: the words of
    the kernel's own translation tables and their judgement; `constants`: (physical address, content)
    of the firmware's text and constants that lie in readable memory; `boot`: what the kernel told the initial thread;
    `registers`: system registers by name as every program finds them, where that is known.
    """

    scr_el3: frozenset[int] = frozenset()
    kernel_root: int | None = None
    window: WindowFacts | None = None
    boot: BootFacts | None = None
    constants: tuple[tuple[int, bytes], ...] = ()
    registers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What an invariant may look at."""

    state: KernelState
    regions: RegionMap
    facts: Facts
    observation: Any = None
    smc: SmcAuthority | None = None
    answers: AnswerOracle | None = None
    worlds: TwoWorlds | None = None
    messages: MessageOracle | None = None
    trusted_os: TrustedOsThreads | None = None
    normal: NormalOracle | None = None
    steps: StepOracle | None = None
    memo: dict[str, bool] = field(default_factory=dict)
    """Answers about this state that more than one invariant asks for."""


Check = Callable[[Context], Judgement]


@dataclass(frozen=True)
class Invariant:
    """A registered invariant: id, family, where its definition comes from, and the check."""

    id: str
    family: str
    reference: str
    summary: str
    check: Check


_REGISTRY: dict[str, Invariant] = {}


def invariant(id: str, *, family: str, reference: str) -> Callable[[Check], Check]:
    """Register a function as the invariant `id`; its docstring's first line is the summary.

    Raises ValueError if the id is taken.
    """

    def register(check: Check) -> Check:
        if id in _REGISTRY:
            raise ValueError(f"there is an invariant '{id}' already, from {_REGISTRY[id].check.__module__}")
        summary = (check.__doc__ or "").strip().split("\n")[0]
        _REGISTRY[id] = Invariant(id, family, reference, summary, check)
        return check

    return register


def invariants(families: Iterable[str] | None = None) -> list[Invariant]:
    """All registered invariants in order of registration, or those of some families."""
    wanted = None if families is None else set(families)
    return [entry for entry in _REGISTRY.values() if wanted is None or entry.family in wanted]


def get(id: str) -> Invariant:
    """The invariant of that id; KeyError if there is none."""
    return _REGISTRY[id]
