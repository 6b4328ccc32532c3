# SPDX-License-Identifier: BSD-2-Clause
"""What the fates of many mutants say together: the score, by file, operator, stage and oracle."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from fuzz.mutants.result import Fate, MutantResult
from fuzz.mutants.survivors import Explanation, Key, explain

GROUP_HEADERS = ("", "killed", "of", "score")
ORACLE_HEADERS = ("oracle", "noticed", "noticed first", "alone", "only one of")


@dataclass(frozen=True)
class Score:
    """Killed mutants of those that are not equivalent."""

    killed: int
    of: int

    @property
    def share(self) -> float:
        """From 0 to 1; 0 of none."""
        return self.killed / self.of if self.of else 0.0

    def __str__(self) -> str:
        return f"{100 * self.share:.1f} %" if self.of else "-"


@dataclass(frozen=True)
class OracleCount:
    """What one oracle did: mutants that it noticed, noticed first, and noticed when no other did (by name)."""

    oracle: str
    noticed: int
    first: int
    alone: tuple[str, ...]


class Summary:
    """All tables over the results of a series."""

    def __init__(self, results: Sequence[MutantResult], explanations: Mapping[Key, Explanation]) -> None:
        self.results = list(results)
        self.explanations = explanations
        self.explained = explain(results, explanations)
        equivalent = {result.name for result in self.explained.equivalent}
        self.counted = [result for result in results if result.counts and result.name not in equivalent]
        """What the score is over."""

    @property
    def score(self) -> Score:
        """Of all mutants that count and are not argued to be equivalent."""
        return _score(self.counted)

    def fates(self) -> dict[str, int]:
        """How many had which fate, those that are not counted too."""
        counts = Counter(result.fate for result in self.results)
        return {fate.value: counts[fate] for fate in Fate if counts[fate]}

    def by(self, key: Callable[[MutantResult], str]) -> dict[str, Score]:
        """The score by anything."""
        groups: dict[str, list[MutantResult]] = defaultdict(list)
        for result in self.counted:
            groups[key(result)].append(result)
        return {name: _score(groups[name]) for name in sorted(groups)}

    def stages(self) -> dict[str, tuple[int, float]]:
        """For each stage: how many mutants it killed, and the median of seconds until then."""
        seconds: dict[str, list[float]] = defaultdict(list)
        for result in self.counted:
            if result.stage is not None:
                seconds[result.stage.value].append(result.seconds)
        return {stage: (len(values), median(values)) for stage, values in seconds.items()}

    def oracles(self) -> list[OracleCount]:
        """What each oracle did, those that noticed most first."""
        noticed: Counter[str] = Counter()
        first: Counter[str] = Counter()
        alone: dict[str, list[str]] = defaultdict(list)
        for result in self.counted:
            noticed.update(result.oracles)
            first.update(result.oracles[:1])
            if len(result.oracles) == 1:
                alone[result.oracles[0]].append(result.name)
        return [
            OracleCount(name, count, first[name], tuple(alone[name])) for name, count in sorted(
                noticed.items(), key=lambda item: (-item[1], item[0])
            )
        ]  # fmt: skip

    def to_json(self, candidates: int) -> dict[str, Any]:
        """What `mutants --json` writes; `candidates` is the number of mutants that could have been chosen."""
        return {
            "score": round(self.score.share, 4),
            "killed": self.score.killed,
            "counted": self.score.of,
            "equivalent_by_argument": len(self.explained.equivalent),
            "candidates": candidates,
            "fates": self.fates(),
            "by_file": _json(self.by(lambda result: result.file)),
            "by_operator": _json(self.by(lambda result: result.operator)),
            "stages": {name: {"killed": count, "seconds": value} for name, (count, value) in self.stages().items()},
            "oracles": {
                row.oracle: {"noticed": row.noticed, "first": row.first, "alone": list(row.alone)}
                for row in self.oracles()
            },
            "mutants": [self._mutant_json(result) for result in self.results],
        }

    def _mutant_json(self, result: MutantResult) -> dict[str, Any]:
        entry = self.explanations.get(result.key)
        explained = {} if entry is None else {"verdict": entry.verdict.value, "reason": entry.reason}
        return {**result.to_json(), **explained}


def _score(results: Sequence[MutantResult]) -> Score:
    return Score(sum(result.fate is Fate.KILLED for result in results), len(results))


def _json(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {name: {"killed": score.killed, "counted": score.of} for name, score in scores.items()}


def group_rows(scores: Mapping[str, Score]) -> list[tuple[str, ...]]:
    """Rows under GROUP_HEADERS."""
    return [(name, str(score.killed), str(score.of), str(score)) for name, score in scores.items()]


def oracle_rows(counts: Sequence[OracleCount]) -> list[tuple[str, ...]]:
    """Rows under ORACLE_HEADERS."""
    return [
        (row.oracle, str(row.noticed), str(row.first), str(len(row.alone)), row.alone[0] if row.alone else "")
        for row in counts
    ]
