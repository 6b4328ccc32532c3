# SPDX-License-Identifier: BSD-2-Clause
"""Fixtures of the tests that start QEMU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.build.artefacts import Artefacts
from harness.configs import MachineConfig, load_config
from harness.execution.executor import Executor
from tests.system.toy import TOY_RANGES, build_toy


@pytest.fixture(scope="session")
def toy(config: MachineConfig, tmp_path_factory: pytest.TempPathFactory) -> Artefacts:
    """The machine without a kernel."""
    return build_toy(config, tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def shared_toy_executor(toy: Artefacts) -> Iterator[Executor]:
    """One parked toy; ask for `toy_executor`."""
    with Executor(toy, ranges=TOY_RANGES) as executor:
        yield executor


@pytest.fixture
def toy_executor(shared_toy_executor: Executor) -> Iterator[Executor]:
    """A parked toy whose memory equals its snapshot."""
    executor = shared_toy_executor
    yield executor
    executor.control.set_omit_page(0)
    if executor.audit():
        executor.replace()


@pytest.fixture(scope="session")
def two_worlds() -> Artefacts:
    """The debug build of the config with a normal world and a trusted OS."""
    from harness.build.system import build

    return build(load_config("trusted-os"))


@pytest.fixture(scope="session")
def two_worlds_executor(two_worlds: Artefacts) -> Iterator[Executor]:
    """One parked machine with a normal world. Each `run` starts from the snapshot."""
    with Executor(two_worlds) as executor:
        yield executor


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the files of a test."""
    return tmp_path_factory.mktemp("scratch")
