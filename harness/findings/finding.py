# SPDX-License-Identifier: BSD-2-Clause
"""What `finding.yaml` says, in the order in which a person wants to know it.

First what is wrong, then how to see it again, then the program, then the evidence; hashes and
versions come last. Findings of the first format are read as well.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from harness.findings.signature import Signature
from harness.findings.words import HEXADECIMAL_FROM, MARK, call_words
from harness.protocol import MAXIMUM_CALLS

_HEXADECIMAL = re.compile(r"0x[0-9a-f]{1,16}")

KINDS = {
    "violation": "an invariant is violated",
    "assertion": "an assertion of the kernel failed",
    "kernel-fault": "the kernel took an exception in its own code",
    "kernel-halt": "the kernel halted",
    "el3-panic": "the firmware took an exception that it does not handle",
    "hang-el3": "the firmware does not come back from a call",
    "hang-kernel": "the kernel does not come back",
    "hang-victim": "a victim runs for ever",
    "harness-defect": "the harness did not restore the machine exactly",
}
"""Kinds of findings, in words."""


_OWN_FIELDS = ("own_kernel_source", "series", "own_firmware")


class Finding(BaseModel):
    """`finding.yaml`; the order of the fields is that of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    signature: str
    message: str
    reproduce: str
    kernel: Literal["debug", "release"] = "debug"
    """Only the debug kernel has assertions and a console."""
    config: str
    extra_patches: list[str] = []
    own_kernel_source: bool = False
    """Whether the kernel was built from a user's own tree, which lies in the directory as a patch."""
    series: bool = True
    """Whether the project's series was applied to it."""
    own_firmware: bool = False
    """Whether the firmware was a user's own; its ELF file lies in the directory."""
    kind: str
    invariant: str | None = None
    place: str
    label: str
    program: str = ""
    """A line for each call with its result, for the reader; `program.yaml` is what is run."""
    first_call: int | None = Field(default=None, ge=0, le=MAXIMUM_CALLS)
    """Index of the call after which it first shows; None if it shows before any call."""
    outcome: str
    also: list[str] = []
    """Signatures of what else the same program shows: one bug may break several invariants."""
    evidence: dict[str, Any] = {}
    where: str = ""
    """A line for each address of the evidence: what lies there, its region and world."""
    executions: int | None = None
    seconds: float | None = None
    interface: str = ""
    """Identity of the call table that `program.bytes` is written for; empty in findings from before there was one."""
    hashes: dict[str, str]
    versions: dict[str, str] = {}
    qemu_command: str = ""
    format: Literal[2] = 2

    @field_validator("signature")
    @classmethod
    def _is_signature(cls, value: str) -> str:
        Signature.parse(value)
        return value

    @field_validator("evidence", mode="before")
    @classmethod
    def _with_numbers(cls, value: object) -> object:
        """Addresses that were written as text are numbers, as all others."""
        if not isinstance(value, Mapping):
            return value
        return {str(name): _number_of(item) for name, item in plain(value).items()}

    @property
    def identity(self) -> Signature:
        """The signature in its parts."""
        return Signature.parse(self.signature)

    @property
    def release(self) -> bool:
        """Whether it was made on the kernel without assertions and console."""
        return self.kernel == "release"

    @property
    def heading(self) -> str:
        """The kind in words."""
        return KINDS.get(self.kind, self.kind)

    def to_text(self) -> str:
        """The text of `finding.yaml`."""
        # Most builds are the project's own: only the others say what is not.
        usual = {name for name in _OWN_FIELDS if getattr(self, name) == type(self).model_fields[name].default}
        content = self.model_dump(mode="python", exclude=usual)
        return f"# {self.heading[:1].upper()}{self.heading[1:]}.\n" + to_yaml(content)


def _number_of(value: Any) -> Any:
    if isinstance(value, list):
        return [_number_of(item) for item in value]
    if isinstance(value, dict):
        return {name: _number_of(item) for name, item in value.items()}
    return int(value, 16) if isinstance(value, str) and _HEXADECIMAL.fullmatch(value) else value


def current_format(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a finding as they are called now; what has another form than it had then is left as it is."""
    if data.get("format") != 1:
        return data
    data = dict(data, format=2)
    release, calls, command = data.pop("release", False), data.pop("calls", []), data.get("qemu_command")
    data["kernel"] = "release" if release is True else "debug"
    if isinstance(command, list):
        data["qemu_command"] = shlex.join(map(str, command))
    if isinstance(calls, list):
        lines = [_old_call(call, data.get("first_call")) for call in calls if isinstance(call, dict)]
        data["program"] = "".join(f"{line}\n" for line in lines)
    return data


def _old_call(call: dict[str, Any], marked: object) -> str:
    index = call.get("index")
    words = {name: value for name, value in call.items() if name != "with" or isinstance(value, dict)}
    state = call.get("state", "")
    result = f"error {call['error']}" if call.get("error") else "ok" if state == "done" else str(state)
    return f"{MARK if index == marked else '  '} {index!s:>3}  {call_words(words)} = {result}"


def plain(value: Any) -> Any:
    """`value` with nothing but what YAML and JSON know; numbers of numpy become Python's."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, bool | int | float):
        return value.real
    return str(value)


class _Dumper(yaml.SafeDumper):
    """Addresses read best in hexadecimal, and several lines as several lines; YAML reads both back as they were."""


def _represent_int(dumper: yaml.SafeDumper, value: int) -> yaml.ScalarNode:
    text = hex(value) if value >= HEXADECIMAL_FROM else str(value)
    return dumper.represent_scalar("tag:yaml.org,2002:int", text)


def _represent_str(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(int, _represent_int)
_Dumper.add_representer(str, _represent_str)


def to_yaml(value: Any) -> str:
    """YAML text of plain data, larger numbers in hexadecimal."""
    return yaml.dump(plain(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
