# SPDX-License-Identifier: BSD-2-Clause
"""`bothworlds run`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from harness.commands.options import (
    ConfigOption,
    ExtraPatchOption,
    FirmwareOption,
    KernelSourceOption,
    NoSeriesOption,
    ReleaseOption,
    built,
)
from harness.commands.output import say, table, working
from harness.configs import DEFAULT_CONFIG
from harness.errors import ProgramError
from harness.protocol import MAXIMUM_CALLS, CallState

if TYPE_CHECKING:
    import numpy as np

    from harness.execution.observation import Observation
    from harness.findings.judge import Verdict
    from harness.programs.program import Program

FOUND = 1
"""Exit code where something is wrong with what was judged."""


def run(
    program: Annotated[
        Path, typer.Argument(metavar="PROGRAM.yaml", help="A program: YAML; with any other suffix, its bytes.")
    ],
    config: ConfigOption = DEFAULT_CONFIG,
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
    artefacts = built(
        config,
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
    error_names = Layout.from_artefacts(artefacts).error_names
    with ExitStack() as stack:
        with working("booting"):
            executor = stack.enter_context(Executor(artefacts, coverage=False))
        verdict = Judge.of(executor).judge(parsed.to_bytes(), stop_after=stop_after)
        show_calls(parsed, verdict.observation, error_names)
        show_verdict(verdict)
    if verdict.symptoms:
        raise typer.Exit(FOUND)


def show_calls(program: Program, observation: Observation, error_names: dict[int, str]) -> None:
    """Print one line for each call: who, what, on what, and what came of it."""
    from harness.findings.filing import decoded_calls
    from harness.findings.report import number

    rows = []
    for call, result in zip(decoded_calls(program, None), observation.results, strict=True):
        arguments = ", ".join(f"{name}={number(value)}" for name, value in (call.get("with") or {}).items())
        target = number(call.get("target", ""))
        rows.append(
            (str(call["index"]), call["victim"], call["call"], target, arguments, outcome_of(result, error_names))
        )
    table(("", "victim", "call", "target", "arguments", "result"), rows)


def outcome_of(result: np.void, error_names: dict[int, str]) -> Text:
    """What became of one call (a `protocol.RESULT`): its error's name, or the registers that it answered with."""
    state = CallState(int(result["state"]))
    if state is not CallState.DONE:
        words = {
            CallState.NOT_REACHED: "not reached",
            CallState.STARTED: "did not return",
            CallState.SKIPPED: "skipped: its victim could not take its turn",
            CallState.FAULTED: f"its victim faulted in it (seL4_Fault {int(result['error'])})",
        }
        return Text(words[state], "yellow")
    error = int(result["error"])
    if error:
        return Text(error_names.get(error, f"error {error:#x}").removeprefix("seL4_"), "red")
    registers = [int(word) for word in result["mr"]]
    while registers and not registers[-1]:
        registers.pop()
    return Text(" ".join(["ok", *(f"{word:#x}" for word in registers)]), "green")


def show_verdict(verdict: Verdict) -> None:
    """Print how the program ended, and everything that is wrong after it."""
    seen = verdict.observation
    say(f"outcome: {seen.status.value}; {len(seen.changed)} pages changed; {len(seen.smc_log)} secure monitor calls")
    for symptom in verdict.symptoms:
        say(f"{symptom.kind}: {symptom.name} ({symptom.place}): {symptom.message}", "red")
    if not verdict.symptoms:
        say("nothing wrong was found", "green")
