# SPDX-License-Identifier: BSD-2-Clause
"""Why mutants survive: what somebody has found out by reading, kept in `survivors.yaml`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import Field

from fuzz.mutants.generate import Operator
from fuzz.mutants.result import Fate, MutantResult
from harness.errors import InputError
from harness.yaml_model import StrictModel, validate
from harness.yaml_source import read_yaml

LIST = Path(__file__).with_name("survivors.yaml")

Key = tuple[str, str, str, str, int]


class Verdict(StrEnum):
    """What a survivor is."""

    EQUIVALENT = "equivalent"
    """No behaviour changes, for the reason that is given: it is not counted."""
    OUT_OF_REACH = "out of reach"
    """It would matter, but not to what this machine, config or grammar can do; it counts as surviving."""
    GAP = "gap"
    """Something is wrong and nothing judges it, or no program was found in time; it counts as surviving."""


class Explanation(StrictModel):
    """Why one mutant survives. What it is, is said as `bothworlds mutants` prints it."""

    file: str
    function: str
    operator: Operator
    change: str
    number: int = Field(1, ge=1)
    verdict: Verdict
    reason: str = Field(min_length=20)

    @property
    def key(self) -> Key:
        """As Mutant.key."""
        return (self.file, self.function, self.operator.value, self.change, self.number)


class _File(StrictModel):
    survivors: list[Explanation]


@dataclass(frozen=True)
class Explained:
    """Results beside what is known of them."""

    equivalent: list[MutantResult]
    """Survivors with an argument that they change nothing."""
    open: list[MutantResult]
    """All other survivors, explained or not."""
    contradicted: list[MutantResult]
    """Killed although they are said to be equivalent: the argument is wrong, or the oracle."""


def read_explanations(path: Path = LIST) -> dict[Key, Explanation]:
    """The explanations by key; raises InputError that names file, line and field."""
    source = read_yaml(path, InputError)
    entries = validate(source, _File, InputError).survivors
    found: dict[Key, Explanation] = {}
    for number, entry in enumerate(entries):
        if entry.key in found:
            raise InputError(f"{path}:{source.line(('survivors', number))}: the same mutant is explained twice")
        found[entry.key] = entry
    return found


def explain(results: Iterable[MutantResult], explanations: Mapping[Key, Explanation]) -> Explained:
    """Sort results by what is known of them."""
    explained = Explained([], [], [])
    for result in results:
        entry = explanations.get(result.key)
        equivalent = entry is not None and entry.verdict is Verdict.EQUIVALENT
        if result.fate is Fate.SURVIVED:
            (explained.equivalent if equivalent else explained.open).append(result)
        elif result.fate is Fate.KILLED and equivalent:
            explained.contradicted.append(result)
    return explained
