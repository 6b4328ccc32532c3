# SPDX-License-Identifier: BSD-2-Clause
"""The `bothworlds` command: its parts, and the one place where errors become messages and exit codes.

Exit codes: 0 nothing found; 1 findings; 2 bad input; 3 the environment failed; 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

_on_interrupt = signal.getsignal(signal.SIGINT)
if __name__ == "__main__" or Path(sys.argv[0]).name == "bothworlds":
    # What follows takes a moment. Ctrl-C ends the process meanwhile as it ends any other, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN if _on_interrupt is signal.SIG_IGN else signal.SIG_DFL)

import typer  # noqa: E402

from harness import plugins  # noqa: E402
from harness.commands import boot, build, check, config, coverage, doctor, findings, run  # noqa: E402
from harness.commands.output import errors, fail, warn  # noqa: E402
from harness.errors import BothworldsError, InputError  # noqa: E402

ENTRY_POINTS = "bothworlds.commands"
"""Other packages add commands here: each entry is a typer application."""

INTERNAL_ERROR = 3
INTERRUPTED = 130

COMMANDS: tuple[Callable[..., None], ...] = (
    doctor.doctor,
    build.build,
    config.config,
    boot.boot,
    check.check,
    run.run,
    coverage.coverage,
    findings.show,
    findings.repro,
    findings.minimise,
    findings.export,
)


def application() -> typer.Typer:
    """The whole command line, with the commands of other packages."""
    app = typer.Typer(
        name="bothworlds",
        help="Boot seL4 patched for Arm TrustZone under QEMU, throw programs at it, judge what they leave behind.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_no_options)
    for command in COMMANDS:
        app.command()(command)
    for entry in plugins.entries(ENTRY_POINTS):
        try:
            addition = plugins.load(entry)
        except InputError as problem:  # a broken addition must not take the other commands with it
            warn(f"commands are missing: {problem}")
            continue
        app.add_typer(addition)
    return app


def _no_options() -> None:
    """Boot seL4 patched for Arm TrustZone under QEMU, throw programs at it, judge what they leave behind."""


def _end_on_signal(number: int, _frame: FrameType | None) -> NoReturn:
    # As an exception, so that every context manager on the way out ends its QEMU.
    sys.exit(128 + number)


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; errors have been printed."""
    try:
        typer.main.get_command(application()).main(
            args=None if arguments is None else list(arguments), prog_name="bothworlds"
        )
    except SystemExit as end:
        if end.code == INTERRUPTED:
            errors.print("interrupted")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        errors.print("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
    except BothworldsError as problem:
        fail(str(problem))
        return problem.exit_code
    except Exception as problem:
        fail(f"a defect of bothworlds itself: {type(problem).__name__}: {problem}")
        errors.print(f"the traceback is in {_save_traceback()}; please report it with what you ran", soft_wrap=True)
        return INTERNAL_ERROR
    return 0


def _save_traceback() -> Path:
    """Write the traceback of the current exception to a file of its own."""
    name = time.strftime("bothworlds-error-%Y%m%d-%H%M%S-")
    handle, path = tempfile.mkstemp(prefix=name, suffix=".txt")
    with os.fdopen(handle, "w") as file:
        file.write(f"{' '.join(sys.argv)}\n\n{traceback.format_exc()}")
    return Path(path)


def main() -> NoReturn:
    """Entry point of the `bothworlds` program."""
    signal.signal(signal.SIGINT, _on_interrupt)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` arranges it
            signal.signal(number, _end_on_signal)
    sys.exit(execute())


if __name__ == "__main__":
    main()
