# SPDX-License-Identifier: BSD-2-Clause
"""Mutants: which are made of a C text, which results are kept, what the score says, and what explains a survivor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fuzz.mutants.generate import FILES, Mutant, Operator, choose, mutants
from fuzz.mutants.result import RESULT_FILE, Fate, MutantResult, Search, Stage, keep, read_kept
from fuzz.mutants.score import Summary
from fuzz.mutants.survivors import Explanation, Verdict, explain, read_explanations
from harness.build.patches import apply_patch, read_patch
from harness.errors import InputError

FILE = "src/object/thing.c"
SOURCE = """\
int limit = 7;

int take(int *slots, int count, int index)
{
    assert(index < count);
    if (index >= 3 && count != 0) {
        userError("nothing is left");
        return insert(slots, index, index);
    }
    slots[index] = 0;
    printf("%d", 5);
    return true;
}
"""


def tree(directory: Path, text: str = SOURCE) -> Path:
    path = directory / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return directory


def made(directory: Path, text: str = SOURCE) -> list[Mutant]:
    return mutants(tree(directory, text), {FILE: set(range(1, 100))}, [FILE])


def test_each_operator_changes_what_it_is_for(tmp_path: Path) -> None:
    changes = {(mutant.operator.value, mutant.line, mutant.change.partition(" => ")[2]) for mutant in made(tmp_path)}
    assert changes == {
        ("negate", 6, "if (!((index >= 3 && count != 0))) {"),
        ("negate", 6, "if (((index >= 3) || (count != 0))) {"),
        ("bound", 6, "if (index > 3 && count != 0) {"),
        ("constant", 6, "if (index >= 4 && count != 0) {"),
        ("constant", 6, "if (index >= 3 && count != 1) {"),
        ("swap", 8, "return insert(index, slots, index);"),
        ("drop", 10, ";"),
        ("constant", 10, "slots[index] = 1;"),
        ("constant", 12, "return false;"),
    }


def test_only_lines_with_code_are_changed(tmp_path: Path) -> None:
    found = mutants(tree(tmp_path), {FILE: {10}, "src/other.c": {6}}, [FILE, "src/object/absent.c"])
    assert {mutant.line for mutant in found} == {10}


def test_constants_keep_their_form(tmp_path: Path) -> None:
    text = "int f(void)\n{\n    return 0x3fu + 1ul + seL4_IllegalOperation;\n}\n"
    found = {mutant.after for mutant in made(tmp_path, text)}
    assert found == {"0x40u", "2ul", "seL4_InvalidArgument"}


def test_a_mutant_is_a_patch_that_applies(tmp_path: Path) -> None:
    before = made(tmp_path / "tree")
    for mutant in before:
        place = tree(tmp_path / mutant.name)
        path = tmp_path / f"{mutant.name}.patch"
        path.write_text(mutant.patch(tmp_path / "tree"))
        apply_patch(read_patch(path), place)
        content = (place / FILE).read_text()
        assert content == SOURCE[: mutant.start] + mutant.after + SOURCE[mutant.end :]
        assert read_patch(path).fields["Subject"] == f"Mutant {mutant.name}"


def test_names_do_not_change_with_the_lines_before_them(tmp_path: Path) -> None:
    names = [mutant.name for mutant in made(tmp_path)]
    assert len(set(names)) == len(names)
    assert [mutant.name for mutant in made(tmp_path, "/* one */\n\n" + SOURCE)] == names


def test_functions_behind_braces_that_are_split_are_found_by_their_own_names(tmp_path: Path) -> None:
    split = """\
#ifdef SMP
void first(int n) { for (int i = 0; i < n; i++) {
#else
void first(int n) {
#endif
    slots[n] = 0;
#ifdef SMP
    }
#endif
}

int second(int n)
{
    return n > 3;
}
"""
    functions = {mutant.line: mutant.function for mutant in made(tmp_path, split)}
    assert functions[14] == "second"
    changes = [mutant.change for mutant in made(tmp_path, split) if mutant.line == 14]
    assert len(changes) == len(set(changes)) == 2


def test_equal_changes_of_one_function_are_numbered(tmp_path: Path) -> None:
    text = "void f(int *x)\n{\n    *x = g();\n    *x = g();\n}\n"
    found = made(tmp_path, text)
    assert [mutant.number for mutant in found] == [1, 2] and found[0].name != found[1].name


def test_every_beginning_of_the_choice_is_even_and_the_seed_decides_it(tmp_path: Path) -> None:
    found = made(tmp_path)
    chosen = choose(found, 3)
    assert sorted(chosen, key=lambda one: one.key) == sorted(found, key=lambda one: one.key)
    assert {mutant.operator for mutant in chosen[:5]} == set(Operator)
    assert choose(list(reversed(found)), 3) == chosen and choose(found, 4) != chosen


# Results


def result(name: str, fate: Fate, *oracles: str, file: str = FILE, seconds: float = 1.0) -> MutantResult:
    stage = Stage.REPLAY if fate is Fate.KILLED else None
    return MutantResult(name, file, "take", 6, "negate", f"{name} => x", 1, fate, stage, oracles, seconds, 5)


SEARCH = Search("build", 60.0, "programs")


def test_a_kept_result_is_read_again(tmp_path: Path) -> None:
    killed = result("one", Fate.KILLED, "no_mloop", "answers")
    keep(tmp_path, SEARCH, killed)
    assert read_kept(tmp_path, SEARCH) == killed
    assert read_kept(tmp_path, replace(SEARCH, limit=300.0, programs="more")) == killed
    assert read_kept(tmp_path, replace(SEARCH, build="another")) is None


def test_a_survivor_is_judged_again_with_more_time_or_other_programs(tmp_path: Path) -> None:
    survivor = result("one", Fate.SURVIVED)
    keep(tmp_path, SEARCH, survivor)
    assert read_kept(tmp_path, SEARCH) == read_kept(tmp_path, replace(SEARCH, limit=30.0)) == survivor
    assert read_kept(tmp_path, replace(SEARCH, limit=61.0)) is None
    assert read_kept(tmp_path, replace(SEARCH, programs="others")) is None


def test_what_was_not_judged_or_is_damaged_is_judged_again(tmp_path: Path) -> None:
    assert read_kept(tmp_path, SEARCH) is None
    keep(tmp_path, SEARCH, result("one", Fate.FAILED))
    assert read_kept(tmp_path, SEARCH) is None
    keep(tmp_path, SEARCH, result("one", Fate.IDENTICAL))
    assert read_kept(tmp_path, SEARCH) is not None
    text = (tmp_path / RESULT_FILE).read_text()
    for damaged in (text[:40], text.replace("identical code", "unknown"), "[]", "{}"):
        (tmp_path / RESULT_FILE).write_text(damaged)
        assert read_kept(tmp_path, SEARCH) is None


RESULTS = [
    result("a", Fate.KILLED, "no_mloop", seconds=2.0),
    result("b", Fate.KILLED, "mdb_cte_at", "no_mloop", seconds=4.0),
    result("c", Fate.SURVIVED, file="src/other.c"),
    result("d", Fate.SURVIVED, file="src/other.c"),
    result("e", Fate.IDENTICAL),
    result("f", Fate.NOT_BOOTED),
    result("g", Fate.FAILED),
]


def explanation(name: str, verdict: Verdict, file: str = FILE) -> Explanation:
    return Explanation(
        file=file,
        function="take",
        operator=Operator.NEGATE,
        change=f"{name} => x",
        number=1,
        verdict=verdict,
        reason="index is below three here, always",
    )


def test_the_score_counts_what_compiles_to_other_code_and_boots() -> None:
    summary = Summary(RESULTS, {})
    assert (summary.score.killed, summary.score.of, str(summary.score)) == (2, 4, "50.0 %")
    assert {name: (one.killed, one.of) for name, one in summary.by(lambda one: one.file).items()} == {
        FILE: (2, 2),
        "src/other.c": (0, 2),
    }
    assert summary.fates() == {
        "killed": 2,
        "survived": 2,
        "identical code": 1,
        "does not boot": 1,
        "not judged": 1,
    }
    assert summary.stages() == {"replay": (2, 3.0)}


def test_an_oracle_is_alone_where_no_other_noticed_anything() -> None:
    rows = {row.oracle: row for row in Summary(RESULTS, {}).oracles()}
    assert rows["no_mloop"].alone == ("a",) and rows["mdb_cte_at"].alone == ()
    assert (rows["no_mloop"].noticed, rows["no_mloop"].first, rows["mdb_cte_at"].first) == (2, 1, 1)


def test_only_argued_equivalents_leave_the_score() -> None:
    entries = [
        explanation("c", Verdict.EQUIVALENT, "src/other.c"),
        explanation("d", Verdict.OUT_OF_REACH, "src/other.c"),
    ]
    summary = Summary(RESULTS, {entry.key: entry for entry in entries})
    assert (summary.score.killed, summary.score.of) == (2, 3)
    assert [one.name for one in summary.explained.equivalent] == ["c"]
    assert [one.name for one in summary.explained.open] == ["d"]
    data = json.loads(json.dumps(summary.to_json(9)))
    assert data["score"] == 0.6667 and data["equivalent_by_argument"] == 1 and data["candidates"] == 9
    assert {one["name"]: one.get("verdict") for one in data["mutants"]}["d"] == "out of reach"


def test_an_equivalent_mutant_that_is_killed_contradicts_its_argument() -> None:
    entry = explanation("a", Verdict.EQUIVALENT)
    explained = explain(RESULTS, {entry.key: entry})
    assert [one.name for one in explained.contradicted] == ["a"]
    assert Summary(RESULTS, {entry.key: entry}).score.of == 4


# Explanations


def test_the_explanations_of_the_project_can_be_read_and_name_files_that_are_mutated() -> None:
    assert {entry.file for entry in read_explanations().values()} <= set(FILES)


ENTRY = """\
- file: src/object/cnode.c
  function: cteRevoke
  operator: drop
  change: "x; => ;"
  verdict: equivalent
  reason: what it writes is written again before anybody reads it
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY.replace("equivalent", "equivalant"), "did you mean 'equivalent'"),
        (ENTRY.replace("drop", "dorp"), "'drop', 'bound', 'swap' or 'constant', not 'dorp'"),
        (ENTRY + "  why: because\n", "unknown field"),
        (ENTRY.replace("what it writes is written again before anybody reads it", "so it is"), "at least 20"),
        (ENTRY + ENTRY, "explained twice"),
    ],
)
def test_a_wrong_explanation_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "survivors.yaml"
    path.write_text("survivors:\n" + text)
    with pytest.raises(InputError, match=rf"survivors\.yaml:\d+: .*{message}"):
        read_explanations(path)
