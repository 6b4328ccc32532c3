# SPDX-License-Identifier: BSD-2-Clause
"""What goes together in the calls of the normal world: arguments of a function's kinds, messages that make sense."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fuzz.calls import Fit
from harness.build.smc_functions import Caller, load_smc_functions
from harness.programs.descriptions import Action, CallType
from harness.programs.interfaces import Interface
from harness.programs.normal_calls import ANSWER, DYNAMIC_NAMES, LENGTHS, MESSAGE_PAGES, WORDS
from harness.programs.normal_functions import ArgumentKind, load_normal_functions
from harness.programs.trusted_messages import MESSAGE, Command, ParameterType, load_trusted_services

Selectors = tuple[bytes, ...]
TARGET = "target"

_SMALL = tuple(word for word in WORDS if word < 0x100)
_CPUS = (0, 1, 1 << 31, 1 << 32)
_ENDS = ("system_off", "system_reset")
"""Functions after which a program has no more calls: rare enough without being fitted."""
_NONE: Iterable[int] = (0,)
_IN_OUT = (ParameterType.TMEM_INPUT, ParameterType.TMEM_OUTPUT, ParameterType.TMEM_INOUT,
           ParameterType.RMEM_INPUT, ParameterType.RMEM_OUTPUT)  # fmt: skip
_OUT = (ParameterType.TMEM_OUTPUT, ParameterType.RMEM_OUTPUT, ParameterType.VALUE_OUTPUT)


class NormalFits:
    """Fits of the calls of the normal world; none for other calls."""

    def __init__(self, interface: Interface) -> None:
        self._pools = interface.pools
        self._places = dict(self._pools["normal_address"].names) if "normal_address" in self._pools else {}

    def of(self, call: CallType) -> tuple[Fit, ...]:
        """What goes together in a call."""
        make: dict[Action, Callable[[], Iterable[dict[str, Selectors]]]] = {
            Action.NORMAL_SMC: self._functions,
            Action.NORMAL_MESSAGE: self._messages,
            Action.NORMAL_PARAMETER: self._parameters,
            Action.NORMAL_CHANGE: self._changes,
            Action.NORMAL_WRITE: self._writes,
        }
        if call.action not in make:
            return ()
        return tuple(
            Fit(choices.get(TARGET, ()), tuple(choices.get(parameter.name, ()) for parameter in call.parameters))
            for choices in make[call.action]()
        )

    def selectors(self, kind: str, values: Iterable[int]) -> Selectors:
        """Selectors of those values that a pool has."""
        pool = self._pools[kind].values
        return tuple(bytes((pool.index(value), 0)) for value in dict.fromkeys(values) if value in pool)

    def _arguments(self, values: Iterable[int]) -> Selectors:
        return self.selectors("normal_argument", values)

    def pages(self) -> list[int]:
        """Addresses at which messages lie, as a rule."""
        names = ["shared", *(f"shared-page-{n}" for n in range(1, MESSAGE_PAGES))]
        return [self._places[name] for name in names]

    def _functions(self) -> Iterable[dict[str, Selectors]]:
        known = dict(self._pools["normal_function"].names)
        by_word = {"word": _SMALL, "function": known.values(), "cpu": _CPUS, "address": self._places.values()}
        clients = self.selectors("normal_client", (1, 1, 2))
        plain = {f"x{n}": self._arguments(_NONE) for n in range(1, 7)}
        plain |= {"x7": clients, "immediate": self.selectors("smc_immediate", _NONE)}
        for function in load_smc_functions():
            if Caller.NORMAL in function.callers and function.name not in _ENDS:
                given = {f"x{n}": self._arguments(by_word[a.kind]) for n, a in enumerate(function.arguments, 1)}
                yield plain | given | {"x0": self.selectors("normal_function", (function.id,))}
        for described in load_normal_functions():
            identifier = self.selectors("normal_function", (described.id,))
            for service in load_trusted_services():
                words = service.register_words
                given = {
                    f"x{n}": self._arguments(self._of_kind(argument.kind, n, words))
                    for n, argument in enumerate(described.arguments, 1)
                }
                yield plain | given | {"x0": identifier}
                if not any(argument.kind is ArgumentKind.UUID for argument in described.arguments):
                    break

    def _of_kind(self, kind: ArgumentKind, register: int, uuid: tuple[int, ...]) -> Iterable[int]:
        sessions = [value for name, value in DYNAMIC_NAMES.items() if "session" in name]
        return {
            ArgumentKind.VALUE: _SMALL,
            ArgumentKind.LENGTH: LENGTHS,
            ArgumentKind.ADDRESS_HIGH: _NONE,
            ArgumentKind.ADDRESS: self._places.values(),
            ArgumentKind.MESSAGE: self.pages(),
            ArgumentKind.SESSION: [*sessions, ANSWER + 1, 1, 2],
            ArgumentKind.REGISTER: (ANSWER + register % 4,),
            ArgumentKind.UUID: (uuid[(register - 1) % len(uuid)],),
        }[kind]

    def _messages(self) -> Iterable[dict[str, Selectors]]:
        pages = self.selectors("normal_shared", self.pages())
        sessions = self.selectors("normal_session", DYNAMIC_NAMES.values())
        latest = self.selectors("normal_session", (DYNAMIC_NAMES["latest-session"],))
        values, memory = self._arguments(WORDS), self._arguments(self._places.values())
        shared = self._arguments(address for name, address in self._places.items() if name.startswith("shared"))
        lengths = self._arguments(LENGTHS)
        buffers = self._arguments(length for length in LENGTHS if 0 < length <= 0x1000)

        def message(
            command: Command, *parameters: tuple[ParameterType | int, Selectors, Selectors]
        ) -> dict[str, Selectors]:
            made = {TARGET: pages, "command": self.selectors("message_command", (command,)), "session": sessions}
            for n in (0, 1):
                type_, a, b = parameters[n] if n < len(parameters) else (ParameterType.NONE, values[:1], values[:1])
                made |= {f"type{n}": self.selectors("message_type", (type_,)), f"a{n}": a, f"b{n}": b}
            return made

        opening = message(Command.OPEN_SESSION)
        names = [service.name for service in load_trusted_services()]
        for number, service in enumerate(load_trusted_services()):
            chosen = self.selectors("trusted_service", (number,))
            yield opening | {"service": chosen}
            yield message(Command.OPEN_SESSION, (ParameterType.VALUE_INPUT, values, values)) | {"service": chosen}
            functions = self.selectors("message_function", service.commands.values())
            given, got = (ParameterType.VALUE_INPUT, values, values), (ParameterType.VALUE_OUTPUT, values, values)
            invoked = message(Command.INVOKE_COMMAND, given, got) | {"session": latest, "function": functions}
            yield invoked | {"service": chosen}
        copying = self.selectors("message_function", _SMALL)
        first, second = ParameterType.TMEM_INPUT, ParameterType.TMEM_OUTPUT
        whole = message(Command.INVOKE_COMMAND, (first, shared, buffers), (second, shared, buffers))
        own = {"session": latest, "service": self.selectors("trusted_service", (names.index("buffers"),))}
        yield whole | own | {"function": copying[:2]}
        mixed = message(Command.INVOKE_COMMAND, (first, memory, lengths), (second, memory, lengths))
        mixed |= {name: self.selectors("message_type", types) for name, types in (("type0", _IN_OUT), ("type1", _OUT))}
        for places, sizes in ((memory, lengths), (shared, buffers)):
            pieces = {name: places if name[0] == "a" else sizes for name in ("a0", "b0", "a1", "b1")}
            yield mixed | pieces | own | {"function": copying}
        yield message(Command.CLOSE_SESSION)
        yield message(Command.CANCEL)
        listed = dict(self._pools["message_type"].names)["tmem_output-pages"]
        for type_ in (ParameterType.TMEM_OUTPUT, listed):
            yield message(Command.REGISTER_SHM, (type_, shared, buffers))
            yield message(Command.REGISTER_SHM, (type_, memory, lengths))
        yield message(Command.UNREGISTER_SHM, (ParameterType.RMEM_INPUT, shared, values))

    def _parameters(self) -> Iterable[dict[str, Selectors]]:
        pages = self.selectors("normal_shared", self.pages())
        types = self.selectors("message_type", range(0x10))
        places, words = self._arguments(self._places.values()), self._arguments((*_SMALL, *LENGTHS))
        made = {TARGET: pages, "type": types, "parameters": self.selectors("message_count", range(1, 5))}
        yield made | {"a": places, "b": words, "c": places}
        yield made | {"a": words, "b": words, "c": words}
        # Part of memory that a message has registered by its page
        registered = self.selectors("message_type", range(ParameterType.RMEM_INPUT, ParameterType.RMEM_INOUT + 1))
        yield made | {"type": registered, "a": words, "b": words, "c": self._arguments(self.pages())}

    def _changes(self) -> Iterable[dict[str, Selectors]]:
        pages = self.selectors("normal_shared", self.pages())
        words = self._arguments((*_SMALL, *LENGTHS, *self._places.values()))
        yield {TARGET: pages, "value": words}
        # Address or size of a message's memory, once it has been read
        inside = self.selectors("normal_offset", (MESSAGE.itemsize + n for n in (8, 16, 40, 48)))
        whole, reads = self.selectors("width", (8,)), self.selectors("normal_reads", (8, 12))
        yield {TARGET: pages, "value": words, "offset": inside, "width": whole, "reads": reads}

    def _writes(self) -> Iterable[dict[str, Selectors]]:
        shared = tuple(place for name, place in self._places.items() if name.startswith("shared"))
        yield {TARGET: self.selectors("normal_shared", shared), "value": self._arguments((*_SMALL, *shared))}
