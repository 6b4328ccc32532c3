# SPDX-License-Identifier: BSD-2-Clause
"""A night as one page that stands alone: nothing is loaded from anywhere, and no script runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from fuzz.nightly.junit import properties_of, reproduce
from fuzz.nightly.plan import FailOn
from fuzz.nightly.record import Caught, Night
from fuzz.nightly.store import LCOV_FILE
from fuzz.nightly.verdict import failures, headline, reasons

TEMPLATE = "summary.html.j2"


def summary_html(night: Night, fail_on: Sequence[FailOn]) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("fuzz.nightly", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "percent": percent, "repro": reproduce, "link": quote}
    programs = [one for one in night.planted if one.how == "program"]
    bad = night.is_blind or bool(reasons(night, fail_on))
    could_not = failures(night)
    context: dict[str, Any] = {
        "night": night,
        "compared": night.comparison,
        "headline": headline(night, fail_on),
        "mood": "bad" if bad else "unsure" if could_not else "good",
        "blind": [f"planted bug {one.name}: {one.message}" for one in night.blind]
        + [f"finding {one.name}: it does not show with the patches that bring it" for one in night.blind_findings],
        "failures": could_not,
        "caught": sum(one.state is Caught.CAUGHT for one in programs),
        "tried": sum(one.state is not Caught.POSTPONED for one in programs),
        "postponed": sum(one.state is Caught.POSTPONED for one in programs),
        "controls": _controls(night),
        "campaigns": _campaigns(night),
        "properties": properties_of(night),
        "only_config": _only_config(night),
        "lcov": LCOV_FILE,
    }
    return environment.get_template(TEMPLATE).render(context)


def _controls(night: Night) -> str:
    """Kept findings in a few words."""
    kept = [one for one in night.retried if one.origin == "kept"]
    if not kept:
        return "none"
    states = [one.state.value for one in kept]
    words = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    shown = [one.control for one in kept if one.control is not None]
    return words + (f" ({sum(shown)} of {len(shown)} show with the patches that they carry)" if shown else "")


def _campaigns(night: Night) -> list[dict[str, Any]]:
    speed = {(one.build, one.target): one for one in night.comparison.speed}
    rows = []
    for one in night.campaigns:
        change = speed.get((one.build, one.target))
        found = sum((f.build, f.target) == (one.build, one.target) for f in night.findings)
        rows.append(
            {
                "build": one.build,
                "target": one.target,
                "state": one.state.value,
                "seconds": f"{one.seconds:.0f}",
                "executions": f"{one.executions:,}",
                "after": f"{change.after:,.0f}" if change else "-",
                "before": f"{change.before:,.0f}" if change and change.before else "-",
                "slower": bool(change and change.slower),
                "findings": found,
            }
        )
    return rows


def _only_config(night: Night) -> str:
    """The config, if there is only one: it need not be repeated then."""
    configs = {build.config for build in night.builds.values()}
    return configs.pop() if len(configs) == 1 else ""


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def percent(blocks: tuple[int, int]) -> str:
    """A share in percent."""
    return f"{blocks[0] / blocks[1]:.1%}" if blocks[1] else "-"
