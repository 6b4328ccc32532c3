# SPDX-License-Identifier: BSD-2-Clause
"""What a campaign leaves of its coverage: the blocks that it hit, by address, and of which build."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from harness.build.artefacts import Artefacts
from harness.build.blocks import StaticBlocks, covered_files
from harness.coverage.lcov import lcov_text
from harness.coverage.report import FunctionCoverage, by_function
from harness.coverage.source_map import Flags, SourceMap
from harness.coverage.unreachable import Unreachable
from harness.errors import ImageError, InputError
from harness.files import write_whole
from harness.kernel_state.elf import Elf
from harness.yaml_model import StrictModel

RECORD_FILE = "coverage.json"


class _Part(StrictModel):
    elf: str
    sha256: str
    hit: list[int] = Field(strict=True)
    """Virtual addresses of the blocks that were hit."""


class _Record(StrictModel):
    release: bool
    components: dict[str, _Part]


@dataclass(frozen=True)
class BuildCoverage:
    """What coverage of one build means: its source, and what of it cannot be reached."""

    source: SourceMap
    unreachable: Unreachable
    files: dict[str, Path]
    release: bool

    @classmethod
    def of(cls, artefacts: Artefacts) -> BuildCoverage:
        """That of a build; takes about a second."""
        return cls.of_files(covered_files(artefacts), release=artefacts.release)

    @classmethod
    def of_files(cls, files: dict[str, Path], *, release: bool) -> BuildCoverage:
        """That of the ELF files of a build, by component."""
        source = SourceMap.of_files(files)
        return cls(source, Unreachable.load(source, release=release), files, release)

    @property
    def blocks(self) -> StaticBlocks:
        """The static blocks that coverage is counted by."""
        return self.source.blocks

    def by_function(self, hit: NDArray[Any]) -> list[FunctionCoverage]:
        """Coverage of each function; `hit`: flags or counts, one a block."""
        return by_function(self.source, hit, self.unreachable)

    def wrong(self, hit: NDArray[Any]) -> list[str]:
        """Blocks that were hit although they are said to be unreachable: each with its place and the reason given."""
        found = []
        for block in self.unreachable.wrong(self.source.flags(hit)):
            why = self.unreachable.exclusions.get(block)
            reason = why.reason if why else "runs only at boot, or never"
            place = self.source.places[block]
            address = f"{int(self.blocks.address[block]):#x}"
            found.append(f"{place.function.name} {place.file}:{place.line} ({address}): {reason}")
        return found

    def write_lcov(self, path: Path, hit: NDArray[Any], *, title: str, everything: bool = False) -> None:
        """Write an lcov file; lines that cannot be reached are in it only with `everything`. Raises OutputError."""
        unreachable = None if everything else self.unreachable
        write_whole(path, lcov_text(self.source, hit, unreachable, title=title), "--lcov")

    def save(self, directory: Path, hit: NDArray[Any]) -> Path:
        """Write the record of a campaign into its directory; raises OutputError."""
        flags = self.source.flags(hit)
        components = {
            name: {
                "elf": str(self.files[name]),
                "sha256": self.source.hashes[name],
                "hit": self.blocks.address[flags & self.blocks.of(name)].tolist(),
            }
            for name in self.blocks.components
        }
        path = directory / RECORD_FILE
        write_whole(path, json.dumps({"release": self.release, "components": components}) + "\n")
        return path


def load(directory: Path) -> tuple[BuildCoverage, Flags]:
    """The coverage that a campaign left in its directory: of which build, and bool[blocks].

    Raises InputError if there is none, if it is damaged, or if its build is not in the cache any more.
    """
    path = directory / RECORD_FILE
    try:
        record = _Record.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give the directory of a campaign that counted coverage"
        ) from error
    except ValidationError as error:
        raise InputError(f"{path}: damaged ({error.error_count()} errors); run the campaign again") from error
    files = {name: Path(part.elf) for name, part in record.components.items()}
    for name, part in record.components.items():
        try:
            same = Elf(files[name]).sha256 == part.sha256
        except ImageError:
            same = False
        if not same:
            raise InputError(f"{path}: its {name} is not in the cache any more ({part.elf}); run the campaign again")
    coverage = BuildCoverage.of_files(files, release=record.release)
    blocks = coverage.blocks
    flags = np.zeros(len(blocks), np.bool_)
    for name, part in record.components.items():
        own = blocks.of(name)
        hit = np.array(part.hit, np.uint64)
        if not np.isin(hit, blocks.address[own]).all():
            raise InputError(f"{path}: holds addresses that are no blocks of its {name}; run the campaign again")
        flags |= own & np.isin(blocks.address, hit)
    return coverage, flags


def load_all(directories: list[Path]) -> tuple[BuildCoverage, Flags]:
    """What several campaigns of one build hit together; raises InputError as `load`, and for different builds."""
    coverage, flags = load(directories[0])
    for directory in directories[1:]:
        other, more = load(directory)
        if other.source.hashes != coverage.source.hashes:
            raise InputError(f"{directory}: is of another build than {directories[0]}; look at them one by one")
        flags |= more
    return coverage, flags
