# SPDX-License-Identifier: BSD-2-Clause
"""Commands that fuzzing adds to `bothworlds`, one file a group; each imports what it needs only when it runs."""

from __future__ import annotations

import typer

from fuzz.commands.bench import bench
from fuzz.commands.corpus import corpus_app
from fuzz.commands.fuzz import fuzz
from fuzz.commands.mutants import mutants
from fuzz.commands.nightly import nightly
from fuzz.commands.planted import planted

app = typer.Typer()
for command in (fuzz, nightly, planted, mutants, bench):
    app.command()(command)
app.add_typer(corpus_app, name="corpus")
