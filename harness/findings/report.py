# SPDX-License-Identifier: BSD-2-Clause
"""A finding as text for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.findings.bundle import Bundle

_KINDS = {
    "violation": "an invariant is violated",
    "assertion": "an assertion of the kernel failed",
    "kernel-fault": "the kernel took an exception in its own code",
    "kernel-halt": "the kernel halted",
    "el3-panic": "the firmware took an exception that it does not handle",
    "hang-kernel": "the kernel does not come back",
    "hang-victim": "a victim runs for ever",
    "harness-defect": "the harness did not restore the machine exactly",
}


def number(value: Any) -> str:
    """Addresses in hexadecimal, small numbers as they are."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0x1000:
        return hex(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(number(item) for item in value)
    return str(value)


def describe(bundle: Bundle) -> list[str]:
    """What a finding says, line by line."""
    finding = bundle.finding
    lines = [
        f"signature   {finding.signature}",
        f"kind        {finding.kind}: {_KINDS.get(finding.kind, 'of another version')}",
        f"message     {finding.message}",
        f"config      {finding.config}, {'release' if finding.release else 'debug'} kernel"
        + (f", with {', '.join(finding.extra_patches)}" if finding.extra_patches else ""),
    ]
    for name, value in finding.evidence.items():
        lines.append(f"evidence    {name}: {number(value)}")
    lines.append(f"program     {len(finding.calls)} calls, ended with '{finding.outcome}'")
    for index, call in enumerate(finding.calls):
        lines.append(("         -> " if index == finding.first_call else "            ") + describe_call(call))
    lines.append(f"reproduce   {finding.reproduce}")
    return lines


def describe_call(call: Mapping[str, Any]) -> str:
    """One decoded call on one line."""
    arguments = ", ".join(f"{name}={number(value)}" for name, value in (call.get("with") or {}).items())
    target = f" {call['target']}" if "target" in call else ""
    state = call.get("state", "")
    result = f" = error {call['error']}" if call.get("error") else " = ok" if state == "done" else f" ({state})"
    return f"{call.get('index', '?'):>3} {call.get('victim', '')}: {call.get('call', '?')}{target}({arguments}){result}"
