# SPDX-License-Identifier: BSD-2-Clause
"""The commands `corpus merge`, `corpus minimise` and `corpus import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.options import ConfigOption, built
from harness.commands.output import say, working
from harness.configs import DEFAULT_CONFIG
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.execution.executor import Executor

corpus_app = typer.Typer(help="Work on corpora: directories of programs.", no_args_is_help=True)


def _executor(config: str, *, coverage: bool = True) -> Executor:
    from harness.execution.executor import Executor

    return Executor(built(config), coverage=coverage)


@corpus_app.command("merge")
def corpus_merge(
    into: Annotated[Path, typer.Argument(metavar="CORPUS", help="Corpus that is added to.")],
    sources: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Corpora that are taken from.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Add to a corpus those programs of others that reach more than it does."""
    from fuzz import corpus

    with _executor(config) as executor:
        added, looked = corpus.merge(executor, into, sources)
    say(f"{into}: {added} of {looked} programs reach something new and were added")


@corpus_app.command("minimise")
def corpus_minimise(
    directory: Annotated[Path, typer.Argument(metavar="CORPUS", help="Corpus to make smaller.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Remove from a corpus the programs that reach nothing which shorter ones do not."""
    from fuzz import corpus

    if not directory.is_dir():
        raise InputError(f"{directory}: no such corpus; give a directory of programs")
    with _executor(config) as executor:
        kept, there = corpus.minimise(executor, directory)
    say(f"{directory}: {kept} of {there} programs stay")


@corpus_app.command("import")
def corpus_import(
    into: Annotated[Path, typer.Argument(metavar="CORPUS", help="Corpus that is added to.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Programs: YAML, bytes, or directories.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Add programs from files to a corpus."""
    from fuzz import corpus
    from harness.programs.interfaces import Interface

    with working("reading programs"):
        added, read = corpus.import_files(into, files, Interface.load(built(config)))
    say(f"{into}: {added} of {read} programs are new")
