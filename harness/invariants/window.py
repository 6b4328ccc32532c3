# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's own translation tables: as no running kernel changes them, the snapshot's judgement of them stands."""

from __future__ import annotations

import numpy as np

from harness.invariants.definitions import Context, WindowFacts
from harness.kernel_state.memory import Words
from harness.kernel_state.state import KernelState

TABLES = ("armKSGlobalKernelPGD", "armKSGlobalKernelPUD", "armKSGlobalKernelPDs", "armKSGlobalKernelPT")
_MEMO = "known window"


def table_words(state: KernelState) -> list[Words]:
    """The words of each of the tables that this kernel has."""
    return [state.global_words(name) for name in TABLES if name in state.layout.types.variables]


def known_window(context: Context) -> WindowFacts | None:
    """What is known of the window, if its tables are those of the snapshot; None otherwise."""
    known = context.facts.window
    if known is None or context.state.kernel_root != context.facts.kernel_root:
        return None
    if _MEMO not in context.memo:
        parts = zip(table_words(context.state), known.words, strict=True)
        context.memo[_MEMO] = all(np.array_equal(now, before) for now, before in parts)
    return known if context.memo[_MEMO] else None
