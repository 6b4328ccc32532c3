# SPDX-License-Identifier: BSD-2-Clause
"""What a night writes for others to read: JUnit XML, the page, lcov data."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.nightly.compare import compare
from fuzz.nightly.coverage import merge_lcov
from fuzz.nightly.html import duration, summary_html
from fuzz.nightly.junit import junit_xml
from fuzz.nightly.plan import FailOn
from fuzz.nightly.record import Caught, Night, NightState, Ran, Retried
from fuzz.nightly.verdict import exit_code, state_of
from tests.unit.nightly_support import DEBUG, RELEASE, VERSIONS, campaign, caught, found, functions, night, retried

A, B, C, D = "a:frame:Map", "b:cnode:Copy", "c:tcb:Delete", "d:pte:Remap"
NEW_ONLY = (FailOn.NEW,)

# The JUnit schema that continuous integration servers share (JUnit.xsd of the Ant task): attributes by element,
# those that must be there first, and the order of what is inside.
REQUIRED = {
    "testsuites": set(),
    "testsuite": {"name", "timestamp", "hostname", "tests", "failures", "errors", "time", "package", "id"},
    "properties": set(),
    "property": {"name", "value"},
    "testcase": {"name", "classname", "time"},
    "failure": {"type"},
    "error": {"type"},
    "skipped": set(),
    "system-out": set(),
    "system-err": set(),
}
OPTIONAL = {"testsuite": {"skipped"}, "failure": {"message"}, "error": {"message"}, "skipped": {"message"}}
INSIDE = {
    "testsuites": r"(testsuite )*",
    "testsuite": r"properties (testcase )*system-out system-err ",
    "properties": r"(property )*",
    "testcase": r"((skipped|error|failure) )?",
}


def check_schema(text: str) -> ElementTree.Element:
    """Fails unless the text is JUnit XML with counts that agree; returns its root."""
    root = ElementTree.fromstring(text)
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes = set(element.attrib)
        assert REQUIRED[element.tag] <= attributes, (element.tag, attributes)
        assert attributes <= REQUIRED[element.tag] | OPTIONAL.get(element.tag, set()), (element.tag, attributes)
        children = "".join(f"{child.tag} " for child in element)
        assert re.fullmatch(INSIDE.get(element.tag, ""), children), (element.tag, children)
        if "time" in attributes:
            assert float(element.attrib["time"]) >= 0
    for number, suite in enumerate(root):
        assert suite.attrib["id"] == str(number)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])
        for kind in ("failure", "error", "skipped"):
            name = kind if kind == "skipped" else f"{kind}s"
            assert suite.attrib[name] == str(len(suite.findall(f"testcase/{kind}"))), name
        assert suite.attrib["tests"] == str(len(suite.findall("testcase")))
        names = [(case.attrib["classname"], case.attrib["name"]) for case in suite.findall("testcase")]
        assert len(names) == len(set(names)), "servers know test cases by their names"
    return root


def finished(one: Night, last: Night | None = None, fail_on: tuple[FailOn, ...] = NEW_ONLY) -> Night:
    one.comparison = compare(one, last, slower_below=0.7)
    one.state = state_of(one)
    one.exit_code = exit_code(one, fail_on)
    return one


def full_night() -> Night:
    """A night in which something of everything happened."""
    last = night(
        "0001-2026-03-14",
        findings=[found(B), found(C)],
        functions={DEBUG: functions(f=(1, 4), g=(2, 2))},
        campaigns=[campaign(labels={"Copy": (3, 3)})],
    )
    tonight = night(
        retried=[
            retried("k:x:y", Retried.FIXED, origin="kept", name="remap-without-table", control=True),
            retried(B),
            retried(C, Retried.FIXED),
        ],
        planted=[caught("one"), caught("two", Caught.POSTPONED, message="no time was left for it")],
        campaigns=[campaign(rate=400, labels={"Copy": (3, 0)}), campaign(build=RELEASE, target="smc")],
        findings=[found(A, reproduced="3 of 3", reproduced_cold="1 of 1"), found(B)],
        functions={DEBUG: functions(f=(3, 4), g=(1, 2))},
        seconds=125.0,
    )
    return finished(tonight, last)


def cases(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {f"{case.attrib['classname']} {case.attrib['name']}": case for case in root.iter("testcase")}


def kinds(root: ElementTree.Element) -> dict[str, str]:
    """What each test case came to."""
    return {name: case[0].tag if len(case) else "passed" for name, case in cases(root).items()}


def test_junit_has_a_case_for_everything_and_fails_for_what_is_new() -> None:
    root = check_schema(junit_xml(full_night(), NEW_ONLY))
    assert kinds(root) == {
        f"bothworlds.findings.{DEBUG} remap-without-table": "passed",
        f"bothworlds.findings.{DEBUG} remap-without-table (with the patches that it carries)": "passed",
        f"bothworlds.findings.{DEBUG} {B}": "skipped",
        f"bothworlds.findings.{DEBUG} {C}": "passed",
        "bothworlds.planted.program one": "passed",
        "bothworlds.planted.program two": "skipped",
        f"bothworlds.campaigns.{DEBUG} invocations": "failure",
        f"bothworlds.campaigns.{RELEASE} smc": "passed",
    }
    failure = next(root.iter("failure"))
    assert failure.attrib["message"] == A and failure.attrib["type"] == "new-finding"
    assert failure.text == f"{A}: message of {A}\n  bothworlds repro campaigns/{DEBUG}-invocations/{A}"


def test_junit_properties_say_what_took_part() -> None:
    root = check_schema(junit_xml(full_night(), NEW_ONLY))
    for suite in root:
        found_here = {item.attrib["name"]: item.attrib["value"] for item in suite.iter("property")}
        assert found_here["seed"] == "7" and found_here["compared.with"] == "0001-2026-03-14"
        for part in ("kernel", "patches", "firmware"):
            assert len(found_here[f"{DEBUG}.hash.{part}"]) == 64
        assert found_here[f"{RELEASE}.version.qemu"] == VERSIONS["qemu"]
        assert found_here[f"{RELEASE}.version.bothworlds"] == VERSIONS["bothworlds"]


def test_junit_agrees_with_the_exit_code() -> None:
    last = night(findings=[found(B)])
    quiet = finished(night(retried=[retried(B)]), last)
    assert "failure" not in kinds(check_schema(junit_xml(quiet, NEW_ONLY))).values()
    strict = (FailOn.STILL_THERE,)
    assert kinds(check_schema(junit_xml(quiet, strict)))[f"bothworlds.findings.{DEBUG} {B}"] == "failure"
    changed = finished(night(retried=[retried(B, Retried.CHANGED, D)]), last)
    assert kinds(check_schema(junit_xml(changed, NEW_ONLY)))[f"bothworlds.findings.{DEBUG} {B}"] == "failure"


def test_junit_shows_a_blind_harness_and_what_could_not_be_done() -> None:
    tonight = finished(
        night(
            planted=[caught("one", Caught.MISSED, message="it showed nothing"), caught("two", Caught.ERROR)],
            retried=[
                retried(A, Retried.FIXED, origin="kept", name="kept", control=False),
                retried(B, Retried.NOT_JUDGED, message="the machine failed"),
                retried(C, Retried.FIXED, origin="kept", name="other", control_message="its patch does not apply"),
            ],
            campaigns=[campaign(state=Ran.FAILED, message="QEMU was lost"), campaign(target="smc", state=Ran.NOT_RUN)],
        )
    )
    root = check_schema(junit_xml(tonight, NEW_ONLY))
    result = kinds(root)
    assert result["bothworlds.planted.program one"] == "failure"
    assert result[f"bothworlds.findings.{DEBUG} kept (with the patches that it carries)"] == "failure"
    assert result[f"bothworlds.findings.{DEBUG} other (with the patches that it carries)"] == "error"
    assert all("THE HARNESS IS BLIND" in item.attrib["message"] for item in root.iter("failure"))
    assert result["bothworlds.planted.program two"] == result[f"bothworlds.findings.{DEBUG} {B}"] == "error"
    assert result[f"bothworlds.campaigns.{DEBUG} invocations"] == "error"
    assert result[f"bothworlds.campaigns.{DEBUG} smc"] == "skipped"


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=40))
def test_junit_holds_any_text(text: str) -> None:
    one = finished(night(findings=[found(A, message=text)], campaigns=[campaign()]))
    check_schema(junit_xml(one, NEW_ONLY))


def test_junit_texts_are_short() -> None:
    one = finished(night(findings=[found(A, message="long " * 10000)], campaigns=[campaign()]))
    assert all(len(item.text or "") <= 1000 for item in check_schema(junit_xml(one, NEW_ONLY)).iter("failure"))


def test_an_empty_night_is_valid_too() -> None:
    check_schema(junit_xml(night(state=NightState.INTERRUPTED), NEW_ONLY))


class Page(HTMLParser):
    """Collects text and links, and fails on tags that do not match."""

    EMPTY = ("meta", "br", "link", "img", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_first_what_is_new() -> None:
    page = Page(summary_html(full_night(), NEW_ONLY))
    words = " ".join(page.text.split())
    order = ["1 new finding", "1 new, 1 fixed, 1 still there", "New", A, "Fixed", C, "Still there", B, "Coverage"]
    places = [words.index(part, words.index("Night 0002")) for part in order[1:]]
    assert places == sorted(places) and words.index(order[0]) < places[0]
    assert "2 min 5 s" in words and "1 of 1 caught, 1 not tried for lack of time" in words
    assert f"bothworlds repro campaigns/{DEBUG}-invocations/{A}" in words
    assert "shown again 3 of 3, cold 1 of 1" in words
    assert "4 of 6 (66.7%)" in words and "+1" in words and "1 covered more, 1 covered less" in words
    assert "no longer Copy" in words and "genhtml coverage.lcov" in words
    assert ("aa" * 32) in words


def test_the_page_stands_alone() -> None:
    text = summary_html(full_night(), NEW_ONLY)
    page = Page(text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not [link for link in page.links if "://" in link or link.startswith("/")], page.links
    assert "@import" not in text and "url(" not in text


def test_the_page_holds_any_text_as_text() -> None:
    nasty = "<script>alert('&')</script>"
    one = finished(night(findings=[found(f"{nasty}:b:c", message=nasty)], troubles=[nasty]))
    page = Page(summary_html(one, NEW_ONLY))
    assert "script" not in page.tags and page.text.count(nasty) >= 3


def test_the_page_shouts_when_the_harness_is_blind() -> None:
    one = finished(night(planted=[caught("world_lost_on_remap", Caught.MISSED, message="it showed nothing")]))
    page = Page(summary_html(one, NEW_ONLY))
    assert "THE HARNESS IS BLIND: it did not see world_lost_on_remap" in page.text
    assert "that nothing was found means nothing" in page.text


@pytest.mark.parametrize(("seconds", "words"), [(9.4, "9 s"), (125, "2 min 5 s"), (7260, "2 h 1 min")])
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def lcov(path: Path, lines: dict[int, int], functions: dict[str, tuple[int, int]]) -> str:
    rows = [f"SF:{path}", *(f"FN:{line},{name}" for name, (line, _) in functions.items())]
    rows += [f"FNDA:{count},{name}" for name, (_, count) in functions.items()]
    return "\n".join(["TN:x", *rows, *(f"DA:{n},{c}" for n, c in lines.items()), "end_of_record"]) + "\n"


def test_lcov_data_of_builds_of_the_same_source_become_one(tmp_path: Path) -> None:
    for build in ("debug", "release"):
        (tmp_path / build / "src").mkdir(parents=True)
        (tmp_path / build / "src" / "same.c").write_text("same\n")
        (tmp_path / build / "src" / "other.c").write_text(build)
    debug, release = tmp_path / "debug", tmp_path / "release"
    firmware = tmp_path / "park.S"
    parts = [
        (
            lcov(debug / "src/same.c", {1: 1, 2: 0}, {"f": (1, 1), "g": (2, 0)})
            + lcov(debug / "src/other.c", {1: 1}, {})
            + lcov(firmware, {9: 1}, {}),
            debug,
        ),
        (
            lcov(release / "src/same.c", {2: 1, 3: 0}, {"g": (2, 1)})
            + lcov(release / "src/other.c", {1: 0}, {})
            + lcov(firmware, {9: 1}, {}),
            release,
        ),
    ]
    text = merge_lcov(parts, "0002-2026-03-15")
    records = {part.split("SF:")[1].split("\n")[0]: part for part in text.split("end_of_record\n") if part}
    assert list(records) == sorted(str(p) for p in (debug / "src/same.c", debug / "src/other.c", firmware,
                                                    release / "src/other.c"))  # fmt: skip
    same = records[str(debug / "src/same.c")].splitlines()
    assert same[0] == "TN:0002_2026_03_15"
    assert [line for line in same if line.startswith("DA:")] == ["DA:1,1", "DA:2,1", "DA:3,0"]
    assert {"FN:1,f", "FN:2,g", "FNDA:1,f", "FNDA:1,g", "FNF:2", "FNH:2", "LF:3", "LH:2"} <= set(same)
    assert "DA:9,2" in records[str(firmware)]
