# SPDX-License-Identifier: BSD-2-Clause
"""Counters outside the process guide the libFuzzer inside Atheris."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fuzz import libfuzzer

PROJECT = Path(__file__).resolve().parents[2]

TARGET = """
import mmap, os, sys
import atheris, numpy
from fuzz import libfuzzer

guided, mutator = sys.argv[1] == "guided", sys.argv[2] == "typed"
memory = mmap.mmap(-1, 4096)
counters = numpy.frombuffer(memory, dtype=numpy.uint8)
executions = mutations = 0
registration = None

def mutate(data, maximum, seed):
    global mutations
    mutations += 1
    return atheris.Mutate(data, maximum)

def execute(data):
    global executions, registration
    if registration is None:
        registration = libfuzzer.register(counters, range(0x1000, 0x1000 + 4 * len(counters), 4))
    executions += 1
    if executions > 400000:
        print("executions", executions, "mutations", mutations, "not found", flush=True)
        os._exit(0)
    if guided:
        counters[0] = 1
    for index, wanted in enumerate(b"two"):
        if index >= len(data) or data[index] != wanted:
            return
        if guided:
            counters[8 * index + 8] = 1
    print("executions", executions, "mutations", mutations, "found", flush=True)
    os._exit(0)

line = libfuzzer.arguments(seed=1, maximum_bytes=4, artefact_prefix="/tmp/")
keywords = {"custom_mutator": mutate} if mutator else {}
atheris.Setup(["target", *line], execute, **keywords)
atheris.Fuzz()
"""


def run_target(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TARGET, *options], capture_output=True, text=True, timeout=60, cwd=PROJECT, check=False
    )
    return done.stdout


@pytest.mark.parametrize("mutator", ["native", "typed"])
def test_external_counters_guide_the_search(mutator: str) -> None:
    output = run_target("guided", mutator)
    assert output.endswith(" found\n") and "not found" not in output
    if mutator == "typed":
        assert "mutations 0 " not in output


def test_nothing_is_found_without_counters() -> None:
    output = run_target("unguided", "native")
    assert "not found" in output or output == ""  # libFuzzer gives up when nothing is covered at all


def test_an_execution_may_take_longer_than_a_second() -> None:
    """Filing a finding does; libFuzzer must not end the process meanwhile."""
    slow = TARGET.replace("    executions += 1\n", "    executions += 1\n    if executions == 9: time.sleep(2.5)\n")
    slow = slow.replace("import mmap", "import time, mmap").replace("400000", "2000")
    assert "sleep" in slow
    done = subprocess.run(
        [sys.executable, "-c", slow, "guided", "typed"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=PROJECT,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith("executions"), done.stdout + done.stderr


def test_counters_and_addresses_must_match() -> None:
    with pytest.raises(ValueError, match="3 counters for 2 addresses"):
        libfuzzer.register(np.zeros(3, np.uint8), [1, 2])
    with pytest.raises(ValueError, match="contiguous"):
        libfuzzer.register(np.zeros(8, np.uint8)[::2], [1, 2, 3, 4])


def test_libfuzzer_gets_no_directory_to_write_to() -> None:
    line = libfuzzer.arguments(seed=0, maximum_bytes=512, artefact_prefix="x/")
    assert "-seed=1" in line and "-entropic=0" in line and all(option.startswith("-") for option in line)
