# SPDX-License-Identifier: BSD-2-Clause
"""normal_answers: EL3 and the Trusted OS answer the normal world as the specification says, and write nothing else."""

from __future__ import annotations

from typing import Any

from harness.errors import BothworldsError
from harness.invariants.definitions import Context, Judgement, invariant
from harness.invariants.two_worlds import FAMILY
from harness.kernel_state.memory import MemoryImage
from harness.specification.normal_world.oracle import NormalOracle

ID = "normal_answers"


def judge(oracle: NormalOracle, memory: MemoryImage, observation: Any) -> Judgement:
    """Judge one program."""
    judgement = Judgement()
    try:
        comparison = oracle.compare(memory, observation)
    except BothworldsError:
        # The results are gone with the next program, or the memory is not there.
        return judgement
    judgement.judged = comparison.judged
    for difference in comparison.wrong:
        judgement.fail(difference.message, difference.label, **difference.evidence)
    return judgement


@invariant(ID, family=FAMILY, reference="docs/specification.md")
def normal_answers(context: Context) -> Judgement:
    """Each call of the normal world is answered as its interface says, and writes only to the caller's own buffers."""
    if context.normal is None or context.observation is None:
        return Judgement()
    return judge(context.normal, context.state.memory, context.observation)
