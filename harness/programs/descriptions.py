# SPDX-License-Identifier: BSD-2-Clause
"""The calls that a program can make, generated from the kernel's own interface descriptions.

Every invocation label and its parameters come from libsel4's XML, system calls from
`syscall.xml`. What is written here by hand is only what those files cannot say: how wide a
type is in a message, which *kind* of value a parameter wants (a slot, an address, a
priority, ...), which calls are left out, and the harness' own calls.

The layout of a message is that of libsel4's generated stubs: capabilities become extra
capabilities in the order of the parameters, and every other parameter is placed in the
message words, aligned to its own size (so small neighbours share a word).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.errors import BuildFailure
from harness.programs.interface_files import holds, read_methods, read_syscalls

WORD_BITS = 64
SELECTORS = 10
"""Argument selectors that a record holds."""

LEFT_OUT = {
    "DebugHalt": "halts by design",
    "DebugNameThread": "halts by design on a capability that is no thread",
    "DebugRun": "runs user code in the kernel by design",
    "DebugSnapshot": "prints the whole capability state",
}
"""System calls that no call table may hold, with the reason. All others are in it, and every invocation label."""

CAPABILITIES = 3
"""Extra capabilities that a message can carry (seL4_MsgMaxExtraCaps)."""

# Bits that a type takes in a message. Capability types are not listed: they are extra capabilities.
_TYPE_BITS = {
    "int": 32,
    "long": 64,
    "seL4_Uint8": 8,
    "seL4_Uint16": 16,
    "seL4_Uint32": 32,
    "seL4_Uint64": 64,
    "seL4_Word": 64,
    "seL4_Bool": 1,
    "seL4_CapData_t": 64,
    "seL4_PrioProps_t": 64,
    "seL4_CapRights_t": 64,
    "seL4_ARM_VMAttributes": 64,
}
# Capability types that are the name of no interface in the XML files.
_CAPABILITY_TYPES = {"seL4_CPtr", "seL4_ARM_IOSpace", "seL4_ARM_VCPU", "seL4_DomainSet"}
_MESSAGE_WORDS = 24
"""Words of a message that a Send says; longer than the longest answer to a fault."""
_SPREAD_MEMBERS = 8
"""A structure of at most so many words becomes one parameter a member; a larger one is filled from one selector."""

# Which values a parameter wants: by name first (unless the type is more telling), then by type.
_TELLING_TYPES = {"seL4_PrioProps_t"}
_KIND_BY_NAME = {
    "type": "object_type",
    "size_bits": "size_bits",
    "node_index": "node_index",
    "node_depth": "node_depth",
    "node_offset": "slot",
    "num_objects": "count",
    "dest_index": "slot",
    "src_index": "slot",
    "pivot_index": "slot",
    "index": "slot",
    "depth": "depth",
    "dest_depth": "depth",
    "src_depth": "depth",
    "pivot_depth": "depth",
    "vaddr": "vaddr",
    "ioaddr": "vaddr",
    "buffer": "vaddr",
    "start": "vaddr",
    "end": "vaddr_end",
    "start_offset": "clean_start",
    "end_offset": "clean_end",
    "fault_ep": "slot",
    "priority": "priority",
    "mcp": "priority",
    "irq": "irq",
    "domain": "domain",
    "affinity": "small",
    "count": "register_count",
    "cspace_root_data": "cnode_data",
    "vspace_root_data": "flag",
    "arch_flags": "small",
    "bp_num": "small",
    "num_instructions": "small",
    "size": "small",
    "rw": "small",
}
_KIND_BY_TYPE = {
    "seL4_CapRights_t": "rights",
    "seL4_ARM_VMAttributes": "attributes",
    "seL4_CapData_t": "badge",
    "seL4_PrioProps_t": "priorities",
    "seL4_Bool": "flag",
    "seL4_Uint8": "small",
    "seL4_Uint16": "small",
}
# Parameters that say where a new capability goes: later calls select it as "the result of".
_DESTINATIONS = {
    "CNode_Copy": "dest_index",
    "CNode_Mint": "dest_index",
    "CNode_Move": "dest_index",
    "CNode_Mutate": "dest_index",
    "CNode_Rotate": "dest_index",
    "CNode_SaveCaller": "index",
    "Untyped_Retype": "node_offset",
    "IRQControl_Get": "index",
    "ARM_ASIDControl_MakePool": "index",
}


class Action(StrEnum):
    """What a victim does for a call."""

    INVOKE = "invoke"
    """`Call` with the method's label; the answer's label is the error."""
    SEND = "send"
    """A system call that takes a message and returns none."""
    TRANSFER = "transfer"
    """A system call that takes a message and returns badge and message."""
    RECEIVE = "receive"
    """A system call that returns badge and message; its words are the slot for a received capability."""
    PLAIN = "plain"
    """A system call without arguments."""
    LOAD = "load"
    """The victim reads eight bytes at the target address."""
    STORE = "store"
    """The victim writes its second word, eight bytes, to the target address plus its first word."""
    JUMP = "jump"
    """The victim calls the target address."""
    UNDEFINED = "undefined"
    """The victim executes an undefined instruction."""
    UNKNOWN = "unknown"
    """A system call whose number, the first word, the kernel does not know."""
    FLOATING_POINT = "floating-point"
    """The victim reads a floating-point register and writes its first word there."""
    INTERRUPT = "interrupt"
    """EL3 makes an interrupt pending: line, how often (the timer), 1: at the victim's next system call."""
    NORMAL_SMC = "normal-smc"
    """The normal world makes an SMC with these x0-x7; the ninth word is the instruction's immediate."""
    NORMAL_REGISTER = "normal-register"
    """What register (number, value) holds in the normal world's next SMC."""
    NORMAL_LOAD = "normal-load"
    """The normal world reads at the target address plus its first word, so many bytes as its second says."""
    NORMAL_STORE = "normal-store"
    """The normal world writes its third word there."""
    NORMAL_WRITE = "normal-write"
    """The normal world fills shared memory: offset, word, how many."""
    NORMAL_MESSAGE = "normal-message"
    """The normal world writes a message to the Trusted OS into shared memory."""
    NORMAL_PARAMETER = "normal-parameter"
    """The normal world writes one parameter of a message, and how many there are."""
    NORMAL_INTERRUPT = "normal-interrupt"
    """A line becomes pending in the normal world, or with the second word while its next SMC is served."""
    NORMAL_CHANGE = "normal-change"
    """Shared memory changes when the Trusted OS has read that page so often: offset, bytes, value, reads."""


class Place(StrEnum):
    """Where a parameter's value goes."""

    WORD = "word"
    CAP = "cap"
    INFO = "info"
    """Into the message info word (label, number of capabilities, length) of a Send."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a call.

    `index` is the message word or the extra capability; `shift` and `bits` place the value in
    the word. A parameter of more than one `words` fills them all from one selector.
    """

    name: str
    type: str
    kind: str
    place: Place
    index: int
    shift: int = 0
    bits: int = WORD_BITS
    words: int = 1
    destination: bool = False


@dataclass(frozen=True)
class CallType:
    """One entry of the call table.

    `target` is the kind of the target selector ("" if the call has none); `words` and `caps`
    are the message words and extra capabilities that the call always has.
    """

    name: str
    action: Action
    syscall: int
    label: int
    label_name: str
    interface: str
    target: str
    parameters: tuple[Parameter, ...]
    words: int
    caps: int

    @property
    def info(self) -> int:
        """The message info word, before parameters that go into it."""
        if self.action is not Action.INVOKE:
            return 0
        return self.label << 12 | self.caps << 7 | self.words

    @property
    def destination(self) -> int | None:
        """Index of the parameter that says where the new capability goes."""
        return next((i for i, p in enumerate(self.parameters) if p.destination), None)


def place_parameters(
    call: str, inputs: Sequence[tuple[str, str]], structures: Mapping[str, Sequence[str]], capabilities: set[str]
) -> tuple[list[Parameter], int, int]:
    """Give each input its place in the message; returns parameters, message words, extra capabilities."""
    parameters: list[Parameter] = []
    used = caps = 0

    def add(name: str, type_: str, kind: str, bits: int, words: int = 1) -> None:
        nonlocal used
        used = -(-used // bits) * bits
        destination = _DESTINATIONS.get(call) == name
        index, shift = divmod(used, WORD_BITS)
        parameters.append(Parameter(name, type_, kind, Place.WORD, index, shift, bits, words, destination))
        used += bits * words

    for type_, name in inputs:
        by_name = None if type_ in _TELLING_TYPES else _KIND_BY_NAME.get(name)
        kind = by_name or _KIND_BY_TYPE.get(type_, "word")
        if type_ in capabilities:
            parameters.append(Parameter(name, type_, "slot", Place.CAP, caps))
            caps += 1
        elif type_ in structures and len(structures[type_]) <= _SPREAD_MEMBERS:
            for member in structures[type_]:
                add(member, "seL4_Word", _smc_kind(call, member) or "word", WORD_BITS)
        elif type_ in structures:
            add(name, type_, "registers", WORD_BITS, len(structures[type_]))
        elif type_ in _TYPE_BITS:
            add(name, type_, _smc_kind(call, name) or kind, _TYPE_BITS[type_])
        else:
            raise BuildFailure(f"{call}: parameter '{name}' has type '{type_}', whose size in a message is not known")
    if len(parameters) > SELECTORS:
        raise BuildFailure(f"{call} has {len(parameters)} parameters; a call record holds {SELECTORS}")
    return parameters, -(-used // WORD_BITS), caps


def _smc_kind(call: str, name: str) -> str | None:
    if call != "ARM_SMC_Call":
        return None
    return "smc_function" if name == "x0" else "smc_argument"


def all_calls(source: Path, macros: Mapping[str, int]) -> dict[str, CallType]:
    """Every call that the kernel's descriptions allow, by name; conditions are evaluated with `macros`.

    Labels are numbered as the kernel's header generator numbers them: from 1, through the files of XML_FILES.
    """
    methods, structures = read_methods(source)
    capabilities = {method.interface for method in methods} | _CAPABILITY_TYPES
    calls: dict[str, CallType] = {}
    syscalls = read_syscalls(source, macros)
    label = 0
    for method in methods:
        if not holds(method.condition, macros):
            continue
        label += 1
        name = f"{method.interface.removeprefix('seL4_')}_{method.name}"
        parameters, words, caps = place_parameters(name, method.inputs, structures, capabilities)
        calls[name] = CallType(
            name, Action.INVOKE, syscalls["Call"], label, method.label_name, method.interface, "slot",
            tuple(parameters), words, caps,
        )  # fmt: skip
    for call in system_calls(syscalls):
        calls[call.name] = call
    return calls


def system_calls(numbers: Mapping[str, int]) -> list[CallType]:
    """System calls other than invocations, and the harness' own calls."""
    message = (
        Parameter("label", "seL4_Word", "label", Place.INFO, 0, 12, 20),
        Parameter("length", "seL4_Word", "length", Place.INFO, 0, 0, 7),
        Parameter("caps", "seL4_Word", "cap_count", Place.INFO, 0, 7, 2),
        *(Parameter(f"cap{i or ''}", "seL4_CPtr", "slot", Place.CAP, i) for i in range(CAPABILITIES)),
        *(Parameter(f"mr{i}", "seL4_Word", "word", Place.WORD, i) for i in range(3)),
        # The rest of a long message: further words are what older messages left in the IPC buffer.
        Parameter("mr3", "seL4_Word", "word", Place.WORD, 3, words=_MESSAGE_WORDS - 3),
    )
    receive = (
        Parameter("root", "seL4_CPtr", "slot", Place.WORD, 0),
        Parameter("index", "seL4_Word", "slot", Place.WORD, 1, destination=True),
        Parameter("depth", "seL4_Word", "depth", Place.WORD, 2),
    )

    def call(name: str, action: Action, target: str, parameters: tuple[Parameter, ...] = ()) -> CallType:
        words = max((p.index + p.words for p in parameters if p.place is Place.WORD), default=0)
        return CallType(name, action, numbers.get(name, 0), 0, "", "", target, parameters, words, 0)

    def words(*named: tuple[str, str]) -> tuple[Parameter, ...]:
        return tuple(Parameter(name, "seL4_Word", kind, Place.WORD, i) for i, (name, kind) in enumerate(named))

    debug = [call("DebugPutChar", Action.PLAIN, "small"), call("DebugCapIdentify", Action.PLAIN, "slot")]
    return [
        call("Send", Action.SEND, "slot", message),
        call("NBSend", Action.SEND, "slot", message),
        call("Reply", Action.SEND, "", message),
        call("Call", Action.TRANSFER, "slot", message),
        call("ReplyRecv", Action.TRANSFER, "slot", message),
        call("Recv", Action.RECEIVE, "slot", receive),
        call("NBRecv", Action.RECEIVE, "slot", receive),
        call("Yield", Action.PLAIN, ""),
        *(each for each in debug if each.name in numbers),
        call("Load", Action.LOAD, "vaddr"),
        call("Store", Action.STORE, "vaddr", words(("offset", "offset"), ("value", "word"))),
        call("Jump", Action.JUMP, "vaddr"),
        call("UndefinedInstruction", Action.UNDEFINED, ""),
        call("UnknownSystemCall", Action.UNKNOWN, "", words(("number", "unknown_syscall"), ("mr0", "word"))),
        call("FloatingPoint", Action.FLOATING_POINT, "", words(("value", "word"))),
        call("Interrupt", Action.INTERRUPT, "", words(("line", "line"), ("count", "ticks"), ("next_call", "flag"))),
    ]


FAULTING_CALLS = frozenset({"Jump", "UndefinedInstruction", "UnknownSystemCall"})
"""Calls that are made for the fault in which they end: with it, they have done what they should."""
HARNESS_ACTIONS = frozenset(
    {
        Action.LOAD,
        Action.STORE,
        Action.JUMP,
        Action.UNDEFINED,
        Action.UNKNOWN,
        Action.FLOATING_POINT,
        Action.INTERRUPT,
    }
)
"""What victims do beside the kernel's system calls."""
NORMAL_ACTIONS = frozenset(action for action in Action if action.value.startswith("normal-"))
"""What the normal world does."""


def select_calls(calls: Mapping[str, CallType], names: Sequence[str] = ()) -> tuple[CallType, ...]:
    """The call table for a list of names, by default all; raises BuildFailure for one that the kernel does not have."""
    names = names or [name for name in calls if name not in LEFT_OUT]
    for name in names:
        if name in LEFT_OUT:
            raise BuildFailure(f"the call table lists {name}, which is left out because it {LEFT_OUT[name]}")
        if name not in calls:
            raise BuildFailure(f"the call table lists {name}, which the kernel's interface description does not have")
    return tuple(calls[name] for name in names)


def call_to_data(call: CallType) -> dict[str, Any]:
    """A call type as plain data for JSON."""
    return asdict(call)


def call_from_data(data: Mapping[str, Any]) -> CallType:
    """The inverse of `call_to_data`."""
    parameters = tuple(Parameter(**{**p, "place": Place(p["place"])}) for p in data["parameters"])
    return CallType(**{**data, "action": Action(data["action"]), "parameters": parameters})
