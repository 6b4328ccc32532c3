# SPDX-License-Identifier: BSD-2-Clause
"""What calls say and what became of them, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from harness.configs import Level
from harness.programs.normal_registers import register_names
from harness.programs.program import Program
from harness.programs.yaml import format_call
from harness.protocol import CallState

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.kernel_state.layout import Layout

FAULTS = "seL4_Fault"
"""The tagged union of the kernel's bit-field files that numbers the faults."""
MARK = "->"
"""Stands in front of the call after which a finding shows."""
HEXADECIMAL_FROM = 0x1000
"""Numbers from here on are addresses or flags rather than counts, and read best in hexadecimal."""


def number(value: Any) -> str:
    """Addresses in hexadecimal, small numbers as they are."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= HEXADECIMAL_FROM:
        return hex(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(number(item) for item in value)
    return str(value)


def decoded_calls(program: Program) -> list[dict[str, Any]]:
    """Each call as the fields of its YAML form, with its index."""
    return [
        {"index": index, **yaml.safe_load(format_call(call, program.interface))[0]}
        for index, call in enumerate(program.calls)
    ]


def call_words(call: Mapping[str, Any]) -> str:
    """One decoded call on one line: who, what, on what, with what."""
    arguments = ", ".join(f"{name}: {number(value)}" for name, value in (call.get("with") or {}).items())
    target = f" {number(call['target'])}" if "target" in call else ""
    who = f"{call['victim']}: " if "victim" in call else ""
    return f"{who}{call.get('call', '?')}{target}" + (f" ({arguments})" if arguments else "")


def result_words(result: np.void, layout: Layout, *, normal_world: bool = False) -> str:
    """What became of one call (a `protocol.RESULT`): the error's or fault's name, or the registers it answered with.

    `normal_world` tells whose call it was.
    """
    state, error = CallState(int(result["state"])), int(result["error"])
    if state is CallState.NOT_REACHED:
        return "not reached"
    if state is CallState.STARTED:
        return "did not return"
    if state is CallState.SKIPPED:
        return "skipped: its victim could not take its turn"
    registers = [int(word) for word in result["mr"]]
    if normal_world and (state is CallState.FAULTED or error):
        fault = f"abort at {registers[0]:#x}, ESR {error:#x}"
        return fault if state is CallState.FAULTED else "refused: no restore reaches what lies there"
    if state is CallState.FAULTED:
        return f"its victim faulted in it: {fault_words(error, registers, layout)}"
    if error:
        return layout.error_names.get(error, f"error {error:#x}").removeprefix("seL4_")
    while registers and not registers[-1]:
        registers.pop()
    return " ".join(["ok", *(f"{word:#x}" for word in registers)]) + (_changes(result) if normal_world else "")


def _changes(result: np.void) -> str:
    """Which registers an SMC of the normal world has changed beyond its results."""
    count, indices = int(result["info"]), int(result["reserved"][1]).to_bytes(8, "little")
    if not count:
        return ""
    names = register_names(Level.EL2)  # those of EL1 come first
    named = [names[index - 1] for index in indices if 0 < index <= len(names)]
    return f"; changed: {', '.join(named)}" + (f" and {count - len(named)} more" if count > len(named) else "")


def fault_words(fault: int, message: list[int], layout: Layout) -> str:
    """A fault by its name, with the address that a memory fault is about."""
    union = layout.bitfields.unions.get(FAULTS)
    names = {value: name for name, value in union.values.items()} if union is not None else {}
    name = names.get(fault, f"fault {fault}")
    # The message of a memory fault: program counter, address, whether it was an instruction fetch, ESR.
    return f"{name} at {message[1]:#x}" if name == "VMFault" else name


def program_words(
    program: Program, results: NDArray[np.void] | None, layout: Layout | None, marked: int | None = None
) -> str:
    """The program with a line for each call and its result (protocol.RESULT[calls]); `marked` is pointed at."""
    lines = []
    for index, call in enumerate(decoded_calls(program)):
        line = f"{MARK if index == marked else '  '} {index:>3}  {call_words(call)}"
        if results is not None and layout is not None and index < len(results):
            line += f" = {result_words(results[index], layout, normal_world='victim' not in call)}"
        lines.append(f"{line}\n")
    return "".join(lines)
