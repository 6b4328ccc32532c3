# SPDX-License-Identifier: BSD-2-Clause
"""What became of a mutant, and how that is kept, so that an interrupted series goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from fuzz.mutants.generate import Mutant
from harness.files import write_whole

RESULT_FILE = "result.json"
PATCH_FILE = "mutant.patch"


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    IDENTICAL = "identical code"
    """It compiles to the kernel's own code: equivalent, and not counted."""
    NOT_COMPILED = "does not compile"
    NOT_BOOTED = "does not boot"
    FAILED = "not judged"
    """The environment failed: neither noticed nor unnoticed, and not counted."""


class Stage(StrEnum):
    """What noticed a mutant."""

    BOOT = "boot"
    """The check of the machine as it parks."""
    REPLAY = "replay"
    """The programs that come with the project, and variations of their calls."""
    CORPUS = "corpus"
    """The programs of the given corpora."""
    FUZZ = "fuzz"
    """A campaign."""


@dataclass
class MutantResult:
    """One row of the table.

    `oracles`: invariants and kinds of outcomes that noticed it, the first one first. `seconds` and `executions` are
    those until it was noticed, building not counted; of a survivor, all that it was given.
    """

    name: str
    file: str
    function: str
    line: int
    operator: str
    change: str
    number: int
    fate: Fate = Fate.SURVIVED
    stage: Stage | None = None
    oracles: tuple[str, ...] = ()
    seconds: float = 0.0
    executions: int = 0
    detail: str = ""

    @classmethod
    def of(cls, mutant: Mutant) -> MutantResult:
        """The row of a mutant of which nothing is known yet."""
        return cls(
            mutant.name, mutant.file, mutant.function, mutant.line, mutant.operator.value, mutant.change, mutant.number
        )

    @property
    def counts(self) -> bool:
        """Whether it is part of the score: it compiles to other code, and boots."""
        return self.fate in (Fate.KILLED, Fate.SURVIVED)

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """As Mutant.key."""
        return (self.file, self.function, self.operator, self.change, self.number)

    def to_json(self) -> dict[str, Any]:
        """Its fields as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Search:
    """What a mutant was judged with: the kernel it was made of, the limit in seconds, and the programs (a digest)."""

    build: str
    limit: float
    programs: str


def keep(directory: Path, search: Search, result: MutantResult) -> None:
    """Write a result into the mutant's directory; raises OutputError."""
    data = {"search": asdict(search), "result": result.to_json()}
    write_whole(directory / RESULT_FILE, json.dumps(data, indent=2) + "\n")


def read_kept(directory: Path, search: Search) -> MutantResult | None:
    """A result of an earlier run that still says something.

    One of another kernel says nothing, nor does what the environment failed to judge. What was noticed was noticed,
    but a survivor is judged again if there is more time, or if the programs are others.
    """
    try:
        data: dict[str, Any] = json.loads((directory / RESULT_FILE).read_text())
        values, old = data["result"], Search(**data["search"])
        stage = None if values["stage"] is None else Stage(values["stage"])
        result = MutantResult(
            **{**values, "fate": Fate(values["fate"]), "stage": stage, "oracles": tuple(values["oracles"])}
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if old.build != search.build or result.fate is Fate.FAILED:
        return None
    shorter = old.limit < search.limit or old.programs != search.programs
    return None if result.fate is Fate.SURVIVED and shorter else result
