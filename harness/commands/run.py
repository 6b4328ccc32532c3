# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds run`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from harness.commands.options import (
    ExtraPatchOption,
    FirmwareOption,
    KernelSourceOption,
    NoSeriesOption,
    OwnConfigOption,
    ReleaseOption,
    built,
)
from harness.commands.output import say, table, working
from harness.configs import DEFAULT_CONFIG
from harness.errors import ProgramError
from harness.protocol import MAXIMUM_CALLS, CallState

if TYPE_CHECKING:
    from harness.execution.observation import Observation
    from harness.findings.judge import Verdict
    from harness.kernel_state.layout import Layout
    from harness.programs.program import Program

FOUND = 1
"""Exit code where something is wrong with what was judged."""


def run(
    program: Annotated[
        Path, typer.Argument(metavar="PROGRAM.yaml", help="A program: YAML; with any other suffix, its bytes.")
    ],
    config: OwnConfigOption = None,
    release: ReleaseOption = False,
    extra_patch: ExtraPatchOption = None,
    kernel_source: KernelSourceOption = None,
    no_series: NoSeriesOption = False,
    firmware: FirmwareOption = None,
    stop_after: Annotated[
        int, typer.Option("--stop-after", min=0, max=MAXIMUM_CALLS, help="Park after this many calls; 0: at the end.")
    ] = 0,
) -> None:
    """Run one program, print each call and its result, and judge what it leaves behind."""
    from harness.programs.yaml import config_of

    artefacts = built(
        config or config_of(program) or DEFAULT_CONFIG,
        release=release,
        extra=extra_patch,
        kernel_source=kernel_source,
        no_series=no_series,
        firmware=firmware,
    )
    from harness.execution.executor import Executor
    from harness.findings.judge import Judge
    from harness.kernel_state.layout import Layout
    from harness.programs.interfaces import Interface
    from harness.programs.program import Program

    parsed = Program.load(program, Interface.load(artefacts))
    if not parsed.calls:
        raise ProgramError(f"{program}: there is no call in it")
    layout = Layout.from_artefacts(artefacts)
    with ExitStack() as stack:
        with working("booting"):
            executor = stack.enter_context(Executor(artefacts, coverage=False))
        verdict = Judge.of(executor).judge(parsed.to_bytes(), stop_after=stop_after)
        show_calls(parsed, verdict.observation, layout)
        show_verdict(verdict)
    if verdict.symptoms:
        raise typer.Exit(FOUND)


def show_calls(program: Program, observation: Observation, layout: Layout) -> None:
    """Print one line for each call: who, what, on what, and what came of it."""
    from harness.findings.words import decoded_calls, number, result_words

    rows = []
    for call, result in zip(decoded_calls(program), observation.results, strict=True):
        arguments = ", ".join(f"{name}={number(value)}" for name, value in (call.get("with") or {}).items())
        target = number(call.get("target", ""))
        done = result["state"] == CallState.DONE
        style = "yellow" if not done else "red" if result["error"] else "green"
        became = Text(result_words(result, layout, normal_world="victim" not in call), style)
        rows.append((str(call["index"]), call.get("victim", ""), call["call"], target, arguments, became))
    table(("", "victim", "call", "target", "arguments", "result"), rows)


def show_verdict(verdict: Verdict) -> None:
    """Print how the program ended, and everything that is wrong after it."""
    seen = verdict.observation
    say(f"outcome: {seen.status.value}; {len(seen.changed)} pages changed; {len(seen.smc_log)} secure monitor calls")
    for symptom in verdict.symptoms:
        say(f"{symptom.kind}: {symptom.name} ({symptom.place}): {symptom.message}", "red")
    if not verdict.symptoms:
        say("nothing wrong was found", "green")
