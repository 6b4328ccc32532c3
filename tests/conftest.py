# SPDX-License-Identifier: BSD-2-Clause
"""Fixtures that tests share: one build and one parked machine for the whole run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from harness.configs import MachineConfig, load_config

if TYPE_CHECKING:
    from harness.build.artefacts import Artefacts
    from harness.execution.executor import Executor

# The same examples on every run of the tests: a failure is never lost, and a green run stays green.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("exploring", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# Shells start what they run in the background with SIGINT ignored, and every process below inherits that: tests that
# interrupt one would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that no core has to wait for it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def config() -> MachineConfig:
    """The machine config that comes with the project."""
    return load_config()


@pytest.fixture(scope="session")
def artefacts(config: MachineConfig) -> Artefacts:
    """The debug build of the default config."""
    from harness.build.system import build

    return build(config)


@pytest.fixture(scope="session")
def release_artefacts(config: MachineConfig) -> Artefacts:
    """The release build of the default config."""
    from harness.build.system import build

    return build(config, release=True)


@pytest.fixture(scope="session")
def shared_executor(artefacts: Artefacts) -> Iterator[Executor]:
    """One parked machine for all tests; ask for `executor` instead, which mends it if a test broke it."""
    from harness.execution.executor import Executor

    with Executor(artefacts) as machine:
        yield machine


@pytest.fixture
def executor(shared_executor: Executor) -> Executor:
    """The shared parked machine. Each `run` starts from the snapshot, so tests do not see each other."""
    return shared_executor
