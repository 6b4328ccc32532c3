# SPDX-License-Identifier: BSD-2-Clause
"""The plugin compiles for each version of QEMU's interface, and only once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness import protocol
from harness.build import plugin
from harness.errors import BuildFailure, MissingPackage, OutputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOTHWORLDS_CACHE", str(tmp_path / "cache with spaces"))
    return tmp_path


@pytest.mark.parametrize(("version", "api"), [((7, 2, 22), 1), ((8, 2), 1), ((9, 0), 2), ((10, 0, 2), 2)])
def test_interface_version(version: tuple[int, ...], api: int) -> None:
    assert plugin.plugin_api(version) == api


@pytest.mark.parametrize("version", [(7, 2), (10, 0)])
def test_builds_once(version: tuple[int, ...]) -> None:
    path = plugin.build_plugin(version)
    content = path.read_bytes()
    stamp = path.stat().st_mtime_ns
    assert plugin.build_plugin(version) == path
    assert path.stat().st_mtime_ns == stamp
    path.unlink()
    assert plugin.build_plugin(version).read_bytes() == content


def test_no_warning(tmp_path: Path) -> None:
    (tmp_path / "protocol.h").write_text(protocol.header())
    for api in (1, 2):
        command = ["gcc", "-std=gnu11", "-O3", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-DPLUGIN_API={api}"]
        subprocess.run([*command, f"-I{tmp_path}", *map(str, plugin.SOURCES.glob("*.c"))], check=True)


def test_compiler_error_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bothworlds.c").write_text("int broken(\n")
    monkeypatch.setattr(plugin, "SOURCES", tmp_path)
    with pytest.raises(BuildFailure, match=r"bothworlds\.c"):
        plugin.build_plugin((7, 2))


def test_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingPackage, match="apt-get install"):
        plugin.build_plugin((7, 2))


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BOTHWORLDS_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cache"):
        plugin.build_plugin((7, 2))
