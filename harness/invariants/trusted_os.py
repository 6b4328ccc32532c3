# SPDX-License-Identifier: BSD-2-Clause
"""trusted_os_has_not_faulted: whatever the normal world asks for, the threads that answer it go on.

A thread of the trusted OS that faults is blocked for ever at an endpoint that nobody receives from; the normal world's
call never returns, which a program that goes on without it would hardly show.
"""

from __future__ import annotations

import numpy as np

from harness.invariants.definitions import Context, Judgement, invariant
from harness.invariants.two_worlds import FAMILY, REFERENCE
from harness.kernel_state.memory import Ram
from harness.kernel_state.state import KernelState
from harness.programs.interfaces import Interface
from harness.programs.population import read_report
from harness.protocol import PAGE, TRUSTED_OS, PopulationKind


class TrustedOsThreads:
    """Where the threads of the trusted OS lie in the snapshot; its dispatcher comes first.

    Raises MachineError if the snapshot's population report is not usable.
    """

    def __init__(self, snapshot: KernelState, interface: Interface) -> None:
        page = snapshot.memory.read(snapshot.config.exchange.base, PAGE)
        layout = self._layout = snapshot.layout
        self.addresses = [
            entry.address
            for entry in read_report(page, interface.population)
            if entry.victim == TRUSTED_OS and entry.kind is PopulationKind.TCB
        ]
        self._faults = layout.union("seL4_Fault")
        tcb = layout.struct("tcb")
        self._kinds = self._place(snapshot.ram, tcb["tcbFault"].offset + 8 * self._faults.tag.word)
        self._counters = self._place(snapshot.ram, tcb["tcbArch"].offset + 8 * layout.constant("FaultInstruction"))

    def _place(self, ram: Ram, offset: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Numbers of the words that lie there in each tcb_t."""
        offset += self._layout.tcb_offset - ram.base
        return np.array([(address + offset) // 8 for address in self.addresses], np.int64)

    def clean(self, ram: Ram) -> bool:
        """Whether none has faulted."""
        return not self._faults.tag.of_word(ram.words[self._kinds]).any()

    def judge(self, state: KernelState, judgement: Judgement) -> None:
        """Add each thread that has faulted."""
        judgement.judged += len(self.addresses)
        kinds = self._faults.tag.of_word(state.ram.words[self._kinds])
        for index in np.flatnonzero(kinds).tolist():
            kind = self._faults.blocks.get(int(kinds[index]), f"fault {kinds[index]}")
            first = self._kinds[index]
            judgement.fail(
                f"the trusted OS's {f'thread {index - 1}' if index else 'dispatcher'} has faulted: {kind}",
                kind,
                tcb=hex(self.addresses[index] + self._layout.tcb_offset),
                instruction_virtual=hex(int(state.ram.words[self._counters[index]])),
                fault_words=[hex(int(word)) for word in state.ram.words[first : first + 2]],
            )


@invariant("trusted_os_has_not_faulted", family=FAMILY, reference=REFERENCE)
def trusted_os_has_not_faulted(context: Context) -> Judgement:
    """No thread of the trusted OS has faulted."""
    judgement = Judgement()
    if context.trusted_os is not None:
        context.trusted_os.judge(context.state, judgement)
    return judgement
