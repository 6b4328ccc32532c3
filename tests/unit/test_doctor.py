# SPDX-License-Identifier: BSD-2-Clause
"""What is missing is named, with the command that installs it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import cli, doctor
from harness.build.cache import CONTENTS, publish
from harness.configs import MachineConfig
from harness.errors import MissingPackage
from harness.packages import install_command, packages, tool


def script(directory: Path, name: str, body: str) -> None:
    """A program that stands in for another one."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache: nobody's builds are examined, and none removed."""
    monkeypatch.setenv("BOTHWORLDS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def only_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory as the whole PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def need(needs: list[doctor.Need], name: str) -> doctor.Need:
    """The need of that name."""
    return next(item for item in needs if item.name == name)


def test_the_list_is_complete() -> None:
    assert {"qemu-system-arm", "gcc-aarch64-linux-gnu", "gdb-multiarch", "bubblewrap", "cargo"} <= {
        package.name for package in packages()
    }
    assert all(package.purpose for package in packages())


def test_every_missing_program_is_named_with_its_package(config: MachineConfig, only_path: Path) -> None:
    needs = doctor.examine(config)
    for package in packages():
        if package.command:
            missing = need(needs, package.command)
            assert not missing.good
            assert f"apt-get install {package.name}" in missing.remedy


def test_doctor_exits_with_3_and_says_how_to_go_on(only_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["doctor"]) == 3
    assert f"gdb-multiarch: {install_command('gdb-multiarch')}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "good"), [("6.2.0", False), ("7.1.99", False), ("7.2.0", True), ("7.10.1", True), ("10.0.2", True)]
)
def test_an_old_qemu_is_refused(config: MachineConfig, only_path: Path, version: str, good: bool) -> None:
    script(only_path, "qemu-system-aarch64", f"echo 'QEMU emulator version {version}'")
    found = need(doctor.examine(config), "qemu-system-aarch64")
    assert found.good is good
    assert version in found.state
    assert good or "needs 7.2 or newer" in found.remedy


def test_a_program_that_does_not_run_is_not_there(config: MachineConfig, only_path: Path) -> None:
    script(only_path, "gdb-multiarch", "echo 'cannot open shared object file' >&2; exit 127")
    found = need(doctor.examine(config), "gdb-multiarch")
    assert not found.good
    assert "cannot open shared object file" in found.state


def test_a_tool_that_is_missing_names_its_package(only_path: Path) -> None:
    with pytest.raises(MissingPackage, match=r"aarch64-linux-gnu-as is not installed .*gcc-aarch64-linux-gnu'"):
        tool("aarch64-linux-gnu-as")
    with pytest.raises(MissingPackage, match=r"apt-get install qemu-system-arm'"):
        tool("qemu-system-aarch64")


def test_a_tool_that_is_there_is_found(only_path: Path) -> None:
    script(only_path, "patch", "true")
    assert tool("patch") == str(only_path / "patch")


def test_a_cache_that_cannot_be_written(config: MachineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    monkeypatch.setenv("BOTHWORLDS_CACHE", str(occupied / "cache"))
    found = need(doctor.examine(config), "cache")
    assert not found.good
    assert "BOTHWORLDS_CACHE" in found.remedy


SETUP = Path(doctor.__file__).with_name("setup.sh")


def run_setup(directory: Path, path: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the set-up with nothing but `path` to find programs in; `before` is a command that starts it."""
    (directory / "harness").mkdir(exist_ok=True)
    for name in ("setup.sh", "packages.txt"):
        (directory / "harness" / name).write_bytes((SETUP.parent / name).read_bytes())
    return subprocess.run(
        [*before, "/bin/bash", str(directory / "harness" / "setup.sh")],
        env={"PATH": str(path), "HOME": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def stand_ins(directory: Path, apt_fails: bool) -> Path:
    """A PATH with the few real programs that the set-up itself needs, and an apt-get that only writes down."""
    path = directory / "only"
    path.mkdir()
    for name in ("dirname", "env", "id", "stat"):
        os.symlink(f"/usr/bin/{name}", path / name)
    script(path, "apt-get", f'echo "apt-get $*" >> "{directory}/log"; exit {int(apt_fails)}')
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="as root the set-up installs packages by itself")
def test_setup_installs_only_what_is_missing(tmp_path: Path) -> None:
    path = stand_ins(tmp_path, apt_fails=True)
    for name in ("gcc", "gdb-multiarch", "bwrap", "cargo", "git", "make", "patch"):
        script(path, name, "true")
    done = run_setup(tmp_path, path)
    assert done.returncode == 3
    assert "the Debian packages could not be installed" in done.stderr
    installed = (tmp_path / "log").read_text().splitlines()[-1]
    assert installed.split()[:3] == ["apt-get", "install", "-y"]
    assert "qemu-system-arm" in installed and "gcc-aarch64-linux-gnu" in installed
    assert "gdb-multiarch" not in installed and "cargo" not in installed


def test_setup_without_apt_names_what_is_missing(tmp_path: Path) -> None:
    path = stand_ins(tmp_path, apt_fails=False)
    (path / "apt-get").unlink()
    done = run_setup(tmp_path, path)
    assert done.returncode == 3
    assert "missing:" in done.stderr and "qemu-system-arm" in done.stderr and "cargo" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_setup_in_a_checkout_of_somebody_else(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory == Path(tempfile.gettempdir()):
            break
        directory.chmod(0o755)  # pytest made it for its user alone
    path = stand_ins(tmp_path, apt_fails=False)
    done = run_setup(tmp_path, path, "/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert done.returncode == 3
    assert "belongs to 'root' and 'nobody' cannot change it" in done.stderr
    assert "clone the repository into a directory of your own" in done.stderr
    assert not (tmp_path / "log").exists(), "nothing is installed before"


# -- the cache


@pytest.fixture
def thing() -> Path:
    """A directory of the cache."""

    def fill(directory: Path) -> None:
        (directory / "made.elf").write_bytes(b"content")
        (directory / "inside").mkdir()
        (directory / "inside" / "header.h").write_text("#define A 1\n")

    return publish("thing", fill)


def _never(_: Path) -> None:
    raise AssertionError("it was whole")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:3]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["made.elf", "inside/header.h", CONTENTS])
def test_a_damaged_build_is_made_again(thing: Path, name: str, damage: str) -> None:
    assert publish("thing", _never) == thing
    DAMAGE[damage](thing / name)
    if (name, damage) == (CONTENTS, "gone"):
        # As older versions left it: it gets a list.
        assert publish("thing", _never) == thing
        assert (thing / CONTENTS).exists()
        return

    def again(directory: Path) -> None:
        (directory / "made.elf").write_bytes(b"again")

    publish("thing", again)
    assert (thing / "made.elf").read_bytes() == b"again"
    assert [path.name for path in thing.parent.iterdir()] == ["thing"]


def test_doctor_names_damaged_builds_and_mends_them(
    thing: Path, config: MachineConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    abandoned = thing.parent / ".kernel-abcd"
    abandoned.mkdir()
    os.utime(abandoned, (0, 0))
    assert "left behind" in need(doctor.examine(config), "builds").state
    # A flipped bit deep inside is found when everything is compared.
    (thing / "inside" / "header.h").write_text("#define A 2\n")
    assert "thing" not in need(doctor.examine(config), "builds").state
    found = need(doctor.examine(config, thorough=True), "builds")
    assert "thing: inside/header.h has changed" in found.state
    assert "doctor --mend" in found.remedy
    cli.execute(["doctor", "--mend"])
    assert "removed 2 directories" in capsys.readouterr().out
    assert list(thing.parent.iterdir()) == []


def test_missing_python_packages_are_installed(
    config: MachineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = tmp_path / "installed"
    monkeypatch.setattr(doctor, "_INSTALL", ["sh", "-c", f"touch {installed}"])
    lock = tmp_path / "requirements.lock"
    lock.write_text("no-such-package==1.0\n")
    monkeypatch.setattr(doctor, "LOCK", lock)
    found = need(doctor.examine(config), "python packages")
    assert "no-such-package is missing" in found.state
    assert "doctor --mend" in found.remedy
    assert found.mend is not None
    found.mend()
    assert installed.exists()
    monkeypatch.setattr(doctor, "_INSTALL", ["sh", "-c", "echo no network; exit 1"])
    assert cli.execute(["doctor", "--mend"]) == 3
    assert "no network" in capsys.readouterr().err
