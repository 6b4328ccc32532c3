# SPDX-License-Identifier: BSD-2-Clause
"""What a normal world and a Trusted OS say to each other, as calls of a program: sessions, messages, interruptions."""

from __future__ import annotations

import random
from collections.abc import Sequence

from fuzz.calls import CallMaker, Exchange, Fit, Shapes
from fuzz.normal_fits import NormalFits
from harness.programs.descriptions import Action
from harness.programs.encodings import TARGET_OFFSET, argument_offset
from harness.programs.interfaces import Interface
from harness.programs.normal_calls import functions
from harness.programs.trusted_messages import Command

_SERVICE_INDEX = 3
"""Of a message's arguments, the service."""
_SERVICE = argument_offset(_SERVICE_INDEX)
_CLIENTS = 3
"""The first clients of the pool are those that most calls are made for."""


def exchange_of(interface: Interface, weight: float) -> Exchange | None:
    """How messages are exchanged, if the interface has a normal world and the target makes such calls."""
    numbers = {call.action: number for number, call in enumerate(interface.calls)}
    if Action.NORMAL_MESSAGE not in numbers or not weight:
        return None
    fits, known = NormalFits(interface), functions()
    pages = fits.pages()
    targets, arguments = (fits.selectors(kind, pages) for kind in ("normal_shared", "normal_argument"))
    return Exchange(
        numbers[Action.NORMAL_MESSAGE],
        numbers[Action.NORMAL_PARAMETER],
        numbers[Action.NORMAL_SMC],
        numbers[Action.NORMAL_INTERRUPT],
        numbers[Action.NORMAL_CHANGE],
        tuple(zip(targets, arguments, strict=True)),
        {command: fits.selectors("message_command", (command,))[0] for command in Command},
        fits.selectors("normal_function", (known["optee_call_with_arg"],))[0],
        fits.selectors("normal_function", (known["optee_return_from_rpc"],))[0],
        round(weight),
    )


class ExchangeMaker:
    """Makes the calls of exchanges, each of a fitting kind."""

    def __init__(self, exchange: Exchange, maker: CallMaker, shapes: Shapes, source: random.Random) -> None:
        self._exchange, self._maker, self._random = exchange, maker, source
        self._shapes = shapes
        self._fits: dict[tuple[int, bytes], list[Fit]] = {}
        for number in (exchange.message, exchange.smc):
            for fit in shapes.calls[number].fits[0]:
                for first in fit.arguments[0]:
                    self._fits.setdefault((number, first), []).append(fit)

    def exchange(self) -> list[bytearray]:
        """A few calls: most often one message and the call that brings it, else a whole session."""
        pick = self._random.random
        client = bytes((int(pick() * _CLIENTS), 0))
        if pick() < 0.5:
            return self._bring(self._any_command(), client)
        calls = self._bring(Command.OPEN_SESSION, client)
        service = bytes(calls[0][_SERVICE : _SERVICE + 2])
        for _ in range(1 + int(pick() * 2)):
            other = bytes((int(pick() * _CLIENTS), 0)) if pick() < 0.15 else client
            calls += self._bring(Command.INVOKE_COMMAND if pick() < 0.75 else self._any_command(), other, service)
        return calls

    def _any_command(self) -> Command:
        commands: Sequence[Command] = list(Command)
        return commands[int(self._random.random() * len(commands))]

    def _bring(self, command: Command, client: bytes, service: bytes = b"") -> list[bytearray]:
        exchange, pick = self._exchange, self._random.random
        target, argument = exchange.pages[int(pick() * len(exchange.pages))]
        calls = [self._message(command, target, service)]
        if pick() < 0.2:  # a parameter by its words: further ones, references to registered memory
            calls.append(self._fitted(exchange.parameter))
            calls[-1][TARGET_OFFSET : TARGET_OFFSET + 2] = target
        if pick() < 0.15:
            calls.append(self._fitted(exchange.change))
            calls[-1][TARGET_OFFSET : TARGET_OFFSET + 2] = target
        if pick() < 0.1:
            calls.append(self._call(exchange.interrupt))
        calls.append(self._smc(exchange.bring, client))
        place = argument_offset(2)
        calls[-1][place : place + 2] = argument
        if command is not Command.OPEN_SESSION and pick() < 0.1:  # the same message again, from whomever
            calls.append(self._smc(exchange.bring, bytes((int(pick() * _CLIENTS), 0))))
            calls[-1][place : place + 2] = argument
        if pick() < 0.2:
            other = bytes((int(pick() * _CLIENTS), 0)) if pick() < 0.3 else client
            calls.append(self._smc(exchange.resume, other))
        return calls

    def _message(self, command: Command, target: bytes, service: bytes) -> bytearray:
        """A message; to a session with that service, if one is given."""
        record = self._fitting(self._exchange.message, self._exchange.commands[command], service)
        record[TARGET_OFFSET : TARGET_OFFSET + 2] = target
        return record

    def _smc(self, function: bytes, client: bytes) -> bytearray:
        record, place = self._fitting(self._exchange.smc, function), argument_offset(7)
        record[place : place + 2] = client
        return record

    def _fitting(self, number: int, first: bytes, service: bytes = b"") -> bytearray:
        """A call whose first argument is this, and whose others go with it."""
        record, place = self._call(number), argument_offset(0)
        record[place : place + 2] = first
        fits = self._fits.get((number, first), [])
        if service:
            fits = [fit for fit in fits if service in fit.arguments[_SERVICE_INDEX]] or fits
        if fits:
            self._maker.apply(record, fits[int(self._random.random() * len(fits))])
        return record

    def _fitted(self, number: int) -> bytearray:
        """A call whose arguments go together."""
        record, fits = self._call(number), self._shapes.calls[number].fits[0]
        self._maker.apply(record, fits[int(self._random.random() * len(fits))])
        return record

    def _call(self, number: int) -> bytearray:
        return self._maker.call(0, number)
