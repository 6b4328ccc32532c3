# SPDX-License-Identifier: BSD-2-Clause
"""The call table against the kernel's own generators."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from harness.build.guests import configuration_macros
from harness.build.kernel import build_kernel
from harness.configs import load_config
from harness.errors import BuildFailure
from harness.programs.descriptions import (
    HARNESS_ACTIONS,
    LEFT_OUT,
    Action,
    Place,
    all_calls,
    place_parameters,
    select_calls,
)
from harness.programs.interface_files import XML_FILES, holds, read_methods, read_syscalls
from harness.programs.interfaces import Interface
from tests.unit.programs_support import interface, kernel, small_interface


def generated_labels() -> dict[str, int]:
    """Labels from the headers that the kernel was compiled with."""
    generated = kernel().generated
    command = ["aarch64-linux-gnu-cpp", "-P", f"-I{generated}", "-include", "autoconf.h", "-"]
    text = "#include <arch/api/invocation.h>\n"
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    numbers: dict[str, int] = {}
    for body in re.findall(r"enum \w+ \{(.*?)\}", result.stdout, re.DOTALL):
        value = 0
        for entry in filter(None, (part.strip() for part in body.split(","))):
            name, _, start = (part.strip() for part in entry.partition("="))
            value = numbers[start] if start else value
            numbers[name] = value
            value += 1
    return numbers


def test_every_label_is_described() -> None:
    calls = [call for call in interface().calls if call.action is Action.INVOKE]
    labels = {name: number for name, number in generated_labels().items() if not name.startswith("n") and number}
    assert {call.label_name: call.label for call in calls} == labels
    assert len(calls) > 45
    pools = interface().pools
    for call in calls:
        for parameter in call.parameters:
            assert parameter.kind == "slot" or parameter.kind in pools, (call.name, parameter.name)
            assert parameter.index + parameter.words <= max(call.words, call.caps)
        assert call.caps == sum(parameter.place is Place.CAP for parameter in call.parameters)


def test_every_call_is_in_the_table_but_those_that_halt() -> None:
    names = [call.name for call in interface().calls]
    assert names == [
        name for name in all_calls(kernel().source, configuration_macros(kernel())) if name not in LEFT_OUT
    ]
    assert {"TCB_Configure", "ARM_ASIDPool_Assign", "DomainSet_Set", "ReplyRecv", "DebugCapIdentify", "Store"} <= {
        *names
    }
    release = Interface.generate(kernel().source, configuration_macros(build_kernel(load_config(), release=True)))
    assert [name for name in names if name not in release.index] == ["DebugPutChar", "DebugCapIdentify"]
    assert interface().call("CNode_Copy").destination == 0
    assert interface().call("Untyped_Retype").parameters[5].destination
    assert interface().call("ARM_SMC_Call").words == 8
    assert [p.kind for p in interface().call("ARM_SMC_Call").parameters] == ["smc_function"] + ["smc_argument"] * 7


def load_stub_generator() -> ModuleType:
    path = kernel().source / "libsel4/tools/syscall_stub_gen.py"
    spec = importlib.util.spec_from_file_location("syscall_stub_gen", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
def test_messages_are_laid_out_as_by_the_stub_generator() -> None:
    generator = load_stub_generator()
    types = generator.init_data_types(64) + generator.init_arch_types(64)["aarch64"]
    types += [generator.StructType("seL4_ARM_SMCContext", 8 * 64, 64), generator.CapType("seL4_ARM_SMC", 64)]
    compared = 0
    for file in XML_FILES:
        for entry in generator.parse_xml_file(str(kernel().source / file), types)[0]:
            name = f"{entry[0].removeprefix('seL4_')}_{entry[1]}"
            if name not in interface().index:
                continue
            inputs = entry[3][1:]
            caps = [p.name for p in inputs if isinstance(p.type, generator.CapType)]
            plain = [p for p in inputs if not isinstance(p.type, generator.CapType)]
            positions = {
                parameter.name: (bit // 64, bit % 64, bits)
                for parameter, bit, bits in generator.get_parameter_positions(plain, 64)
            }
            call = interface().call(name)
            assert [p.name for p in call.parameters if p.place is Place.CAP] == caps
            mine = {p.name: (p.index, p.shift, p.bits * p.words) for p in call.parameters if p.place is Place.WORD}
            if name == "ARM_SMC_Call":  # one structure there, its eight members here
                assert positions == {"arguments": (0, 0, 512)}
                assert mine == {f"x{i}": (i, 0, 64) for i in range(8)}
            else:
                assert mine == positions, name
            compared += 1
    assert compared == sum(call.action is Action.INVOKE for call in interface().calls)


def test_system_calls() -> None:
    numbers = {call.name: call.syscall for call in interface().calls if call.action is not Action.INVOKE}
    text = (kernel().generated / "arch/api/syscall.h").read_text()
    found = {name: int(number) for name, number in re.findall(r"Sys(\w+) = (-\d+)", text)}
    alone = {call.name for call in interface().calls if call.action in HARNESS_ACTIONS}
    assert [numbers.pop(name) for name in alone] == [0] * len(alone)
    assert len(numbers) == 8 + 2
    assert numbers == {name: found[name] for name in numbers}


def test_conditions() -> None:
    macros = {"CONFIG_A": 1, "CONFIG_NODES": 2}
    assert holds("", macros)
    assert holds("defined(CONFIG_A) && CONFIG_NODES > 1", macros)
    assert holds("defined CONFIG_B || defined CONFIG_A", macros)
    assert holds("!defined(CONFIG_B)", macros)
    assert not holds("CONFIG_NODES > 2", macros)
    assert holds("CONFIG_NODES == 2", macros)
    with pytest.raises(BuildFailure, match="not understood: 'CONFIG_A \\? 1'"):
        holds("CONFIG_A ? 1", macros)


def test_conditions_of_the_descriptions_move_labels() -> None:
    macros = {**configuration_macros(kernel()), "CONFIG_MAX_NUM_NODES": 2}
    more = all_calls(kernel().source, macros)
    assert more["TCB_SetAffinity"].label == interface().call("CNode_Revoke").label
    assert "TCB_SetAffinity" not in interface().index


def test_a_parameter_of_unknown_type_is_refused() -> None:
    with pytest.raises(BuildFailure, match="Thing_Do: parameter 'it' has type 'seL4_Mystery'"):
        place_parameters("Thing_Do", [("seL4_Mystery", "it")], {}, set())
    with pytest.raises(BuildFailure, match="11 parameters"):
        place_parameters("Thing_Do", [("seL4_Word", f"p{i}") for i in range(11)], {}, set())


def test_lists_of_calls_are_checked() -> None:
    calls = all_calls(kernel().source, {})
    for name, reason in LEFT_OUT.items():
        with pytest.raises(BuildFailure, match=re.escape(reason)):
            select_calls(calls, [name])
    with pytest.raises(BuildFailure, match="CNode_Kopy, which the kernel"):
        select_calls(calls, ["CNode_Kopy"])


def test_unreadable_descriptions(tmp_path: Path) -> None:
    with pytest.raises(BuildFailure, match=re.escape(str(tmp_path))):
        read_methods(tmp_path)
    with pytest.raises(BuildFailure, match="system calls cannot be read"):
        read_syscalls(tmp_path, {})


def test_identity_says_what_bytes_mean() -> None:
    """The same tables give the same identity after a round trip through JSON; another call table gives another."""
    here = interface()
    assert Interface.from_data(json.loads(json.dumps(here.to_data()))).identity == here.identity
    assert re.fullmatch(r"[0-9a-f]{16}", here.identity)
    assert small_interface().identity != here.identity
