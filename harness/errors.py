# SPDX-License-Identifier: BSD-2-Clause
"""Every error that a user can meet, and the exit code that each one means.

::

    BothworldsError
    ├── InputError                 exit 2: something the user gave is wrong
    │   ├── ConfigError            a machine config: file, line, field
    │   ├── ProgramError           a program file or program bytes
    │   ├── FindingError           a finding's directory: truncated, random, of another build
    │   ├── PatchError             a kernel patch that does not apply
    │   ├── PlanError              a plan of a night: file, line, field
    │   └── ImageError             a memory image or ELF file that cannot be read
    └── EnvironmentFailure         exit 3: the machine around us failed, nothing was judged
        ├── MissingPackage         a program or library that is not installed
        ├── BuildFailure           a compiler or generator stopped
        ├── OutputError            a directory that cannot be written
        └── MachineError           QEMU
            ├── LaunchFailure      it did not start: exit code, command line, output
            ├── StageTimeout       a boot stage missed its deadline: stage, console, stderr
            └── MachineLost        it ended, or stopped answering, while in use

A message names the file, line or field and the next action; the command line prints it
without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class BothworldsError(Exception):
    """Base of all errors that are shown to a user as one message."""

    exit_code = 3


class InputError(BothworldsError):
    """Something that the user gave cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """A machine config that cannot be used; the message names file, line and field."""


class ProgramError(InputError):
    """A program that cannot be read or encoded."""


class FindingError(InputError):
    """A finding's directory that is incomplete, damaged or of another build."""


class PatchError(InputError):
    """A kernel patch that does not apply."""


class PlanError(InputError):
    """A plan of a night that cannot be used; the message names file, line and field."""


class ImageError(InputError):
    """A memory image or ELF file whose content cannot be interpreted."""


class EnvironmentFailure(BothworldsError):
    """The environment failed; this says nothing about the software under test."""

    exit_code = 3


class MissingPackage(EnvironmentFailure):
    """A program or library is missing.

    `name` is what was looked for; `install` the command that installs it.
    """

    def __init__(self, name: str, install: str, why: str = "") -> None:
        self.name = name
        self.install = install
        because = f" ({why})" if why else ""
        super().__init__(f"{name} is not installed{because}: run '{install}'")


class BuildFailure(EnvironmentFailure):
    """A tool of the build stopped with an error; the message carries its output."""


class OutputError(EnvironmentFailure):
    """A directory or file that cannot be written."""


class MachineError(EnvironmentFailure):
    """QEMU failed."""


class LaunchFailure(MachineError):
    """QEMU did not start."""

    def __init__(self, reason: str, command: Sequence[str], exit_code: int | None, output: str) -> None:
        self.command = list(command)
        self.qemu_exit_code = exit_code
        self.output = output
        super().__init__(
            f"{reason}\n  exit code: {exit_code}\n  command: {' '.join(command)}\n"
            f"  output: {output.strip() or '(none)'}"
        )


class StageTimeout(MachineError):
    """A boot stage did not finish within its deadline."""

    def __init__(self, stage: str, seconds: float, console: str, output: str) -> None:
        self.stage = stage
        self.console = console
        self.output = output
        super().__init__(
            f"boot stage '{stage}' did not finish within {seconds:g} s\n"
            f"  console: {console.strip() or '(empty)'}\n  QEMU's output: {output.strip() or '(none)'}"
        )


class MachineLost(MachineError):
    """QEMU ended or stopped answering while it was in use."""

    def __init__(self, reason: str, exit_code: int | None = None, console: str = "", output: str = "") -> None:
        self.qemu_exit_code = exit_code
        self.console = console
        self.output = output
        super().__init__(
            f"{reason}"
            + (f" (exit code {exit_code})" if exit_code is not None else "")
            + f"\n  console: {console.strip()[-800:] or '(empty)'}"
            + f"\n  QEMU's output: {output.strip()[-800:] or '(none)'}"
        )
