# SPDX-License-Identifier: BSD-2-Clause
"""A finding as a directory: everything that is needed to look at it and to make it happen again.

::

    finding.yaml        what is wrong, the program with its results, evidence, hashes (`harness.findings.finding`)
    program.bytes       the program as it is run
    program.yaml        the program for people
    config.yaml         the machine config
    patches/            kernel patches that came on top of the series (--extra-patch)
    own/                the user's kernel tree as a patch, and firmware (--kernel-source, --firmware)
    memory.image.gz     the memory that was judged (`harness.machine.memory.Image`, compressed)
    consoles/*.txt      what each console said
    registers.yaml      registers at the park, and the backtrace

The directory appears under its final name only when it is complete.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.build.artefacts import NO_OWN_CODE, OwnCode
from harness.configs import MachineConfig, load_config
from harness.errors import ConfigError, FindingError, ImageError, OutputError
from harness.findings.finding import Finding, current_format, to_yaml
from harness.findings.signature import Signature
from harness.machine.memory import Image
from harness.protocol import CALL_BYTES, MAXIMUM_CALLS
from harness.yaml_source import read_yaml

FINDING_FILE = "finding.yaml"
PROGRAM_BYTES = "program.bytes"
PROGRAM_YAML = "program.yaml"
CONFIG_FILE = "config.yaml"
MEMORY_FILE = "memory.image.gz"
REGISTERS_FILE = "registers.yaml"
CONSOLES = "consoles"
PATCHES = "patches"
OWN = "own"
KERNEL_SOURCE = "kernel-source.patch"
FIRMWARE = "firmware.elf"

REBUILT_HASHES = ("kernel", "patches", "firmware", "config")
"""Hashes that must be equal before a replay means anything. The plugin only watches."""
INTERPRETER_HASHES = ("root_task", "victim")
"""What performs programs: a call of the same name and arguments is the same call to the kernel."""


@dataclass
class Material:
    """What goes into a bundle beside `finding.yaml`."""

    program: bytes
    program_yaml: str
    config: MachineConfig
    memory: Image | None = None
    consoles: Mapping[str, str] = field(default_factory=dict)
    registers: Mapping[str, Any] = field(default_factory=dict)
    backtrace: list[str] = field(default_factory=list)
    patches: Sequence[Path] = ()
    own: OwnCode = NO_OWN_CODE
    """`firmware` is an ELF file."""


@dataclass(frozen=True)
class Bundle:
    """A finding's directory that has been read and found whole."""

    path: Path
    finding: Finding
    program: bytes
    config: MachineConfig
    patches: list[Path]
    own: OwnCode = NO_OWN_CODE

    def memory(self) -> Image:
        """The memory that was judged; FindingError if it is missing or damaged."""
        file = self.path / MEMORY_FILE
        if not file.is_file():
            raise FindingError(f"{file}: missing; the finding holds no memory to look at")
        try:
            return Image.from_file(file)
        except ImageError as error:
            raise FindingError(str(error)) from error


def config_text(config: MachineConfig) -> str:
    """The machine config as YAML that `load_config` reads."""
    return to_yaml(config.model_dump(mode="json", by_alias=True, exclude_none=True))


def write_bundle(directory: Path, finding: Finding, material: Material) -> tuple[Path, bool]:
    """Write a finding below `directory`, under a name made from its signature.

    Returns its path, and whether it is new: if a finding with this signature is there already
    (another worker was faster), that one stays. Raises OutputError if the directory cannot be written.
    """
    final = directory / finding.identity.directory_name
    if final.exists():
        return final, False
    try:
        directory.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".incomplete-", dir=directory))
        try:
            _fill(work, finding, material)
            work.chmod(0o755)
            os.rename(work, final)  # refused by the system if another worker's is there and not empty
        except OSError:
            shutil.rmtree(work, ignore_errors=True)
            if final.exists():
                return final, False
            raise
    except OSError as error:
        raise OutputError(f"{final}: cannot write the finding: {error}") from error
    return final, True


def _fill(work: Path, finding: Finding, material: Material) -> None:
    (work / PROGRAM_BYTES).write_bytes(material.program)
    (work / PROGRAM_YAML).write_text(material.program_yaml)
    (work / CONFIG_FILE).write_text(config_text(material.config))
    if material.memory is not None:
        (work / MEMORY_FILE).write_bytes(gzip.compress(material.memory.to_bytes(), compresslevel=1, mtime=0))
    for name, text in material.consoles.items():
        (work / CONSOLES).mkdir(exist_ok=True)
        (work / CONSOLES / f"{name}.txt").write_text(text)
    (work / REGISTERS_FILE).write_text(to_yaml({"registers": material.registers, "backtrace": material.backtrace}))
    if material.patches:
        (work / PATCHES).mkdir()
        for name, patch in zip(finding.extra_patches, material.patches, strict=True):
            shutil.copyfile(patch, work / PATCHES / name)
    for name, file in ((KERNEL_SOURCE, material.own.source_patch), (FIRMWARE, material.own.firmware)):
        if file is not None:
            (work / OWN).mkdir(exist_ok=True)
            shutil.copyfile(file, work / OWN / name)
    (work / FINDING_FILE).write_text(finding.to_text())


def read_bundle(path: Path) -> Bundle:
    """Read a finding's directory (or its `finding.yaml`).

    Raises FindingError, which names the file, and the field if there is one.
    """
    if path.name == FINDING_FILE and path.is_file():
        path = path.parent
    if not path.is_dir():
        raise FindingError(f"{path}: no such finding; give the directory that holds {FINDING_FILE}")
    finding = _read_finding(path / FINDING_FILE)
    program = _read_program(path / PROGRAM_BYTES)
    if finding.first_call is not None and finding.first_call >= len(program) // CALL_BYTES:
        raise FindingError(
            f"{path / FINDING_FILE}: field 'first_call' is {finding.first_call}, "
            f"but {PROGRAM_BYTES} holds {len(program) // CALL_BYTES} calls"
        )
    config_file = path / CONFIG_FILE
    if not config_file.is_file():
        raise FindingError(f"{config_file}: missing; the finding is incomplete")
    patches = [path / PATCHES / name for name in finding.extra_patches]
    for patch in patches:
        if patch.parent != path / PATCHES or not patch.is_file():
            raise FindingError(f"{patch}: missing, but {FINDING_FILE} names it in 'extra_patches'")
    try:
        config = load_config(config_file)
    except ConfigError as error:
        first, *more = str(error).splitlines()
        raise FindingError(first + (f" (and {len(more)} more)" if more else "")) from error
    return Bundle(path, finding, program, config, patches, _own_code(path, finding))


def _own_code(path: Path, finding: Finding) -> OwnCode:
    """The user's own code that a finding keeps; FindingError if it is not there."""

    def kept(name: str, field: str) -> Path:
        file = path / OWN / name
        if not file.is_file():
            raise FindingError(f"{file}: missing, but {FINDING_FILE} says '{field}: true'")
        return file

    source = kept(KERNEL_SOURCE, "own_kernel_source") if finding.own_kernel_source else None
    firmware = kept(FIRMWARE, "own_firmware") if finding.own_firmware else None
    return OwnCode(source, finding.series, firmware)


def names_shown(path: Path) -> frozenset[str]:
    """Names of all invariants and faults that a filed finding's program shows, not only of the one in its signature.

    Empty if it cannot be read.
    """
    try:
        finding = _read_finding(path / FINDING_FILE)
    except FindingError:
        return frozenset()
    return frozenset(Signature.parse(text).name for text in (finding.signature, *finding.also))


def _read_finding(path: Path) -> Finding:
    if not path.is_file():
        raise FindingError(f"{path}: missing; the finding is incomplete")
    data = read_yaml(path, FindingError).data
    if not isinstance(data, dict):
        raise FindingError(f"{path}: holds {type(data).__name__}, not the fields of a finding")
    try:
        return Finding.model_validate(current_format(data))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise FindingError(f"{path}: field '{name}': {first['msg']}") from error


def _read_program(path: Path) -> bytes:
    try:
        program = path.read_bytes()
    except OSError as error:
        raise FindingError(f"{path}: missing or unreadable; the finding is incomplete") from error
    if len(program) % CALL_BYTES:
        raise FindingError(f"{path}: {len(program)} bytes are not whole calls of {CALL_BYTES} bytes; it is truncated")
    if len(program) > MAXIMUM_CALLS * CALL_BYTES:
        raise FindingError(f"{path}: {len(program) // CALL_BYTES} calls; a program has at most {MAXIMUM_CALLS}")
    return program


def hash_mismatches(finding: Finding, hashes: Mapping[str, str], names: Sequence[str] = REBUILT_HASHES) -> list[str]:
    """What differs between the finding's build and another one, as sentences for a message."""
    return [
        f"{name} is {hashes.get(name, 'missing')[:12]}, the finding's is {finding.hashes.get(name, 'missing')[:12]}"
        for name in names
        if hashes.get(name) != finding.hashes.get(name)
    ]
