# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's state as trees of text: untyped memory, capability spaces, address spaces, threads."""

from __future__ import annotations

from collections.abc import Callable

from harness.kernel_state.state import KernelState
from harness.view.cspaces import cspaces
from harness.view.names import Names
from harness.view.nodes import Node
from harness.view.threads import threads
from harness.view.untypeds import untypeds
from harness.view.vspaces import vspaces

_VIEWS: dict[str, Callable[[KernelState, Names], Node]] = {
    "untypeds": untypeds,
    "cspaces": cspaces,
    "vspaces": vspaces,
    "threads": threads,
}
VIEWS = tuple(_VIEWS)
"""Names of the views."""


def tree(state: KernelState, view: str, names: Names | None = None) -> Node:
    """One view of a state. Memory may hold anything: a view has at most `nodes.MAXIMUM_NODES` lines."""
    return _VIEWS[view](state, Names.of(state) if names is None else names)


def render(state: KernelState, view: str, depth: int | None = None) -> str:
    """One view as indented text, `depth` levels of it (all by default)."""
    return "\n".join(tree(state, view).lines(depth))
