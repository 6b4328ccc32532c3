# SPDX-License-Identifier: BSD-2-Clause
"""What the Trusted OS answers the normal world: queries of its interfaces, OP-TEE's functions, calls in registers.

`messages.py` says what becomes of OP-TEE's messages.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from harness.build.smc_functions import CALL_64, NOT_SUPPORTED, OWNER_MASK, OWNER_SHIFT
from harness.programs.normal_functions import load_normal_functions
from harness.specification.answers import NotCoveredError
from harness.specification.normal_world.memory import MASK_32, Buffer, SharedMemory
from harness.specification.normal_world.services import (
    IN,
    IN_REGISTERS,
    INVOKED,
    OUT,
    PARAMETERS,
    VALUE,
    Invocation,
    Parameter,
    Result,
    Resumed,
    Session,
    by_uuid,
    opened,
)

MESSAGES, REGISTERS, TURNS = "messages", "registers", "turns"
"""The interfaces: of OP-TEE's messages, of calls in registers, of programs' turns."""
SESSIONS, BUFFERS, THREADS = 8, 8, 3
"""Open sessions, registered buffers and suspended calls that there can be."""
ORIGIN_TEE, ORIGIN_SERVICE = 3, 4
OK, THREAD_LIMIT, IS_BUSY, BAD_RESUME, NOT_AVAILABLE = 0, 1, 2, 3, 7
RPC_FOREIGN_INTERRUPT = 0xFFFF0004
_CAPABILITIES, _UNIPROCESSOR, _CACHED = 0x17, 1, 1
_OS_UUID = (0xF62B4C78, 0xF37F482F, 0xBC725899, 0x23C511A2)
_QUERIES = {
    # Of an interface: owner of its queries, number of functions, UID, revision
    TURNS: (3, 4, (0x85FC4B9E, 0xD4E7458B, 0x82798924, 0x92D4B468), (1, 0)),
    REGISTERS: (48, 6, (0x2E8F0B6C, 0x55104B9A, 0x9D1F437A, 0xC608E13B), (1, 0)),
    MESSAGES: (63, 12, (0x384FB3E0, 0xE7F811E3, 0xAF630002, 0xA5D5C51B), (2, 0)),
}
_COUNT, _UID, _REVISION = 0xFF00, 0xFF01, 0xFF03

Answers = tuple[int, ...]
Serving = Generator[tuple[int, int, int], Resumed, Answers]


@dataclass
class Registered:
    """Memory that a client has registered; `references`: of calls that are under way."""

    client: int
    cookie: int
    buffer: Buffer
    references: int = 0


@dataclass
class Thread:
    """A call that waits for the normal world."""

    client: int
    serving: Serving
    session: int = 0
    cancel_id: int = 0
    invoking: bool = False
    cancelled: bool = False


@dataclass
class Caller:
    """Whose call it is, and through which interface."""

    interface: str
    client: int


@dataclass
class TrustedOS:
    """The state of the Trusted OS, as far as its answers depend on it."""

    memory: SharedMemory
    sessions: list[Session | None] = field(default_factory=lambda: [None] * SESSIONS)
    registered: list[Registered | None] = field(default_factory=lambda: [None] * BUFFERS)
    threads: list[Thread | None] = field(default_factory=lambda: [None] * THREADS)

    def find_session(self, caller: Caller, number: int) -> Session | None:
        """The caller's own session of that number."""
        session = self.sessions[number - 1] if 0 < number <= SESSIONS else None
        if session is None or session.client != caller.client or session.interface != caller.interface:
            return None
        return session

    def open(self, caller: Caller, uuid: bytes, parameters: list[Parameter]) -> tuple[Result, int, int]:
        """Open a session with a service: the result, its origin, the session's number."""
        service = by_uuid().get(uuid)
        if service is None or (caller.interface == REGISTERS and service not in IN_REGISTERS):
            return Result.ITEM_NOT_FOUND, ORIGIN_TEE, 0
        if None not in self.sessions:
            return Result.OUT_OF_MEMORY, ORIGIN_TEE, 0
        place = self.sessions.index(None)
        session = Session(service, caller.interface, caller.client)
        result = opened(session, parameters)
        if result is Result.SUCCESS:
            self.sessions[place] = session
        return result, ORIGIN_SERVICE, place + 1

    def close(self, caller: Caller, number: int) -> Result:
        """Close a session."""
        session = self.find_session(caller, number)
        if session is None:
            return Result.ITEM_NOT_FOUND
        if session.busy:
            return Result.BUSY
        self.sessions[number - 1] = None
        return Result.SUCCESS

    def is_suspended(self) -> bool:
        """Whether calls wait for the normal world."""
        return any(thread is not None for thread in self.threads)

    def find_memory(self, client: int, cookie: int) -> Registered | None:
        """What the client has registered by that cookie."""
        for item in self.registered:
            if item is not None and (item.client, item.cookie) == (client, cookie):
                return item
        return None


class Functions:
    """The functions that the Trusted OS has."""

    def __init__(self, shared: tuple[int, int]) -> None:
        """`shared`: base and size of the shared pages."""
        self._shared = shared
        self.names = {function.id: function.name for function in load_normal_functions()}
        self.number = {name: number for number, name in self.names.items()}

    def answer(self, system: TrustedOS, function: int, client: int, w: Sequence[int]) -> Answers | None:
        """x0-x3 after a call with the arguments w1-w6.

        None for a call that a thread serves (see messages.py); NotCoveredError for one that passes the turn.
        """
        nothing = (NOT_SUPPORTED, *w[:3])
        owner = function >> OWNER_SHIFT & OWNER_MASK
        interface = TURNS if owner == 3 else REGISTERS if owner in (48, 49) else MESSAGES if owner >= 50 else ""
        if not interface or function & CALL_64:
            return nothing
        query, count, uid, revision = _QUERIES[interface]
        general = {
            _COUNT: (count, *w[:3]),
            _UID: uid,
            _REVISION: (*revision, *w[1:3]),
        }
        found = general.get(function & 0xFFFF)
        if found is not None and function >> 16 == 0x8000 | query << 8:
            return found
        name = self.names.get(function, "")
        if name == "pass_turn":
            raise NotCoveredError("a turn is passed")
        if name.startswith("direct_"):
            return self._direct(system, name, client, w)
        if name in ("optee_call_with_arg", "optee_return_from_rpc"):
            return None
        return self._fast(system, name, w) or nothing

    def _fast(self, system: TrustedOS, name: str, w: Sequence[int]) -> Answers | None:
        match name:
            case "optee_get_os_uuid":
                return _OS_UUID
            case "optee_get_os_revision":
                return 1, 0, 0, w[2]
            case "optee_get_shm_config":
                return OK, *self._shared, _CACHED
            case "optee_exchange_capabilities":
                if w[0] & ~_UNIPROCESSOR:
                    return NOT_AVAILABLE, _CAPABILITIES, w[1], w[2]
                return OK, _CAPABILITIES, 0, w[2]
            case "optee_disable_shm_cache":
                return IS_BUSY if system.is_suspended() else NOT_AVAILABLE, *w[:3]
            case "optee_enable_shm_cache":
                return IS_BUSY if system.is_suspended() else OK, *w[:3]
            case "optee_get_thread_count":
                return OK, THREADS, w[1], w[2]
        return None

    @staticmethod
    def _direct(system: TrustedOS, name: str, client: int, w: Sequence[int]) -> Answers:
        caller = Caller(REGISTERS, client)
        if name == "direct_close":
            return int(system.close(caller, w[0])), 0, 0, 0
        if name == "direct_open":
            uuid = b"".join(word.to_bytes(4, "big") for word in w[:4])
            result, _, number = system.open(caller, uuid, [Parameter() for _ in range(PARAMETERS)])
            return int(result), number if result is Result.SUCCESS else 0, 0, 0
        session = system.find_session(caller, w[0])
        parameters = [Parameter(VALUE, IN, w[2], w[3]), Parameter(VALUE, OUT), Parameter(), Parameter()]
        if session is None:
            return int(Result.BAD_PARAMETERS), 0, 0, 0
        invocation = Invocation(system.memory, session, w[1], parameters, fast=True)
        try:
            next(INVOKED[session.service](invocation))
        except StopIteration as end:
            return int(end.value), parameters[1].a & MASK_32, parameters[1].b & MASK_32, 0
        raise NotCoveredError("a fast call that waits")
