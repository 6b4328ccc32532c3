# SPDX-License-Identifier: BSD-2-Clause
"""The command `nightly`: everything that one wants to know in the morning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import ExtraPatchOption, extra_patches


def nightly(
    plan: Annotated[
        Path | None, typer.Argument(metavar="[PLAN]", help="A YAML file as nightly.yaml, which is used without one.")
    ] = None,
    time: Annotated[
        float | None, typer.Option("--time", min=5, help="Seconds for the whole night, instead of the plan's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Directory of the nights, instead of the plan's.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a night that was interrupted or lost.")] = False,
    extra_patch: ExtraPatchOption = None,
) -> None:
    """Try known findings again, see that planted bugs are caught, fuzz, and compare with the last night.

    Exit code 0: nothing new; 1: new findings, or what else the plan's `fail_on` names; 2: the plan is wrong; 3:
    something could not be done, or the harness missed a bug that it must catch; 130: interrupted.
    """
    from fuzz.nightly.plan import load_plan
    from fuzz.nightly.run import run_night

    chosen = load_plan(plan)
    changes: dict[str, object] = {}
    if time is not None:
        changes["seconds"] = time
    if out is not None:
        changes["nights"] = out.resolve()
    if extra_patch:
        changes["extra_patches"] = (*chosen.extra_patches, *extra_patches(extra_patch))
    code = run_night(chosen.model_copy(update=changes), resume=resume)
    if code:
        raise typer.Exit(code)
