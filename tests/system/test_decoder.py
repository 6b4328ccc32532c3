# SPDX-License-Identifier: BSD-2-Clause
"""The guest's decoder and Python's agree."""

from __future__ import annotations

import random

import numpy as np

from harness import protocol
from harness.execution.executor import Executor
from harness.programs.encodings import Decoder
from harness.programs.interfaces import Interface
from harness.programs.program import canonical
from harness.protocol import CALL_BYTES, MAXIMUM_CALLS, Command

DECODE = Command.DECODE_ONLY | Command.RESTORE_REGISTERS | Command.INVALIDATE_TLB
STRINGS = 10_000


def guest_decodes(executor: Executor, program: bytes) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    observation = executor.run(program, command=DECODE)
    assert observation.status == "done"
    calls = min(len(program) // CALL_BYTES, MAXIMUM_CALLS)
    data = executor.memory.read(
        executor.config.exchange.base + protocol.EXCHANGE_DECODED, calls * protocol.DECODED.itemsize
    )
    return np.frombuffer(data, protocol.DECODED)


def test_random_strings_decode_alike(executor: Executor) -> None:
    interface = Interface.load(executor.artefacts)
    decoder = Decoder(interface)
    generator = random.Random(1)
    longest = generator.randbytes(MAXIMUM_CALLS * CALL_BYTES)
    programs = [b"", bytes(31), longest]
    programs += [generator.randbytes(generator.randrange(12 * CALL_BYTES)) for _ in range(STRINGS - len(programs))]
    for program in programs:
        np.testing.assert_array_equal(guest_decodes(executor, program), decoder.decode_table(program), str(program))
        assert not executor.all_results["state"][: len(program) // CALL_BYTES].any()


def test_canonical_programs_have_the_same_results(executor: Executor) -> None:
    interface = Interface.load(executor.artefacts)
    generator = random.Random(2)
    for _ in range(300):
        program = generator.randbytes(6 * CALL_BYTES)
        first = executor.run(program)
        status, results = first.status, first.results.copy()
        second = executor.run(canonical(program, interface))
        assert second.status == status
        np.testing.assert_array_equal(second.results, results)
