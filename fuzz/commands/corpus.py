# SPDX-License-Identifier: BSD-2-Clause
"""The commands `corpus merge`, `corpus minimise` and `corpus import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuzz.directory import corpus_lock
from harness.commands.options import ConfigOption, ReleaseOption, built
from harness.commands.output import say, warn, working
from harness.configs import DEFAULT_CONFIG
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.build.artefacts import Artefacts
    from harness.execution.executor import Executor

corpus_app = typer.Typer(help="Work on corpora: directories of programs.", no_args_is_help=True)


def _executor(artefacts: Artefacts) -> Executor:
    from harness.execution.executor import Executor

    return Executor(artefacts)


@corpus_app.command("merge")
def corpus_merge(
    into: Annotated[Path, typer.Argument(metavar="CORPUS", help="Corpus that is added to.")],
    sources: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Corpora that are taken from.")],
    config: ConfigOption = DEFAULT_CONFIG,
    release: ReleaseOption = False,
) -> None:
    """Add to a corpus those programs of others that reach more than it does."""
    from fuzz import reduction
    from harness.programs.interfaces import Interface

    artefacts = built(config, release=release)
    with corpus_lock(into), _executor(artefacts) as executor, working("running programs"):
        added, looked = reduction.merge(executor, into, sources, Interface.load(artefacts))
    say(f"{into}: {added} of {looked} programs reach something new and were added")


@corpus_app.command("minimise")
def corpus_minimise(
    directory: Annotated[Path, typer.Argument(metavar="CORPUS", help="Corpus to make smaller.")],
    config: ConfigOption = DEFAULT_CONFIG,
    release: ReleaseOption = False,
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Keep what reaches all blocks, however often: fewer programs.")
    ] = False,
) -> None:
    """Keep of a corpus the fewest and shortest programs that reach all that it reaches."""
    from fuzz import reduction
    from fuzz.corpus import renew
    from harness.programs.interfaces import Interface

    if not directory.is_dir():
        raise InputError(f"{directory}: no such corpus; give a directory of programs")
    artefacts = built(config, release=release)
    with corpus_lock(directory), _executor(artefacts) as executor, working("running programs"):
        if said := renew(directory, Interface.load(artefacts)):
            warn(said)
        done = reduction.minimise(executor, directory, blocks_only=blocks)
    say(
        f"{directory}: {done.kept} of {done.there} programs stay, {done.kept_bytes} of {done.bytes} bytes; "
        f"they reach all {done.blocks} blocks that were reached"
    )


@corpus_app.command("import")
def corpus_import(
    into: Annotated[Path, typer.Argument(metavar="CORPUS", help="Corpus that is added to.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Programs: YAML, bytes, or directories.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Add programs from files to a corpus."""
    from fuzz import corpus
    from harness.programs.interfaces import Interface

    artefacts = built(config)
    interface = Interface.load(artefacts)
    with working("reading programs"), corpus_lock(into):
        if into.is_dir() and (said := corpus.renew(into, interface)):
            warn(said)
        done = corpus.import_files(into, files, interface, artefacts.config.name)
    others = f"; {done.left_out} are for another machine config" if done.left_out else ""
    say(f"{into}: {done.new} of {done.read} programs are new{others}")
