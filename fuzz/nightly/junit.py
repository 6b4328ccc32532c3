# SPDX-License-Identifier: BSD-2-Clause
"""A night as JUnit XML, in the form that Jenkins, GitLab and GitHub actions read.

One suite for findings that were tried again, one for planted bugs, one for campaigns. A failure is
what the plan says makes a night fail; what could not be done is an error; what is known or was left
out is skipped. Texts are short: the rest is in the findings' directories.
"""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from fuzz.nightly.plan import FailOn
from fuzz.nightly.record import (
    CampaignRecord,
    Caught,
    Difference,
    Night,
    PlantedRecord,
    Ran,
    Retried,
    RetryRecord,
)

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SHORT = 1000
"""Characters of a failure's text at most."""


@dataclass
class _Case:
    """A test case; `kind` is failure, error, skipped or empty."""

    classname: str
    name: str
    seconds: float = 0.0
    kind: str = ""
    type: str = ""
    message: str = ""
    text: str = ""


@dataclass
class _Suite:
    name: str
    cases: list[_Case]
    properties: dict[str, str] = field(default_factory=dict)

    def count(self, kind: str) -> int:
        return sum(case.kind == kind for case in self.cases)


def junit_xml(night: Night, fail_on: Sequence[FailOn]) -> str:
    """The whole file."""
    properties = properties_of(night)
    suites = [
        _Suite("findings", [case for one in night.retried for case in _retried(one, night, fail_on)]),
        _Suite("planted", [_planted(one) for one in night.planted]),
        _Suite("campaigns", [_campaign(one, night, fail_on) for one in night.campaigns]),
    ]
    root = ElementTree.Element("testsuites")
    for number, suite in enumerate(suites):
        suite.properties = properties
        root.append(_element(suite, number, night))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def properties_of(night: Night) -> dict[str, str]:
    """What the night depends on: hashes and versions of all that took part, and the seed."""
    found = {"night": night.night, "state": night.state.value, "seed": str(night.seed)}
    if night.comparison.with_night:
        found["compared.with"] = night.comparison.with_night
    for name, build in night.builds.items():
        found |= {f"{name}.hash.{part}": value for part, value in build.hashes.items()}
        found |= {f"{name}.version.{part}": value for part, value in build.versions.items()}
        if build.extra_patches:
            found[f"{name}.extra_patches"] = " ".join(build.extra_patches)
    return found


def _element(suite: _Suite, number: int, night: Night) -> ElementTree.Element:
    element = ElementTree.Element(
        "testsuite",
        {
            "name": f"bothworlds.{suite.name}",
            "package": "bothworlds",
            "id": str(number),
            "timestamp": night.started[:19],
            "hostname": socket.gethostname() or "localhost",
            "tests": str(len(suite.cases)),
            "failures": str(suite.count("failure")),
            "errors": str(suite.count("error")),
            "skipped": str(suite.count("skipped")),
            "time": _seconds(sum(case.seconds for case in suite.cases)),
        },
    )
    listed = ElementTree.SubElement(element, "properties")
    for name, value in suite.properties.items():
        ElementTree.SubElement(listed, "property", {"name": _clean(name), "value": _clean(value)})
    for case in suite.cases:
        row = ElementTree.SubElement(
            element,
            "testcase",
            {"classname": _clean(case.classname), "name": _clean(case.name), "time": _seconds(case.seconds)},
        )
        if case.kind == "skipped":
            ElementTree.SubElement(row, "skipped", {"message": _clean(case.message)})
        elif case.kind:
            attributes = {"type": case.type, "message": _clean(case.message)}
            ElementTree.SubElement(row, case.kind, attributes).text = _clean(case.text or case.message)[:_SHORT]
    ElementTree.SubElement(element, "system-out")
    ElementTree.SubElement(element, "system-err")
    return element


def _retried(one: RetryRecord, night: Night, fail_on: Sequence[FailOn]) -> Iterable[_Case]:
    case = _Case(f"bothworlds.findings.{one.build}", one.name, one.seconds)
    keys = {(new.config, new.signature) for new in night.comparison.new}
    config = night.builds[one.build].config if one.build in night.builds else ""
    if one.state is Retried.NOT_JUDGED:
        case.kind, case.type, case.message = "error", "not-judged", one.message
        if not one.message:
            case.kind, case.message = "skipped", "not judged tonight"
    elif one.state in (Retried.STILL_THERE, Retried.CHANGED):
        fresh = any((config, signature) in keys for signature in one.shown)
        fails = FailOn.STILL_THERE in fail_on or (fresh and FailOn.NEW in fail_on)
        case.kind, case.type = ("failure" if fails else "skipped"), one.state.value.replace(" ", "-")
        words = ", ".join(one.shown)
        case.message = f"still there: {one.signature}" if one.state is Retried.STILL_THERE else f"shows {words} now"
        case.text = f"{one.finding_message}\n{reproduce(one.path)}"
    yield case
    if one.control is not None or one.control_message:
        control = _Case(case.classname, f"{one.name} (with the patches that it carries)")
        if one.control is None:
            control.kind, control.type, control.message = "error", "not-tried", one.control_message
        elif not one.control:
            control.kind, control.type = "failure", "blind"
            control.message = f"THE HARNESS IS BLIND: {one.signature} does not show with the patches that bring it"
        yield control


def _planted(one: PlantedRecord) -> _Case:
    case = _Case(f"bothworlds.planted.{one.how}", one.name, one.seconds, message=one.message)
    if one.state is Caught.MISSED and one.how == "program":
        case.kind, case.type, case.message = "failure", "blind", f"THE HARNESS IS BLIND: {one.message}"
    elif one.state is Caught.MISSED:
        case.kind = "skipped"
    elif one.state is Caught.ERROR:
        case.kind, case.type = "error", "not-tried"
    elif one.state is Caught.POSTPONED:
        case.kind = "skipped"
    return case


def _campaign(one: CampaignRecord, night: Night, fail_on: Sequence[FailOn]) -> _Case:
    case = _Case(f"bothworlds.campaigns.{one.build}", one.target, one.seconds, message=one.message)
    if one.state is Ran.NOT_RUN:
        case.kind, case.message = "skipped", one.message or "not run"
    elif one.state is not Ran.DONE:
        case.kind, case.type, case.message = "error", one.state.value, one.message or one.state.value
    open_now = {(new.config, new.signature): new for new in night.comparison.new}
    known = {(old.config, old.signature): old for old in night.comparison.still_there}
    wanted = (open_now if FailOn.NEW in fail_on else {}) | (known if FailOn.STILL_THERE in fail_on else {})
    here = _found_by(one, night, wanted)
    if here:
        signatures = ", ".join(difference.signature for difference in here)
        case.kind, case.type = "failure", "new-finding" if here[0] in night.comparison.new else "still-there"
        case.message = f"{len(here)} findings: {signatures}" if len(here) > 1 else signatures
        case.text = "\n".join(f"{d.signature}: {d.message}\n  {reproduce(d.path)}" for d in here)
    return case


def _found_by(one: CampaignRecord, night: Night, wanted: dict[tuple[str, str], Difference]) -> list[Difference]:
    config = night.builds[one.build].config if one.build in night.builds else ""
    signatures = [f.signature for f in night.findings if (f.build, f.target) == (one.build, one.target)]
    return [wanted[config, signature] for signature in signatures if (config, signature) in wanted]


def reproduce(path: str) -> str:
    """The command that shows a finding again; `path` is relative to the night's directory, where it is run."""
    return shlex.join(["bothworlds", "repro", path])


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _clean(text: str) -> str:
    """The text without characters that XML cannot hold."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
