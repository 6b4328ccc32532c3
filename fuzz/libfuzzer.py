# SPDX-License-Identifier: BSD-2-Clause
"""Coverage counters that live outside this process, registered with the libFuzzer inside Atheris.

Atheris ships libFuzzer in an extension module of its own (`core_with_libfuzzer*.so`) and loads it
only when `atheris.Fuzz()` starts. Its custom mutators are weak symbols that bind at that moment, so
a process that loads the module earlier loses its mutators without a word: `register` must be called
from within the first call of the fuzz target.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import EnvironmentFailure, MissingPackage

MAXIMUM_COUNTERS = 1 << 18
"""libFuzzer numbers features modulo 2^21, eight to a counter: more counters would share numbers."""

NEVER = 1 << 30
"""Seconds. libFuzzer takes a limit of 0 as one second, not as none."""


NEW_INPUT = b"\tNEW "
"""In the line that libFuzzer prints for an input that reaches something new."""


@dataclass(frozen=True)
class Registration:
    """What libFuzzer refers to for the rest of the process: keep it alive."""

    counters: NDArray[np.uint8]
    table: NDArray[np.uint64]


def core_module() -> Path:
    """Find the extension module of Atheris that holds libFuzzer.

    Raises MissingPackage if Atheris is not installed, EnvironmentFailure if it has no such module.
    """
    specification = importlib.util.find_spec("atheris")
    if specification is None or specification.origin is None:
        raise MissingPackage("atheris", "make setup", "the fuzzer")
    directory = Path(specification.origin).parent
    for path in sorted(directory.glob("core_with_libfuzzer*.so")):
        return path
    raise EnvironmentFailure(f"{directory}: no core_with_libfuzzer module in this Atheris; run 'make setup' for 3.0")


def register(counters: NDArray[np.uint8], addresses: Sequence[int] | NDArray[np.uint64]) -> Registration:
    """Let libFuzzer read and clear `counters` around each execution.

    `counters`: writable, contiguous u8[n]; `addresses`: the code address of each, which libFuzzer
    shows and uses as identity. Call it within the first call of the fuzz target.
    """
    count = len(counters)
    if count != len(addresses) or not 0 < count <= MAXIMUM_COUNTERS:
        raise ValueError(f"{count} counters for {len(addresses)} addresses; 1 to {MAXIMUM_COUNTERS} can be registered")
    if counters.dtype != np.uint8 or not counters.flags.c_contiguous or not counters.flags.writeable:
        raise ValueError("the counters must be a writable, contiguous array of bytes")
    table = np.zeros((count, 2), dtype=np.uint64)  # libFuzzer's table: address, flags (bit 0: entry of a function)
    table[:, 0] = addresses
    library: Any = ctypes.PyDLL(str(core_module()))
    for name, array in (("8bit_counters", counters), ("pcs", table)):
        initialise = getattr(library, f"__sanitizer_cov_{name}_init")
        initialise.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        initialise.restype = None
        initialise(array.ctypes.data, array.ctypes.data + array.nbytes)
    return Registration(counters, table)


def arguments(*, seed: int, maximum_bytes: int, artefact_prefix: str) -> list[str]:
    """Compose the libFuzzer command line for a worker, without the program name.

    Time and number of executions are the worker's own business: it must not be ended from outside
    while it files a finding. So is the corpus: libFuzzer writes files that may be torn, and finds those
    of others by the time of day.
    """
    flags = {
        "seed": seed or 1,  # 0 would mean "choose one"
        "max_len": maximum_bytes,
        "len_control": 0,  # the mutators know how long a program may be
        "entropic": 0,  # many counters are hot in every execution, which starves the entropic schedule
        "reload": 0,
        "timeout": NEVER,  # the executor bounds a hang, and filing a finding may take a while
        "report_slow_units": NEVER,  # it would write them beside the log, and take a clock that jumps for a slow one
        "rss_limit_mb": 0,  # the guest's RAM is mapped here
        "malloc_limit_mb": 0,
        "detect_leaks": 0,
        "handle_int": 0,  # the campaign ends its workers, Ctrl-C included
        "handle_term": 0,
        "print_funcs": 0,
        "print_final_stats": 0,
        "verbosity": 1,  # a line for each new input, from which the worker knows it
        "artifact_prefix": artefact_prefix,
    }
    return [f"-{name}={value}" for name, value in flags.items()]
