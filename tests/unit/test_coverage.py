# SPDX-License-Identifier: BSD-2-Clause
"""Coverage by function and line, on a small program that is compiled here: inlined code belongs to its source."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from harness.commands.coverage import ranges
from harness.coverage.lcov import lcov_text
from harness.coverage.record import BuildCoverage, load, load_all
from harness.coverage.report import FunctionCoverage, by_component, by_function, to_json
from harness.coverage.source_map import Flags, SourceMap
from harness.coverage.unreachable import Entry, Kind, Unreachable, read_entries
from harness.errors import ConfigError, InputError, OutputError

HEADER = """
static inline int small(int x) { if (x == 9) { sink = 3; } return sink; }
"""

CODE = """
extern volatile int sink;
#include "small.h"
_Noreturn void halt(void);
static inline __attribute__((always_inline)) int shared(int x)
{
    if (x > 5) {
        sink = 1;
        return sink + x;
    }
    return small(x) * 2;
}
__attribute__((noinline)) int first(int x)
{
    sink = shared(x);
    if (sink == 77) {
        sink = 12;
    }
    return sink;
}
__attribute__((noinline)) int second(int x)
{
    if (x == 1234) {
        halt();
    }
    sink = shared(x + sink);
    return sink + first(sink);
}
volatile int sink;
__attribute__((noinline)) void halt(void)
{
    for (;;) {
        sink = 1;
    }
}
"""

ASSEMBLY = """
    .text
    .globl _start
    .type _start, %function
_start:
    bl second
    b .
    .size _start, . - _start
"""

Built = tuple[SourceMap, Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    directory = tmp_path_factory.mktemp("program")
    for name, text in (("small.h", HEADER), ("code.c", CODE), ("start.S", ASSEMBLY)):
        (directory / name).write_text(text)
    flags = "-O2 -g -ffreestanding -nostdlib -static -fno-pie -no-pie -fno-stack-protector".split()
    flags += ["-fno-unwind-tables", "-fno-asynchronous-unwind-tables", f"-ffile-prefix-map={directory}=."]
    command = ["aarch64-linux-gnu-gcc", *flags, "-Wl,--build-id=none", "-o", "program.elf", "start.S", "code.c"]
    subprocess.run(command, cwd=directory, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOTHWORLDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return SourceMap.of_files({"kernel": directory / "program.elf"}), directory


def hits(source: SourceMap, *functions: str) -> Flags:
    """As if all blocks of these symbols had run."""
    blocks = source.blocks
    return np.isin(blocks.function, [blocks.functions.index(name) for name in functions])


def named(functions: list[FunctionCoverage], name: str) -> FunctionCoverage:
    return next(function for function in functions if function.function == name)


def line(text: str) -> int:
    return next(number for number, content in enumerate(CODE.splitlines(), 1) if text in content)


def lines_of(source: SourceMap, block: int) -> list[int]:
    return [number for _, number in source.lines[block]]


def test_inlined_functions_are_counted_for_themselves_and_accessors_of_headers_for_their_caller(built: Built) -> None:
    functions = by_function(built[0], hits(built[0], "first"))
    names = {function.function for function in functions}
    assert {"shared", "first", "second", "_start"} <= names and "small" not in names
    shared = named(functions, "shared")
    assert (Path(shared.file).name, shared.line) == ("code.c", line("int shared"))
    # The copy in `first` ran, the one in `second` did not.
    assert 0 < shared.hit < shared.total
    assert {gap.caller for gap in shared.missed} == {"second"}
    assert all(gap.copied for gap in shared.missed if gap.lines[0] == line("x > 5"))
    assert named(functions, "first").hit == named(functions, "first").total
    assert named(functions, "second").hit == 0
    assert sum(function.total for function in functions) == built[0].blocks.reachable().sum()
    component = by_component(functions)["kernel"]
    assert component.hit == sum(function.hit for function in functions)
    assert to_json(functions)["kernel"]["first"]["hit"] == named(functions, "first").hit


def test_coverage_of_another_build_is_refused(built: Built) -> None:
    with pytest.raises(InputError, match="of 3 blocks, but this build has"):
        by_function(built[0], np.zeros(3))


def test_lcov_counts_inlined_lines_where_they_are_written(built: Built) -> None:
    source, directory = built
    records = lcov_text(source, hits(source, "first"), title="first only").split("end_of_record\n")
    record = next(record for record in records if f"SF:{directory}/code.c" in record).splitlines()
    assert record[0] == "TN:first_only"
    pairs = (text.removeprefix("DA:").split(",") for text in record if text.startswith("DA:"))
    counts = {int(number): int(count) for number, count in pairs}
    assert counts[line("x > 5")] and counts[line("sink = 12")]
    assert counts[line("x == 1234")] == 0
    assert f"FN:{line('int shared')},shared" in record and "FNDA:1,shared" in record
    assert "FNDA:0,second" in record
    assert f"LF:{len(counts)}" in record and f"LH:{sum(map(bool, counts.values()))}" in record
    small = next(record for record in records if f"SF:{directory}/small.h" in record)
    assert "FNDA:1,small" in small


def entry(**fields: object) -> Entry:
    return Entry.model_validate({"kind": "impossible", "reason": "made up for a test", **fields})


def test_entries_name_functions_and_the_text_of_their_lines(built: Built) -> None:
    source = built[0]
    whole = Unreachable([entry(function="first")], source, release=False)
    # What is inlined into a function belongs to it.
    assert {
        source.blocks.functions[int(source.blocks.function[block])] for block in whole.covered(whole.entries[0])
    } == {"first"}
    part = Unreachable([entry(function="first", code="sink = 12", to="return sink;")], source, release=False)
    covered = list(part.covered(part.entries[0]))
    assert covered and all(min(lines_of(source, block)) >= line("sink = 12") for block in covered)
    one_copy = Unreachable([entry(function="shared", within="second", begins=True)], source, release=False)
    blocks = list(one_copy.covered(one_copy.entries[0]))
    assert blocks and all(source.frames[block][-1].function.name == "second" for block in blocks)
    assert not (whole.stale() or part.stale() or one_copy.stale() or one_copy.idle())


def test_entries_that_fit_nothing_any_more_are_named(built: Built) -> None:
    entries = [
        entry(function=["first", "gone"]),
        entry(function="second", code="x == 4321"),
        entry(function="second", code="x == 1234", to="nowhere"),
        entry(function="absent", build="release"),
    ]
    problems = Unreachable(entries, built[0], release=False).stale()
    assert len(problems) == 3
    assert "no function gone in the debug kernel" in problems[0]
    assert "second at 'x == 4321': no such line in second (" in problems[1]
    assert "absent" in Unreachable(entries, built[0], release=True).stale()[-1]


def test_a_halt_needs_no_entry_and_a_hit_against_the_list_is_told(built: Built) -> None:
    source = built[0]
    unreachable = Unreachable([entry(function="first")], source, release=False)
    halts = [block for block, why in unreachable.exclusions.items() if why.kind is Kind.ASSERTION]
    assert any(source.places[block].function.name == "halt" for block in halts)
    built_coverage = BuildCoverage(source, unreachable, {}, False)
    wrong = built_coverage.wrong(hits(source, "first"))
    assert wrong and all("made up for a test" in message and "code.c:" in message for message in wrong)
    # A failed assertion is a finding, and says nothing against the list.
    assert built_coverage.wrong(hits(source, "halt", "second")) == []
    second = named(built_coverage.by_function(hits(source)), "second")
    assert second.unreachable and second.unreachable + len(second.missed) == second.total


def test_a_list_that_is_not_understood_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("unreachable:\n  - function: f\n    kind: imposible\n    reason: because of this and that\n")
    with pytest.raises(ConfigError, match=r"list.yaml:3: unreachable\[0\].kind: .*did you mean 'impossible'"):
        read_entries(path)
    path.write_text("unreachable:\n  - function: f\n    kind: boot\n")
    with pytest.raises(ConfigError, match="reason: this field is missing"):
        read_entries(path)


def test_a_campaign_directory_gives_its_coverage_back(built: Built, tmp_path: Path) -> None:
    source, directory = built
    coverage = BuildCoverage(
        source, Unreachable([], source, release=False), {"kernel": directory / "program.elf"}, False
    )
    one, other = tmp_path / "one", tmp_path / "other"
    coverage.save(one, hits(source, "first").astype(np.uint8))
    coverage.save(other, hits(source, "second"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOTHWORLDS_CACHE", str(tmp_path / "cache"))
        patch.setattr("harness.coverage.record.Unreachable.load", lambda *_, **__: coverage.unreachable)
        assert (load(one)[1] == hits(source, "first")).all()
        assert (load_all([one, other])[1] == hits(source, "first", "second")).all()
        record = json.loads((one / "coverage.json").read_text())
        record["components"]["kernel"]["hit"].append(3)
        (one / "coverage.json").write_text(json.dumps(record))
        with pytest.raises(InputError, match="addresses that are no blocks"):
            load(one)
        record["components"]["kernel"]["sha256"] = "0"
        (one / "coverage.json").write_text(json.dumps(record))
        with pytest.raises(InputError, match="kernel is not in the cache any more"):
            load(one)
        (one / "coverage.json").write_text("{")
        with pytest.raises(InputError, match="damaged"):
            load(one)
        with pytest.raises(InputError, match="give the directory of a campaign"):
            load(tmp_path)


def test_files_that_cannot_be_written_are_named(built: Built, tmp_path: Path) -> None:
    source = built[0]
    coverage = BuildCoverage(source, Unreachable([], source, release=False), {}, False)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"--lcov .*file/lcov\.info: cannot be written"):
        coverage.write_lcov(tmp_path / "file" / "lcov.info", hits(source), title="t")


def test_ranges_are_written_as_people_do() -> None:
    assert ranges([9, 3, 4, 5, 3]) == "3-5, 9"
    assert ranges([]) == ""
