# SPDX-License-Identifier: BSD-2-Clause
"""Generated headers: the same bytes whether the generators run or have run before, and never older ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.build import kernel_headers
from harness.build.kernel import KernelBuild, build_kernel, header_inputs, platform_regions
from harness.build.kernel_headers import write_headers
from harness.build.kernel_tools import run_tool
from harness.configs import MachineConfig
from harness.errors import BuildFailure

CNODE = "source/src/object/cnode.c"
BODY = "slot->cap = cap_null_cap_new();"
UNUSED = "cap_endpoint_cap_ptr_get_capCanSend"
ACCESSORS = "arch/object/structures_gen.h"


@pytest.fixture(scope="module")
def kernel(config: MachineConfig) -> KernelBuild:
    return build_kernel(config)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the generators that ran since the list was cleared."""
    ran: list[str] = []

    def noted(directory: Path, command: list[str]) -> None:
        ran.extend(Path(argument).name for argument in command[1:2] if argument.endswith(".py"))
        run_tool(directory, command)

    monkeypatch.setattr(kernel_headers, "run_tool", noted)
    return ran


def generated(
    kernel: KernelBuild, config: MachineConfig, directory: Path, change: Callable[[Path], None]
) -> dict[str, bytes]:
    """Content of the headers for a source tree with a change, by name."""
    for top in ("src", "include", "tools", "libsel4"):
        shutil.copytree(kernel.source / top, directory / "source" / top)
    change(directory)
    write_headers(directory, header_inputs(kernel.options, platform_regions(config), release=kernel.release))
    made = directory / "generated"
    return {str(path.relative_to(made)): path.read_bytes() for path in made.rglob("*") if path.is_file()}


def append(text: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        with (directory / CNODE).open("a") as file:
            file.write(text)

    return change


def test_generators_run_when_what_they_read_has_changed(
    kernel: KernelBuild, config: MachineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: list[str]
) -> None:
    monkeypatch.setenv("BOTHWORLDS_CACHE", str(tmp_path / "first"))
    original = generated(kernel, config, tmp_path / "original", append(""))
    assert original == {
        str(path.relative_to(kernel.generated)): path.read_bytes()
        for path in kernel.generated.rglob("*")
        if path.is_file()
    }
    assert len(programs) == 7

    programs.clear()
    body = append(f"static inline void another(cte_t *slot)\n{{\n    {BODY}\n}}\n")
    changed = generated(kernel, config, tmp_path / "changed", body)
    assert programs == [], "no generator runs for the body of a function"
    monkeypatch.setenv("BOTHWORLDS_CACHE", str(tmp_path / "second"))
    assert changed == generated(kernel, config, tmp_path / "changed again", body)
    assert len(programs) == 7

    programs.clear()
    assert UNUSED.encode() not in original[ACCESSORS]
    used = generated(kernel, config, tmp_path / "used", append(f"/* {UNUSED} */\n"))
    assert UNUSED.encode() in used[ACCESSORS]
    assert len(programs) == 7


def test_a_tree_without_an_interface(kernel: KernelBuild, config: MachineConfig, tmp_path: Path) -> None:
    def change(directory: Path) -> None:
        (directory / "source/include/api/syscall.xml").unlink()

    with pytest.raises(BuildFailure, match=r"the source tree has no include/api/syscall\.xml"):
        generated(kernel, config, tmp_path, change)
