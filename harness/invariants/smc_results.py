# SPDX-License-Identifier: BSD-2-Clause
"""smc_results: whoever calls the secure monitor gets its answer, all of it and nothing else."""

from __future__ import annotations

from typing import Any

from harness import protocol
from harness.invariants.definitions import Context, Judgement, invariant
from harness.invariants.smc import SMC_REGISTERS, SmcAuthority
from harness.invariants.wrong_answers import FAMILY, judge_program
from harness.programs.encodings import records
from harness.protocol import CallState
from harness.specification.message_info import MESSAGE_REGISTERS

ID = "smc_results"
_DISTURBING = frozenset({"TCB_WriteRegisters", "TCB_CopyRegisters"})
"""After these a result may be another thread's."""


@invariant(ID, family=FAMILY, reference="docs/invariants.md")
def smc_results(context: Context) -> Judgement:
    """A Call of the secure monitor is answered with eight words, x0 to x7 as the monitor left them."""
    authority = context.smc
    return judge_program(context, lambda *told: compare(authority, *told)) if authority is not None else Judgement()


def compare(authority: SmcAuthority, program: bytes, observation: Any) -> Judgement:
    """Compare what a program's calls were answered with what EL3 logged.

    Raises a MachineError for an observation that is over.
    """
    judgement = Judgement()
    log, results = observation.smc_log, observation.results
    rows = records(program)
    if not len(log) and not any(authority.calls_monitor(row) for row in rows):
        return judgement
    names = [authority.interface.calls[row[0] % len(authority.interface.calls)].name for row in rows]
    if not _DISTURBING.isdisjoint(names):
        return judgement
    made = {int(entry["call"]) for entry in log}
    for index in authority.due(rows, results) if len(log) < protocol.SMC_LOG_ENTRIES else ():
        if index not in made:
            judgement.fail(f"call {index} succeeded and made no SMC", "smc", call=index)
    for entry in log:
        index = int(entry["call"])
        if index >= min(len(rows), len(results)) or not authority.returns_answer(rows, index):
            continue
        result = results[index]
        if int(result["state"]) != CallState.DONE:
            continue
        expected = entry["result"].tolist()  # what does not fit into registers goes through the buffer
        known = MESSAGE_REGISTERS if authority.buffer_unknown(rows, results, index) else SMC_REGISTERS
        found, length = result["mr"].tolist()[:known], int(result["info"])
        judgement.judged += 1
        if found != expected[:known] or length not in {known, SMC_REGISTERS} or int(result["badge"]):
            judgement.fail(
                f"call {index} was answered {_shown(found)} with message word {length:#x}; the secure monitor's answer "
                f"is {_shown(expected)}, {SMC_REGISTERS} words",
                "smc",
                call=index,
                found=[hex(word) for word in found],
                expected=[hex(word) for word in expected],
                info=hex(length),
            )
    return judgement


def _shown(words: list[int]) -> str:
    return " ".join(f"{word:#x}" for word in words)


assert SMC_REGISTERS <= protocol.RESULT_REGISTERS
