# SPDX-License-Identifier: BSD-2-Clause
"""How many instructions the kernel executed: exact, from the counts of its static basic blocks.

A block that is begun is executed to its end, since the kernel takes no exceptions of its own; so the sum of counts
times lengths is the number of instructions. Counts are bytes that saturate, which bounds the programs.
"""

from __future__ import annotations

import numpy as np

from harness.errors import MachineError
from harness.execution.executor import Executor
from harness.execution.observation import Outcome
from harness.protocol import CALL_BYTES

INSTRUCTION_BYTES = 4
_SATURATED = 255


def kernel_instructions(executor: Executor, program: bytes, *, stop_after: int = 0, restore: bool = True) -> int:
    """Instructions that the kernel executed for a program, or for its first `stop_after` calls.

    Without `restore` it begins where the last program ended. Raises MachineError if it does not come to its end, or
    runs a block so often that it is not counted.
    """
    observation = executor.run(program, stop_after=stop_after, restore=restore)
    if observation.status is not Outcome.DONE:
        raise MachineError(f"instructions are counted of programs that end, this one ended with '{observation.status}'")
    kernel = executor.blocks.of("kernel")
    counts = np.asarray(executor.coverage)[kernel].astype(np.int64)
    if counts.max(initial=0) >= _SATURATED:
        block = int(np.flatnonzero(kernel)[counts.argmax()])
        raise MachineError(f"{executor.blocks.describe(block)} runs {_SATURATED} times or more, which is not counted")
    return int((counts * executor.blocks.size[kernel].astype(np.int64)).sum()) // INSTRUCTION_BYTES


def last_call_instructions(executor: Executor, program: bytes) -> int:
    """Instructions of the kernel for the last of a program's calls, if one victim makes them all; else for all calls.

    Raises MachineError as `kernel_instructions` does.
    """
    before, last = program[:-CALL_BYTES], program[-CALL_BYTES:]
    victims = {program[start + 1] for start in range(0, len(program), CALL_BYTES)}
    if not before or len(victims) > 1:
        return kernel_instructions(executor, program)
    executor.run(before)
    return kernel_instructions(executor, last, restore=False)
