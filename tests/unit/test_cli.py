# SPDX-License-Identifier: BSD-2-Clause
"""The command line: every error is one message and the exit code that its class promises."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import NoReturn

import pytest
import typer

from harness import cli, plugins
from harness.build.artefacts import PROJECT
from harness.commands.output import command_line, table
from harness.errors import (
    BothworldsError,
    BuildFailure,
    ConfigError,
    FindingError,
    InputError,
    LaunchFailure,
    MachineLost,
    MissingPackage,
    OutputError,
    PatchError,
    ProgramError,
    StageTimeout,
)


@pytest.fixture(autouse=True)
def no_additions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the commands of `harness` itself."""
    monkeypatch.setattr(plugins, "entries", lambda group: [])


def raising(problem: BaseException) -> Callable[[], None]:
    """A command named `explode` that ends with this exception."""

    def explode() -> NoReturn:
        raise problem

    return explode


ERRORS: list[tuple[BothworldsError, int]] = [
    (InputError("--extra-patch x: there is no such file"), 2),
    (ConfigError("a.yaml:3: arena_bits: wrong"), 2),
    (ProgramError("p.yaml:1: wrong"), 2),
    (FindingError("finding.yaml: truncated"), 2),
    (PatchError("0001-x.patch does not apply"), 2),
    (MissingPackage("bwrap", "apt-get install bubblewrap"), 3),
    (BuildFailure("the compiler stopped"), 3),
    (OutputError("/nowhere: cannot be written"), 3),
    (LaunchFailure("QEMU did not start", ["qemu", "-M", "virt"], 1, "[bad] output"), 3),
    (StageTimeout("kernel", 10, "console text", ""), 3),
    (MachineLost("QEMU ended", -9), 3),
]


@pytest.mark.parametrize(("problem", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_each_error_is_one_message_and_its_exit_code(
    problem: BothworldsError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "COMMANDS", (raising(problem), raising(problem)))
    assert cli.execute(["explode"]) == code
    shown = capsys.readouterr()
    assert shown.err == f"error: {problem}\n"
    assert shown.out == ""


def test_a_defect_is_one_line_and_a_saved_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(cli, "COMMANDS", (raising(ZeroDivisionError("sum [of] parts")),))
    assert cli.execute(["explode"]) == cli.INTERNAL_ERROR
    shown = capsys.readouterr().err
    assert "ZeroDivisionError: sum [of] parts" in shown
    assert "Traceback" not in shown
    saved = re.search(r"the traceback is in (\S+\.txt)", shown)
    assert saved is not None
    assert "ZeroDivisionError" in Path(saved.group(1)).read_text()


def test_ctrl_c_is_no_error_of_ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "COMMANDS", (raising(KeyboardInterrupt()),))
    assert cli.execute(["explode"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


def test_exit_codes_of_commands_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "COMMANDS", (raising(typer.Exit(1)),))
    assert cli.execute(["explode"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bild"], "Did you mean 'build'?"),
        (["build", "--relase"], "No such option"),
        (["build", "spaning-el1"], "did you mean 'spanning-el1'?"),
        (["doctor", "/nowhere/x.yaml"], "no machine config '/nowhere/x.yaml'"),
        (["build", "--extra-patch", "/nowhere/x.patch"], "/nowhere/x.patch: there is no such file"),
    ],
)
def test_bad_command_lines(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(arguments) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert "Traceback" not in shown.err


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in cli.COMMANDS:
        assert cli.execute([command.__name__, "--help"]) == 0
        assert command.__doc__ is not None
        assert command.__doc__.split(".")[0].split(",")[0] in capsys.readouterr().out.replace("\n  ", " ")


def test_a_broken_addition_leaves_the_other_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("broken", "nowhere.commands:app", cli.ENTRY_POINTS)
    monkeypatch.setattr(plugins, "entries", lambda group: [broken])
    assert cli.execute(["build", "--help"]) == 0
    assert "warning: commands are missing: entry point 'broken'" in capsys.readouterr().err


def test_tables_in_a_pipe_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    table(("name", "what"), [("a", "x" * 300), ("longer", "[red]y")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["name    what", f"a       {'x' * 300}", "longer  [red]y"]


def bothworlds(*arguments: str) -> list[str]:
    """The command line of a new process."""
    return [sys.executable, "-m", "harness.cli", *arguments]


def test_the_program_as_users_start_it(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        bothworlds("--help"), capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    assert done.returncode == 0
    for name in ("doctor", "build", "boot", "check", "run", "repro", "minimise"):
        assert f"\n  {name} " in done.stdout


def test_a_reader_that_leaves_is_no_defect(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "BOTHWORLDS_CACHE": str(tmp_path)}
    shell = f"{sys.executable} -m harness.cli doctor | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment, timeout=60)
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_run_the_way_out(number: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from harness import cli\n"
        "def wait() -> None:\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "    finally:\n"
        "        print('cleaned up', flush=True)\n"
        "cli.COMMANDS = (wait, wait)\n"
        "sys.argv = ['bothworlds', 'wait']\n"
        "cli.main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert out == "cleaned up\n"
    assert process.returncode == 128 + number
    assert "Traceback" not in err


def test_command_lines_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "my clone" / ".venv" / "bin" / "bothworlds"
    program.parent.mkdir(parents=True)
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path / "my clone")
    monkeypatch.setattr(sys, "argv", [str(program), "fuzz"])
    assert command_line("repro", Path("a b")) == ".venv/bin/bothworlds repro 'a b'"
    monkeypatch.setattr(sys, "argv", [".venv/bin/bothworlds", "fuzz"])
    assert command_line("repro", "x") == ".venv/bin/bothworlds repro x"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(program), "fuzz"])
    assert command_line("repro", "x") == "'my clone/.venv/bin/bothworlds' repro x"
    monkeypatch.setenv("PATH", str(program.parent))
    assert command_line("repro", "x") == "bothworlds repro x"
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert command_line("repro", "x") == "bothworlds repro x"
