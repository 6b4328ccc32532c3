# SPDX-License-Identifier: BSD-2-Clause
"""How commands talk: live and coloured on a terminal, plain lines in a pipe."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

NAME = "bothworlds"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read our output has left: rich would end the process with exit code 1, which means findings here."""
        raise BrokenPipeError


console = _Console(highlight=False)
"""Results, on standard output."""
errors = _Console(stderr=True, highlight=False)
"""Progress, warnings and errors, on standard error."""


def say(text: str = "", style: str = "") -> None:
    """Print one line of results, never wrapped in a pipe."""
    console.print(Text(text, style=style), soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning on standard error."""
    errors.print(Text(f"warning: {text}", style="yellow"), soft_wrap=True)


def fail(text: str) -> None:
    """Print an error on standard error."""
    errors.print(Text.assemble(("error: ", "bold red"), (text, "red")), soft_wrap=True)


def command_line(*arguments: str | Path) -> str:
    """What a user types here to run this program with other arguments."""
    program = Path(sys.argv[0])
    if program.name != NAME or shutil.which(NAME) == str(program.absolute()):
        words = [NAME]
    else:
        path = program.absolute()
        words = [os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)]
    return shlex.join([*words, *map(str, arguments)])


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that something that takes a while is going on: a spinner on a terminal, nothing in a pipe."""
    if not errors.is_terminal:
        yield
        return
    with errors.status(Text(what)):
        yield


def table(headers: Sequence[str], rows: Sequence[Sequence[str | Text]], title: str = "") -> None:
    """Print a table; in a pipe, aligned columns without frames, one line a row whatever its length."""
    if console.is_terminal:
        framed = Table(*headers, title=title or None, title_justify="left", header_style="bold")
        for row in rows:
            framed.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
        console.print(framed)
        return
    if title:
        say(title)
    plain = [tuple(headers), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in plain) for column in range(len(headers))]
    for row in plain:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
