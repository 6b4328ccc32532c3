# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds check`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from harness.build.artefacts import PROJECT
from harness.commands.options import (
    ConfigOption,
    ExtraPatchOption,
    FirmwareOption,
    ForceOption,
    KernelSourceOption,
    NoSeriesOption,
    ReleaseOption,
    built,
)
from harness.commands.output import console, say, table, working
from harness.commands.run import FOUND
from harness.configs import DEFAULT_CONFIG
from harness.errors import ImageError, InputError

if TYPE_CHECKING:
    from harness.build.artefacts import Artefacts
    from harness.invariants.checker import Checker, CheckReport
    from harness.kernel_state.elf import Elf
    from harness.kernel_state.memory import MemoryImage
    from harness.kernel_state.state import KernelState
    from harness.view.nodes import Node

EXAMPLES = PROJECT / "examples"
TWO_WORLDS = EXAMPLES / "two-worlds"
"""Those of configs with a normal world."""
_YAML = (".yaml", ".yml")

Build = Callable[[str], "Artefacts"]
"""Builds a config with the options that were given."""


class View(StrEnum):
    """What `--tree` can show."""

    UNTYPEDS = "untypeds"
    CSPACES = "cspaces"
    VSPACES = "vspaces"
    THREADS = "threads"
    ALL = "all"


@dataclass
class Tally:
    """What all checks together found: objects judged and violations, by invariant."""

    judged: dict[str, int] = field(default_factory=dict)
    messages: dict[str, dict[str, str]] = field(default_factory=dict)
    """By invariant: each violation's message, and in what it was found first."""
    other: list[str] = field(default_factory=list)
    """What is wrong besides invariants: a kernel that halted, a hang."""
    trees: list[Node] = field(default_factory=list)
    """The system, by view."""

    def add(self, report: CheckReport, where: str) -> None:
        """Add one report; `where` tells in what it was found."""
        for name, objects in report.judged.items():
            self.judged[name] = self.judged.get(name, 0) + objects
        for violation in report.violations:
            self.messages.setdefault(violation.invariant, {}).setdefault(violation.message, where)

    def look(self, state: KernelState, view: View | None) -> None:
        """Keep what one view, or each of them, shows of a state."""
        from harness.view.names import Names
        from harness.view.trees import VIEWS, tree

        names = Names.of(state)
        self.trees = [tree(state, name, names) for name in (VIEWS if view in (None, View.ALL) else (str(view),))]


def check(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[CONFIG|FINDING|IMAGE]",
            help="A machine config, a finding's directory, or a file with an image of memory.",
        ),
    ] = DEFAULT_CONFIG,
    view: Annotated[
        View | None, typer.Option("--tree", help="Show the system as a tree: one part of it, or all.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option("--depth", min=0, metavar="LEVELS", help="With --tree: levels that are shown.")
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option("--after", metavar="PROGRAM.yaml", help="Take the machine as this program leaves it."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    base: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="With a raw IMAGE: physical address of its first byte; secure RAM's."),
    ] = "",
    release: ReleaseOption = False,
    extra_patch: ExtraPatchOption = None,
    kernel_source: KernelSourceOption = None,
    no_series: NoSeriesOption = False,
    firmware: FirmwareOption = None,
    force: ForceOption = False,
) -> None:
    """Run the example programs (or take a finding's memory, or an image), and print every invariant and the system."""
    from harness.programs.yaml import config_of

    path = Path(what)
    build = partial(
        built,
        release=release,
        extra=extra_patch,
        kernel_source=kernel_source,
        no_series=no_series,
        firmware=firmware,
    )
    if path.is_file() and path.suffix not in _YAML:
        tally = _check_image(path, view, build, config=config, base=base, force=force)
    elif path.is_dir() or path.name == "finding.yaml" or ("/" in what and path.suffix not in _YAML):
        tally = _check_finding(path, view, force=force)
    else:
        what = config if what == DEFAULT_CONFIG else what
        own = config_of(after) if after is not None and what == DEFAULT_CONFIG else None
        tally = _check_programs(own or what, view, build, after=after)
    _show(tally, view, depth)
    if tally.messages or tally.other:
        raise typer.Exit(FOUND)


def _check_finding(path: Path, view: View | None, *, force: bool) -> Tally:
    """Judge the memory that a finding keeps; no machine takes part."""
    from harness.findings.bundle import read_bundle
    from harness.findings.reproduce import build_of
    from harness.invariants.checker import Checker
    from harness.kernel_state.layout import Layout

    bundle = read_bundle(path)
    memory = bundle.memory()
    with working("building what the finding was made on"):
        artefacts = build_of(bundle, force=force)
    # A finding keeps one memory, so what must not have changed since the snapshot is only judged by itself.
    checker = Checker(Layout.from_artefacts(artefacts), bundle.config, memory, firmware_elf=artefacts.firmware_elf)
    return _judge(checker, memory, bundle.path.name, view)


def _check_image(path: Path, view: View | None, build: Build, *, config: str, base: str, force: bool) -> Tally:
    """Judge an image of memory: one that a finding keeps, or the bytes of RAM as they are."""
    from harness.invariants.checker import Checker
    from harness.kernel_state.layout import Layout
    from harness.kernel_state.memory import words_of

    artefacts = build(config)
    memory = _image(path, _address(base) if base else artefacts.config.secure_ram.base)
    layout = Layout.from_artefacts(artefacts)
    words_of(memory, artefacts.config.secure_ram.base, artefacts.config.secure_ram.size)  # says if it is not all there
    if not force and not _holds_kernel(layout.elf, memory):
        raise ImageError(
            f"{path}: the kernel in it is not of this build; give --release or --extra-patch as it was built with, "
            "or judge it all the same with --force"
        )
    try:
        checker = Checker(layout, artefacts.config, memory, firmware_elf=artefacts.firmware_elf)
    except ImageError as error:
        raise ImageError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    return _judge(checker, memory, path.name, view)


def _image(path: Path, base: int) -> MemoryImage:
    from harness.kernel_state.memory import FileImage
    from harness.machine.memory import GZIP_MAGIC, ZIP_MAGIC, Image

    try:
        with path.open("rb") as file:
            begin = file.read(2)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return Image.from_file(path) if begin in (GZIP_MAGIC, ZIP_MAGIC) else FileImage(path, base)


def _holds_kernel(elf: Elf, memory: MemoryImage) -> bool:
    """Whether the code in a memory is that of a kernel."""
    inside = elf.symbol("handleSyscall").address
    code = next(section for section in elf.sections if section.address <= inside < section.address + section.size)
    return memory.read(elf.physical(code.address), len(code.data)) == code.data


def _address(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError as error:
        raise InputError(f"--base {text}: not an address; give one such as 0xe000000") from error


def _judge(checker: Checker, memory: MemoryImage, name: str, view: View | None) -> Tally:
    tally = Tally()
    tally.add(checker.check(memory), name)
    tally.look(checker.snapshot, view)
    return tally


def _check_programs(config: str, view: View | None, build: Build, *, after: Path | None) -> Tally:
    """Judge the machine as it parks, and after each example program; or after one program alone."""
    artefacts = build(config)
    from harness.execution.executor import Executor
    from harness.findings.judge import Judge, of_outcome
    from harness.programs.interfaces import Interface
    from harness.programs.program import Program

    interface = Interface.load(artefacts)
    paths = [after] if after is not None else sorted(EXAMPLES.glob("*.yaml"))
    if after is None and interface.population.normal_world:
        paths += sorted(TWO_WORLDS.glob("*.yaml"))
    programs = {path.name: Program.load(path, interface).to_bytes() for path in paths}
    shown = after.name if after is not None else "as it parks"
    tally = Tally()
    with ExitStack() as stack:
        with working("booting"):
            executor = stack.enter_context(Executor(artefacts, coverage=False))
        judge = Judge.of(executor)
        for name, program in {"as it parks": b"", **programs}.items():
            with working(name):
                observation = executor.run(program)
                if name == shown:
                    tally.look(judge.checker.state(executor.memory, observation), view)
                if symptom := of_outcome(observation, judge.kernel):
                    tally.other.append(f"{name}: {symptom.kind} in {symptom.place}: {symptom.message}")
                    continue
                report = judge.check(observation)
                judge.settle(report, program)
                tally.add(report, name)
    what = f"after {after}" if after is not None else f"after {len(programs)} example programs"
    say(f"{artefacts.config.name}: the machine as it parks, and {what}")
    return tally


def _show(tally: Tally, view: View | None, depth: int | None) -> None:
    from harness.invariants.registry import invariants

    if view is None:
        # The head line of each view: counts. The trees are for who asks for them.
        for node in tally.trees:
            say(node.text)
        say("(--tree VIEW shows them: untypeds, cspaces, vspaces, threads or all)", "dim")
        say()
    for node in tally.trees if view is not None else ():
        _show_tree(node, depth)
    rows = []
    for entry in invariants():
        if entry.id not in tally.judged:
            continue  # of a family that this machine has nothing for
        judged, broken = tally.judged[entry.id], tally.messages.get(entry.id, {})
        if broken:
            state = Text("VIOLATED", "red")
        elif judged:
            state = Text("held", "green")
        else:
            state = Text("not judged", "yellow")
        rows.append((entry.id, entry.family, state, str(judged), entry.summary))
    table(("invariant", "family", "", "objects", "what it says"), rows)
    for name, messages in tally.messages.items():
        for message, where in messages.items():
            say(f"{name}: {where}: {message}", "red")
    for message in tally.other:
        say(message, "red")


def _show_tree(node: Node, depth: int | None) -> None:
    if console.is_terminal:
        console.print(node.rich(depth))
    else:
        for line in node.lines(depth):
            say(line)
    say()
