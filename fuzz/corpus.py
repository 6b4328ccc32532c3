# SPDX-License-Identifier: BSD-2-Clause
"""Corpora: directories of programs, each in a file named by its content, as libFuzzer keeps them.

Beside the programs, a corpus holds the call table that their bytes mean (`.interface.json`): when the table changes,
programs are read by the old one and written by names for the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.configs import DEFAULT_CONFIG
from harness.errors import ImageError, InputError, OutputError, ProgramError
from harness.files import UNFINISHED, write_whole
from harness.programs.interfaces import Interface
from harness.programs.program import Program
from harness.programs.yaml import config_of
from harness.protocol import CALL_BYTES, MAXIMUM_CALLS

INTERFACE = ".interface.json"
"""The call table of a corpus."""

_CONTENT_NAME = re.compile("[0-9a-f]{40}")


def file_name(program: bytes) -> str:
    """The name libFuzzer gives to an input."""
    return hashlib.sha1(program, usedforsecurity=False).hexdigest()


def shortest_first(programs: set[bytes]) -> list[bytes]:
    """Programs by length, those of one length in a fixed order."""
    return sorted(programs, key=lambda program: (len(program), program))


def read_corpus(directory: Path) -> list[bytes]:
    """Programs of a corpus, short ones first; InputError if there is no such directory, or it cannot be read.

    A file whose name is not that of its content, half of a program that something else wrote, is left out.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such corpus; give a directory of programs")
    programs: set[bytes] = set()
    try:
        for entry in os.scandir(directory):
            if entry.name.startswith(".") or not entry.is_file():
                continue
            with contextlib.suppress(FileNotFoundError):  # somebody makes the corpus smaller meanwhile
                program = Path(entry.path).read_bytes()
                if not _CONTENT_NAME.fullmatch(entry.name) or file_name(program) == entry.name:
                    programs.add(program)
    except OSError as error:
        raise InputError(f"{directory}: cannot be read: {error.strerror or error}") from error
    return shortest_first(programs)


def add_program(directory: Path, program: bytes) -> bool:
    """Put a program into a corpus; whether it is new there. Never leaves half a file under its name."""
    path = directory / file_name(program)
    if path.exists():
        return False
    write_whole(path, program)
    return True


# -- what the bytes mean


def write_interface(directory: Path, interface: Interface) -> None:
    """Say in a corpus which call table its programs are for; OutputError."""
    data = {"identity": interface.identity, **interface.to_data()}
    write_whole(directory / INTERFACE, json.dumps(data))


def interface_of(directory: Path) -> Interface | None:
    """The call table of a corpus; None if it does not say. InputError where what it says cannot be read."""
    path = directory / INTERFACE
    if not path.is_file():
        return None
    try:
        return Interface.load(path)
    except ImageError as error:
        raise InputError(
            f"{path}: not a call table: {error.__cause__ or error}; remove this file if the programs beside it are "
            "for the present call table, else remove the corpus"
        ) from error


def identity_of(directory: Path) -> str | None:
    """The identity of a corpus's call table; None if it does not say, or not legibly."""
    try:
        return str(json.loads((directory / INTERFACE).read_text())["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Encoded:
    """Programs in the bytes of a call table; `refused` of them have calls or values that it does not have."""

    programs: list[bytes]
    old_identity: str | None = None
    refused: int = 0


def read_for(directory: Path, interface: Interface) -> Encoded:
    """Programs of a corpus, short ones first, in the bytes of this call table.

    A corpus that does not say what it is for is taken as it is. Raises InputError.
    """
    programs = read_corpus(directory)
    if identity_of(directory) == interface.identity:
        return Encoded(programs)
    old = interface_of(directory)
    if old is None or old.identity == interface.identity:
        return Encoded(programs)
    encoded: set[bytes] = set()
    refused = 0
    for program in programs:
        try:
            encoded.add(Program.from_yaml(Program.from_bytes(program, old).to_yaml(), interface).to_bytes())
        except ProgramError:
            refused += 1
    return Encoded(shortest_first(encoded), old.identity, refused)


def renew(directory: Path, interface: Interface) -> str:
    """Make an existing corpus one for this call table; returns a sentence about what was done, empty if nothing was.

    Programs that cannot be taken over stay with all others in a directory beside it. Raises InputError, OutputError.
    """
    if identity_of(directory) == interface.identity:
        return ""
    try:
        encoded = read_for(directory, interface)
    except InputError as error:
        reason, encoded = str(error), None
    if encoded is not None and encoded.old_identity is None:
        write_interface(directory, interface)
        return ""
    # A link's target has its old programs beside itself.
    place = directory.resolve()
    beside = place.with_name(f"{place.name}-{(encoded.old_identity if encoded else None) or 'unreadable'}")
    try:
        work = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=place.parent))
        work.chmod(0o755)
        for program in encoded.programs if encoded else ():
            add_program(work, program)
        write_interface(work, interface)
        if beside.is_dir():  # it was put there before: kernels take turns in one directory
            for program in read_corpus(place):
                add_program(beside, program)
            shutil.rmtree(place)
        else:
            place.rename(beside)
        work.rename(place)
    except OSError as error:
        raise OutputError(f"{place}: cannot be written: {error.strerror or error}") from error
    if encoded is None:
        return f"{reason}; it was put aside to {beside}"
    return (
        f"{directory}: was made for another call table ({encoded.old_identity}, now {interface.identity}): "
        f"{len(encoded.programs)} programs were encoded again by their names, {encoded.refused} have calls or values "
        f"that are no more; the old corpus is in {beside}"
    )


@dataclass(frozen=True)
class Imported:
    """How many programs were read, how many of them are new, and how many are for another machine config."""

    read: int
    new: int
    left_out: int = 0


def import_files(into: Path, files: Sequence[Path], interface: Interface, config: str = DEFAULT_CONFIG) -> Imported:
    """Add programs from YAML files, byte files or directories of them, for machines of that config.

    In a directory, programs that name another config are left out. Raises InputError, ProgramError, OutputError.
    """
    paths: list[Path] = []
    left_out = 0
    for path in files:
        if path.is_dir():
            inner = [file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")]
            own = [file for file in inner if config_of(file) in (None, config)]
            left_out += len(inner) - len(own)
            paths += sorted(own)
        elif path.is_file():
            paths.append(path)
        else:
            raise InputError(f"{path}: no such file")
    programs = []
    for path in paths:
        program = Program.load(path, interface).to_bytes()
        if len(program) > MAXIMUM_CALLS * CALL_BYTES:
            raise InputError(f"{path}: more than {MAXIMUM_CALLS} calls")
        programs.append(program)
    # Nothing is written before everything was read: a bad file leaves the corpus as it was.
    write_interface(into, interface)
    return Imported(len(paths), sum(add_program(into, program) for program in programs), left_out)
