# SPDX-License-Identifier: BSD-2-Clause
"""The calls of the normal world, and the values that they choose from; only where a config has a normal world.

The program of the normal world makes them itself, at its own exception level, whatever a record's victim byte says.
They stand at the end of the call table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.build.smc_functions import CALL_64, FAST_CALL, Caller, load_smc_functions
from harness.configs import TIMER_LINE, Kind, MachineConfig, NormalWorld, World
from harness.programs.descriptions import Action, CallType, Parameter, Place
from harness.programs.normal_functions import load_normal_functions
from harness.programs.normal_registers import GIVEN
from harness.programs.pools import MAXIMUM_WORD, RAW_SELECTOR, Pool
from harness.programs.trusted_messages import (
    MAXIMUM_PARAMETERS,
    META,
    NONCONTIGUOUS,
    Command,
    ParameterType,
    load_trusted_services,
)
from harness.protocol import PAGE, Dispatcher

DYNAMIC = 0xD1A1_5EE0_0000_0000
"""Upper half of a value that stands for another one, which is known only while the program runs."""
LATEST_SESSION, FIRST_SESSION, ANSWER = (DYNAMIC | kind << 8 for kind in range(3))
"""Plus n: the session that was opened n before the latest one; the n-th one; what xn held after the last SMC."""
DYNAMIC_NAMES: dict[str, int] = {
    "latest-session": LATEST_SESSION,
    "second-latest-session": LATEST_SESSION + 1,
    "third-latest-session": LATEST_SESSION + 2,
    "first-session": FIRST_SESSION,
    "second-session": FIRST_SESSION + 1,
    **{f"answer-x{n}": ANSWER + n for n in range(4)},
}
SESSIONS = 8
"""Opened sessions of one program that the normal world remembers."""
LENGTHS = (0, 1, 4, 8, 16, 64, 0xFF8, 0x1000, 0x1001, 0x2000, 0x40000, 0x40001, 0xFFFFFFFF, MAXIMUM_WORD)
OFFSETS = (0, 8, 0x10, 0x20, 0x28, 0x30, 0x38, 0x40, 0x48, 0x50, 0x68, 0x70, 0x100, 0x400, 0xFF8, 0x1000, MAXIMUM_WORD)
WORDS = (0, 1, 2, 3, 4, 5, 7, 0x10, 0x100, 0x80000000, 0xFFFFFFFF, 1 << 32, 1 << 63, MAXIMUM_WORD)
_DIRTY = 0xDEADBEEF << 32
_UNKNOWN_NUMBER = 0xFF13
FAR = 1 << 40
"""An address behind all that QEMU's machine has."""
MESSAGE_PAGES = 4
"""Pages at the start of shared memory in which programs write messages, as a rule."""
SECURE_LINES = (90, 91, TIMER_LINE)
"""Lines of Group 0 that a program makes pending while the normal world runs."""
_ACTIONS = {
    "NormalSMC": Action.NORMAL_SMC,
    "NormalRegister": Action.NORMAL_REGISTER,
    "NormalLoad": Action.NORMAL_LOAD,
    "NormalStore": Action.NORMAL_STORE,
    "NormalWrite": Action.NORMAL_WRITE,
    "NormalMessage": Action.NORMAL_MESSAGE,
    "NormalParameter": Action.NORMAL_PARAMETER,
    "NormalInterrupt": Action.NORMAL_INTERRUPT,
    "NormalChange": Action.NORMAL_CHANGE,
}


def _call(name: str, target: str, *parameters: tuple[str, str]) -> CallType:
    made = tuple(Parameter(each, "seL4_Word", kind, Place.WORD, i) for i, (each, kind) in enumerate(parameters))
    return CallType(name, _ACTIONS[name], 0, 0, "", "", target, made, len(made), 0)


def normal_calls() -> list[CallType]:
    """The calls, in the order in which they end the call table."""
    both = (("type", "message_type"), ("a", "normal_argument"), ("b", "normal_argument"))
    return [
        _call(
            "NormalSMC",
            "",
            ("x0", "normal_function"),
            *((f"x{n}", "normal_argument") for n in range(1, 7)),
            ("x7", "normal_client"),
            ("immediate", "smc_immediate"),
        ),
        _call("NormalRegister", "", ("number", "normal_register"), ("value", "normal_argument")),
        _call("NormalLoad", "normal_address", ("offset", "normal_offset"), ("width", "width")),
        _call(
            "NormalStore", "normal_address", ("offset", "normal_offset"), ("width", "width"),
            ("value", "normal_argument"),
        ),
        _call(
            "NormalWrite", "normal_shared", ("offset", "normal_offset"), ("value", "normal_argument"),
            ("words", "normal_count"),
        ),
        _call(
            "NormalMessage", "normal_shared", ("command", "message_command"), ("function", "message_function"),
            ("session", "normal_session"), ("service", "trusted_service"),
            *((f"{name}{n}", kind) for n in (0, 1) for name, kind in both),
        ),
        _call(
            "NormalParameter", "normal_shared", ("index", "message_index"), *both, ("c", "normal_argument"),
            ("parameters", "message_count"),
        ),
        _call("NormalInterrupt", "", ("line", "normal_line"), ("next_call", "flag")),
        _call(
            "NormalChange", "normal_shared", ("offset", "normal_offset"), ("width", "width"),
            ("value", "normal_argument"), ("reads", "normal_reads"),
        ),
    ]  # fmt: skip


def own_page(normal: NormalWorld) -> int:
    """The last page of the normal world's own memory: its program leaves it to calls that name such memory."""
    return normal.memory.end - PAGE


def addresses(config: MachineConfig, normal: NormalWorld) -> dict[str, int]:
    """Physical addresses that programs of a normal world name: in shared memory first, then what is not theirs."""
    shared = normal.shared
    named = {"shared": shared.base}
    for page in range(1, MESSAGE_PAGES):
        named[f"shared-page-{page}"] = shared.base + page * PAGE
    named |= {
        "shared-inside": shared.base + 0x40,
        "shared-unaligned": shared.base + 0x1,
        "shared-page-end": shared.base + PAGE - 8,
        "shared-last-page": shared.end - PAGE,
        "shared-end": shared.end - 8,
        "behind-shared": shared.end,
        "normal-world": own_page(normal),
        "exchange": config.exchange.base,
    }
    for region in config.regions:
        if region.world is not World.NON_SECURE:
            named[region.name] = region.base
    for region in (config.secure_ram, config.firmware_ram):
        named[f"{region.name}-middle"] = region.base + region.size // 2 & -PAGE
        named[f"{region.name}-end"] = region.end - 8
    named["device-tree"] = config.region("device-tree").base
    named["unmapped"] = max(region.end for region in config.regions)
    named["far"] = FAR
    return named


def refused_ranges(config: MachineConfig, normal: NormalWorld) -> list[tuple[int, int]]:
    """Ranges (base, end) that the normal world does not access for programs, sorted.

    These are non-secure devices, which keep state that no restore reaches; what no region of the config names, where
    QEMU may have more of them (its interrupt controller's virtual part, PCI), but for one page behind the RAM and
    what lies far away; and normal RAM outside of the shared pages.
    """
    refused = [
        (region.base, region.end)
        for region in config.regions
        if region.world is World.NON_SECURE and region.kind is not Kind.RAM
    ]
    low = min(r.base for r in config.regions if r.kind is Kind.RAM and r.world is World.NON_SECURE)
    high = max(r.end for r in config.regions if r.kind is Kind.RAM and r.world is World.NON_SECURE)
    named = sorted((region.base, region.end) for region in config.regions if region.end <= low)
    ends = [0, *(end for _, end in named)]
    refused += [(end, base) for end, (base, _) in zip(ends, [*named, (low, low)], strict=True) if end < base]
    return sorted([*refused, (low, normal.shared.base), (normal.shared.end, high), (high + PAGE, FAR)])


def functions() -> dict[str, int]:
    """Identifiers of the functions that the normal world can call, by name: EL3's own and the Trusted OS's."""
    el3 = {function.name: function.id for function in load_smc_functions() if Caller.NORMAL in function.callers}
    return el3 | {function.name: function.id for function in load_normal_functions()}


def _pool(
    kind: str, names: Mapping[str, int], more: Iterable[int] = (), *, closed: bool = False, first: int | None = None
) -> Pool:
    values = tuple(dict.fromkeys([*([] if first is None else [first]), *names.values(), *more]))
    assert len(values) < RAW_SELECTOR, f"pool {kind} has {len(values)} values"
    return Pool(kind, values, tuple(names.items()), closed)


def _identifiers(known: Iterable[int]) -> list[int]:
    """What is refused: neighbours of each function, and an unknown one of each owner and kind."""
    near = [function ^ flip for function in known for flip in (CALL_64, FAST_CALL, _DIRTY)]
    far = [
        owner << 24 | width | 0xFF13 for owner in (0, 2, 3, 4, 5, 6, 48, 50, 62, 63) for width in (0, 2 << 30, 3 << 30)
    ]
    return [*near, *far, *(int(function) for function in Dispatcher), MAXIMUM_WORD]


def normal_pools(config: MachineConfig, normal: NormalWorld) -> dict[str, Pool]:
    """The pools of the calls' own kinds."""
    known, places = functions(), addresses(config, normal)
    inside = {name: address for name, address in places.items() if normal.shared.base <= address < normal.shared.end}
    sessions = {name: value for name, value in DYNAMIC_NAMES.items() if "session" in name}
    commands = {command.name.lower(): int(command) for command in Command}
    types = {type_.name.lower(): int(type_) for type_ in ParameterType}
    types |= {f"{name}-meta": types[name] | META for name in ("value_input", "tmem_input")}
    types |= {f"{name}-pages": types[name] | NONCONTIGUOUS for name in ("tmem_input", "tmem_output", "tmem_inout")}
    services = load_trusted_services()
    by_name = {service.name: n for n, service in enumerate(services)}
    numbers = sorted({number for service in services for number in service.commands.values()})
    words = {f"{each.name}-uuid-{n}": word for each in services for n, word in enumerate(each.register_words)}
    arguments = {name: value for name, value in places.items() if value} | DYNAMIC_NAMES | known | words
    pools = [
        _pool("normal_function", known, _identifiers(known.values())),
        _pool("normal_argument", arguments, (*WORDS, *LENGTHS, _DIRTY, _DIRTY | 1), first=0),
        _pool("normal_client", {}, (1, 2, 3, 0, 0x10001, 0xFFFF, _DIRTY | 1, MAXIMUM_WORD)),
        _pool("smc_immediate", {}, (0, 1, 0xFFFF), closed=True),
        _pool("normal_register", {f"x{n}": n for n in range(GIVEN)}, closed=True),
        _pool("normal_address", places),
        _pool("normal_shared", inside, closed=True),
        _pool("normal_offset", {}, OFFSETS),
        _pool("width", {}, (8, 4, 2, 1), closed=True),
        _pool("normal_count", {}, (1, 2, 4, 8, 64, 512), closed=True),
        _pool("message_command", commands, (6, MAXIMUM_WORD)),
        _pool("message_function", {}, (*numbers, 0xFFFF)),
        _pool("normal_session", sessions, (0, 1, 2, 3, 0xFFFFFFFF)),
        _pool("trusted_service", by_name, (len(services),), closed=True),
        _pool("message_type", types, (4, 8, 12, MAXIMUM_WORD)),
        _pool("message_index", {}, range(MAXIMUM_PARAMETERS), closed=True),
        _pool("message_count", {}, (2, 3, 4, *(n for n in range(9) if n not in (2, 3, 4)), 0x80, 0xFFFFFFFF)),
        _pool("normal_line", {}, (*normal.interrupts, *SECURE_LINES), closed=True),
        _pool("normal_reads", {}, (1, 2, 3, 4, 5, 6, 8, 12, 16, 24), closed=True),
    ]  # fmt: skip
    return {pool.kind: pool for pool in pools}
