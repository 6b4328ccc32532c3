# SPDX-License-Identifier: BSD-2-Clause
"""One mutant: build it, boot it, judge it with what everybody has, then fuzz it until something is found.

A mutant counts if it compiles to other code than the kernel's own and boots. Only what says by itself that
something is wrong kills it: invariants, outcomes, answers. It is compared with the unchanged kernel in nothing but
its code.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from fuzz.campaign import Campaign, CampaignSettings, FindingSummary, run_campaign
from fuzz.corpus import add_program, write_interface
from fuzz.directory import CORPUS
from fuzz.mutants.generate import FILES, Mutant, choose, mutants
from fuzz.mutants.refusals import after_others
from fuzz.mutants.replay import (
    AT_START,
    Replay,
    beginnings,
    corpus_programs,
    known_programs,
    replay,
    telling_first,
)
from fuzz.mutants.result import PATCH_FILE, Fate, MutantResult, Stage
from fuzz.mutants.variations import variations
from harness.build.artefacts import Artefacts
from harness.build.cache import discard
from harness.build.code_blocks import Phase
from harness.build.patches import Part, part_of
from harness.build.planted import preserving_patches
from harness.build.system import build
from harness.configs import MachineConfig
from harness.coverage.source_map import SourceMap
from harness.errors import BothworldsError, BuildFailure, InputError, LaunchFailure, OutputError
from harness.execution.executor import Executor
from harness.files import write_whole
from harness.findings.bundle import names_shown
from harness.findings.judge import HARNESS_DEFECT, Judge
from harness.kernel_state.elf import Elf
from harness.programs.interfaces import Interface

SOUND_FILE = "unchanged-kernel"
"""Names the build and the programs with which the kernel itself has shown nothing: they need not be tried again."""
NO_BOOT = "no boot"
"""The oracle that notices a mutant which boots here, and does not on another machine."""
_SOURCE = "source/"
_SHORTEST = 3.0
"""A campaign of less than so many seconds is not begun: it would hardly have booted."""
_BOOT_SECONDS = 8.0
"""Time for a mutant to boot; the kernel takes less than one second."""


@dataclass(frozen=True)
class MutantSettings:
    """How mutants are chosen and judged; `seconds` is the limit of each, building not counted."""

    config: MachineConfig
    directory: Path
    count: int = 240
    """Mutants that compile to other code and boot: so many are judged."""
    seed: int = 1
    seconds: float = 300.0
    release: bool = False
    files: tuple[str, ...] = ()
    """Parts of file names: only files with one of them; all without."""
    names: tuple[str, ...] = ()
    """Parts of mutants' names: only mutants with one of them; all without."""
    corpora: tuple[Path, ...] = ()
    parallel: int = 1


@dataclass(frozen=True)
class Basis:
    """The kernel without a mutation, and the programs that every mutant is judged with."""

    artefacts: Artefacts
    known: Mapping[str, bytes]
    corpus: Mapping[str, bytes]

    @classmethod
    def of(cls, settings: MutantSettings) -> Basis:
        """Build the kernel and read the programs; InputError if the kernel itself does not hold what they show."""
        artefacts = build(settings.config, release=settings.release)
        interface = Interface.load(artefacts)
        known = known_programs(interface, settings.config.name)
        known |= beginnings(known) | variations(interface, known.values())
        sound = settings.directory / SOUND_FILE
        with Executor(artefacts, coverage=False) as executor:
            known |= after_others(executor, interface, known)
            corpus = telling_first(executor, interface, corpus_programs(settings.corpora, interface))
            basis = cls(artefacts, known, corpus)
            machines = hashlib.sha256(b"".join(patch.read_bytes() for patch in other_machines())).hexdigest()
            checked = f"{basis.surroundings}\n{basis.programs}\n{machines}\n"
            if sound.is_file() and sound.read_text(errors="replace") == checked:
                return basis
            shown = replay(executor, Judge.of(executor), {**known, **corpus}, float("inf"), start=True)
        for patch in other_machines():
            if not shown.found:
                shown = _as_it_parks(build(settings.config, release=settings.release, extra_patches=[patch]))
        if shown.found:
            raise InputError(
                f"the kernel without any mutant shows {', '.join(shown.oracles)} ({shown.program}: {shown.detail}): "
                "mutants are told from it by nothing but that; mend it, or leave that program out"
            )
        write_whole(sound, checked)
        return basis

    @property
    def identity(self) -> str:
        """Changes with the kernel that mutants are made of."""
        return self.artefacts.hashes["kernel"]

    @property
    def surroundings(self) -> str:
        """Changes with all that the kernel runs among, too."""
        return "|".join(self.artefacts.hashes[name] for name in ("kernel", "firmware", "root_task", "config"))

    @cached_property
    def programs(self) -> str:
        """Changes with the programs that mutants are judged with."""
        return hashlib.sha256(b"".join(sorted({*self.known.values(), *self.corpus.values()}))).hexdigest()


def lines_with_code(artefacts: Artefacts) -> dict[str, set[int]]:
    """By source file of the kernel, the lines whose code can run and does not only lead to a halt."""
    source = SourceMap.of(artefacts)
    blocks = source.blocks
    usable = (blocks.phase != Phase.UNUSED) & (blocks.halts == 0) & blocks.of("kernel")
    lines: dict[str, set[int]] = {}
    for block in usable.nonzero()[0].tolist():
        for file, line in source.lines[block]:
            lines.setdefault(file.removeprefix(_SOURCE), set()).add(line)
    return lines


def candidates(artefacts: Artefacts, settings: MutantSettings) -> list[Mutant]:
    """All mutants that the settings allow, in the order in which they are tried; InputError if there are none."""
    files = [file for file in FILES if not settings.files or any(part in file for part in settings.files)]
    if not files:
        raise InputError(f"--files {', '.join(settings.files)}: no such file; there are: {', '.join(FILES)}")
    found = choose(mutants(artefacts.kernel_source, lines_with_code(artefacts), files), settings.seed)
    if settings.names:
        found = [one for one in found if any(part in one.name for part in settings.names)]
        if not found:
            raise InputError(f"--name {', '.join(settings.names)}: no such mutant; they are named file-function-...")
    return found


def code_of(kernel: Path) -> list[tuple[int, bytes]]:
    """What of a kernel is loaded: address and content of each segment."""
    return [(segment.virtual, bytes(segment.data)) for segment in Elf(kernel).segments]


def run_mutant(mutant: Mutant, basis: Basis, settings: MutantSettings) -> MutantResult:
    """Judge one mutant; its directory is made anew, and keeps the patch and, if a campaign ran, what that left.

    Raises KeyboardInterrupt if it was interrupted, OutputError if the directory cannot be written.
    """
    result = MutantResult.of(mutant)
    directory = settings.directory / mutant.name
    patch = directory / PATCH_FILE
    base = basis.artefacts
    try:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        patch.write_bytes(mutant.patch(base.kernel_source).encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise OutputError(f"{directory}: cannot be written: {error.strerror or error}") from error
    try:
        artefacts = build(settings.config, release=settings.release, extra_patches=[patch])
    except BuildFailure as error:
        complaints = [line for line in str(error).splitlines() if "error:" in line]
        result.fate, result.detail = Fate.NOT_COMPILED, (complaints or str(error).splitlines())[0][:200]
        return result
    try:
        if code_of(artefacts.kernel_elf) == code_of(base.kernel_elf):
            result.fate = Fate.IDENTICAL
        else:
            _judge(result, artefacts, basis, settings, directory)
    finally:
        _forget(artefacts, base)
    return result


def _judge(result: MutantResult, artefacts: Artefacts, basis: Basis, settings: MutantSettings, directory: Path) -> None:
    """The stages that run a machine, each within what is left of the time."""
    begun = time.monotonic()
    deadline = begun + settings.seconds
    with ExitStack() as stack:
        try:
            executor = stack.enter_context(Executor(_impatient(artefacts), coverage=False))
            judge = Judge.of(executor)
        except (LaunchFailure, OutputError):
            raise  # no kernel has run
        except BothworldsError as error:  # or what has parked is not what the supervisor must have set up
            result.fate, result.detail = Fate.NOT_BOOTED, str(error).splitlines()[0]
            return
        for stage, programs in ((Stage.REPLAY, basis.known), (Stage.CORPUS, basis.corpus)):
            before = time.monotonic() - begun
            shown = replay(executor, judge, programs, deadline, start=stage is Stage.REPLAY)
            result.executions += shown.executions
            result.seconds = before + shown.seconds
            if shown.found:
                result.detail = f"{shown.program}: {shown.detail}"
                return _killed(result, Stage.BOOT if shown.program == AT_START else stage, shown.oracles)
    if (other := _other_boots(artefacts, settings)) is not None:
        result.detail = other.detail
        result.seconds += other.seconds
        return _killed(result, Stage.BOOT, other.oracles)
    left = deadline - time.monotonic()
    if left >= _SHORTEST:
        _fuzz(result, artefacts, basis, settings, directory, left)


def _other_boots(artefacts: Artefacts, settings: MutantSettings) -> Replay | None:
    """What shows when the mutant boots on other machines, on which the kernel boots as ever; None if nothing does."""
    begun = time.monotonic()
    for patch in other_machines():
        other = build(settings.config, release=settings.release, extra_patches=[*artefacts.extra_patches, patch])
        try:
            shown = _as_it_parks(_impatient(other))
            if shown.oracles == [NO_BOOT]:
                shown = _as_it_parks(other)  # the host may have been slow
        finally:
            discard(other.flash.parent)
        if shown.found:
            shown.detail = f"{patch.stem}: {shown.detail}"
            shown.seconds = time.monotonic() - begun
            return shown
    return None


def _as_it_parks(artefacts: Artefacts) -> Replay:
    """What the machine shows when it parks, or that it never does."""
    try:
        with Executor(artefacts, coverage=False) as executor:
            return replay(executor, Judge.of(executor), {}, float("inf"), start=True)
    except (LaunchFailure, OutputError):
        raise  # no kernel has run
    except BothworldsError as error:
        return Replay([NO_BOOT], str(error).splitlines()[0], AT_START)


def other_machines() -> list[Path]:
    """Patches of the firmware that give the kernel another machine, on which it must do what it ever does."""
    return [patch.path for patch in preserving_patches() if part_of(patch.path) is Part.FIRMWARE]


def _impatient(artefacts: Artefacts) -> Artefacts:
    """The same build, given less time to boot: many mutants never do."""
    deadlines = artefacts.config.deadlines
    sooner = {name: min(_BOOT_SECONDS, getattr(deadlines, name)) for name in type(deadlines).model_fields}
    config = artefacts.config.model_copy(update={"deadlines": deadlines.model_copy(update=sooner)})
    return replace(artefacts, config=config)


def _fuzz(
    result: MutantResult,
    artefacts: Artefacts,
    basis: Basis,
    settings: MutantSettings,
    directory: Path,
    seconds: float,
) -> None:
    """A campaign that goes on from the programs that showed nothing."""
    interface = Interface.load(artefacts)
    write_interface(directory / CORPUS, interface)
    for program in {*basis.known.values(), *basis.corpus.values()}:
        add_program(directory / CORPUS, program)

    with ExitStack() as stack:
        unchanged = _Unchanged(basis.artefacts, stack)

        def ends(_: Campaign, finding: FindingSummary) -> bool:
            return _says_something(finding) and not unchanged.shows(finding)

        campaign = run_campaign(
            CampaignSettings(artefacts, directory, seconds=seconds, workers=1, seed=settings.seed), until=ends
        )
        if campaign.interrupted:
            raise KeyboardInterrupt
        found = [finding for finding in campaign.findings.values() if ends(campaign, finding)]
    if not found:
        result.executions += campaign.totals.executions
        result.seconds += campaign.seconds
        result.detail = "; ".join(f"without it too: {signature}" for signature in campaign.findings)
        return
    first = min(found, key=lambda finding: finding.first_seen_seconds)
    oracles = [first.invariant or first.kind]
    for finding in found:
        oracles += sorted({finding.invariant or finding.kind, *names_shown(finding.path)} - {HARNESS_DEFECT})
    result.executions += first.first_seen_executions
    result.seconds += first.first_seen_seconds
    result.detail = first.signature
    _killed(result, Stage.FUZZ, oracles)


class _Unchanged:
    """The kernel without a mutation: what it shows too is no merit of the mutant's. It boots when it is asked first."""

    def __init__(self, artefacts: Artefacts, stack: ExitStack) -> None:
        self._artefacts = artefacts
        self._stack = stack
        self._judge: Judge | None = None
        self._known: dict[str, bool] = {}

    def shows(self, finding: FindingSummary) -> bool:
        """Whether the program of a finding shows the same on it."""
        if finding.signature not in self._known:
            if self._judge is None:
                self._judge = Judge.of(self._stack.enter_context(Executor(self._artefacts, coverage=False)))
            names = {symptom.name for symptom in self._judge.judge(finding.program).symptoms}
            self._known[finding.signature] = (finding.invariant or finding.kind) in names
        return self._known[finding.signature]


def _says_something(finding: FindingSummary) -> bool:
    """Whether a finding is about the kernel, and not about memory that the harness does not restore."""
    return finding.kind != HARNESS_DEFECT


def _killed(result: MutantResult, stage: Stage, oracles: Sequence[str]) -> None:
    result.fate, result.stage, result.oracles = Fate.KILLED, stage, tuple(dict.fromkeys(oracles))
    result.seconds = round(result.seconds, 2)


def _forget(artefacts: Artefacts, base: Artefacts) -> None:
    """Take a mutant's builds out of the cache: they are large, and nobody asks for them again."""
    for own, other in (
        (artefacts.kernel_elf, base.kernel_elf),
        (artefacts.root_task_elf, base.root_task_elf),
        (artefacts.flash, base.flash),
    ):
        if own.parent != other.parent:
            discard(own.parent)
