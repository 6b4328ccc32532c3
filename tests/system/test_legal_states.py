# SPDX-License-Identifier: BSD-2-Clause
"""Odd states that are legal: no invariant may take them for a violation."""

from __future__ import annotations

import pytest

from harness.execution.executor import Executor
from harness.findings.judge import Judge
from harness.programs.interfaces import Interface
from harness.programs.program import Program

CNODE = "call: Untyped_Retype, target: arena"
PROGRAMS = {
    # The inner CNodes become zombies that only they themselves hold.
    "a CNode that holds CNodes is deleted": f"""
- {{{CNODE}, with: {{type: cnode, size_bits: 12, node_offset: 0}}}}
- {{{CNODE}, with: {{type: cnode, size_bits: 2, root: cnode, node_depth: 64, node_offset: 0, num_objects: 2}}}}
- {{call: CNode_Delete, target: cnode, with: {{index: 0, depth: 64}}}}
""",
    "and another one takes its slot": f"""
- {{{CNODE}, with: {{type: cnode, size_bits: 5, node_offset: 0}}}}
- {{{CNODE}, with: {{type: cnode, size_bits: 9, root: 0, node_offset: 0}}}}
- {{call: CNode_Delete, target: cnode, with: {{index: 0, depth: 64}}}}
- {{{CNODE}, with: {{type: cnode, size_bits: 5, node_offset: 0}}}}
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_is_not_taken_for_a_violation(name: str, executor: Executor) -> None:
    interface = Interface.load(executor.artefacts)
    verdict = Judge.of(executor).judge(Program.from_yaml(f"calls:{PROGRAMS[name]}", interface).to_bytes())
    assert verdict.symptoms == ()
    results = verdict.observation.results
    assert not results["error"].any(), "the state is reached"
