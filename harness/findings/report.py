# SPDX-License-Identifier: BSD-2-Clause
"""A finding as text for a person: one screen."""

from __future__ import annotations

from harness.errors import FindingError
from harness.findings.bundle import CONSOLES, REGISTERS_FILE, Bundle
from harness.findings.words import number
from harness.yaml_source import read_yaml

_SHOWN_FRAMES = 12
_SHOWN_LINES = 8


def describe(bundle: Bundle) -> list[str]:
    """What a finding says, line by line."""
    finding = bundle.finding
    lines = [
        f"signature   {finding.signature}",
        f"kind        {finding.kind}: {finding.heading}",
        f"message     {finding.message}",
        f"kernel      {finding.kernel}, config {finding.config}"
        + (", from a tree of one's own" if finding.own_kernel_source else "")
        + ("" if finding.series else ", without the series")
        + (", with a firmware of one's own" if finding.own_firmware else "")
        + (f", with {', '.join(finding.extra_patches)}" if finding.extra_patches else ""),
        f"program     {len(finding.program.splitlines())} calls, ended with '{finding.outcome}'",
        *(f"         {line}" for line in finding.program.splitlines()),
    ]
    lines += [f"evidence    {name}: {number(value)}" for name, value in finding.evidence.items()]
    lines += [f"where       {line}" for line in finding.where.splitlines()]
    lines += [f"also        {other}" for other in finding.also]
    lines.append(f"reproduce   {finding.reproduce}")
    return lines


def details(bundle: Bundle) -> list[str]:
    """What else its directory holds of interest: backtrace, the end of the console, what is needed to see it again."""
    lines: list[str] = []
    registers = bundle.path / REGISTERS_FILE
    data = read_yaml(registers, FindingError).data if registers.is_file() else None
    backtrace = data.get("backtrace") if isinstance(data, dict) else None
    if isinstance(backtrace, list):
        lines += [f"backtrace   {frame}" for frame in backtrace[:_SHOWN_FRAMES]]
    for path in sorted((bundle.path / CONSOLES).glob("*.txt")):
        text = path.read_text(encoding="utf-8", errors="backslashreplace")
        lines += [f"console     {line}" for line in text.strip().splitlines()[-_SHOWN_LINES:]]
    lines += [f"version     {name} {value}" for name, value in bundle.finding.versions.items()]
    lines += [f"built       {name} {value[:16]}" for name, value in bundle.finding.hashes.items()]
    return lines
