# SPDX-License-Identifier: BSD-2-Clause
"""The two-worlds family: what a world switch leaves behind, and what the normal world reaches.

Only machines with a normal world have something to judge. Two witnesses are asked that know nothing of the firmware's
switch: the normal-world program, which fills every register before an SMC and compares them afterwards; and the
registers that are live when the machine parks, which EL3 stores apart from those that it switches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness import protocol
from harness.build.registers import bank
from harness.configs import Level, MachineConfig, NormalWorld, Region, World
from harness.errors import BothworldsError
from harness.invariants.controller_view import ControllerView
from harness.invariants.definitions import Context, Judgement, invariant
from harness.invariants.world_interrupts import InterruptCall, judge_interrupts
from harness.kernel_state.elf import Elf
from harness.kernel_state.memory import MemoryImage, Ram, contains, read_optional
from harness.programs.encodings import Decoded, Decoder, records
from harness.programs.interfaces import Interface
from harness.programs.normal_registers import GENERAL, VECTOR_HALVES, pattern, register_names, system_registers
from harness.protocol import CallState

FAMILY = "two-worlds"
REFERENCE = "docs/invariants.md"
Words = np.ndarray[Any, np.dtype[np.uint64]]

LIVE_BANK = "current_bank"
"""Symbol of the firmware: the registers at the last park."""
_CONSTANT = frozenset(
    "sctlr_el1 actlr_el1 ttbr1_el1 tcr_el1 mair_el1 amair_el1 vbar_el1 contextidr_el1 afsr0_el1 afsr1_el1 tpidr_el1 "
    "tpidrro_el0 csselr_el1 mdscr_el1 cntkctl_el1 dacr32_el2 ifsr32_el2 fpexc32_el2 spsr_abt spsr_und spsr_irq "
    "spsr_fiq".split()
)
"""What the secure world does not change while programs run."""
_NOT_SWITCHED = frozenset("cntp_ctl_el0 cntp_cval_el0 cntv_ctl_el0 cntv_cval_el0 elr_el3 spsr_el3 scr_el3".split())
"""The normal world's, whichever runs; or EL3's own."""
_SCR_SECURE = 3 << 4 | 1 << 10 | 1 << 12
"""SCR_EL3: RES1, EL1 is AArch64, WFI traps. For the normal world also NS, FIQ comes to EL3, and HVC from EL2 on."""
_SCR_NS, _SCR_FIQ, _SCR_HCE = 1, 1 << 2, 1 << 8
_PASSED = 8
"""x0-x7 of a call go to the other world."""
_SHOWN, _VALUES = 8, 2
"""A result shows indices of so many changed registers, a byte each, and the values of the first two."""
_OTHER, _SMC, _INTERRUPT, _LOAD, _STORE = 1, 2, 3, 4, 5
_KINDS = {"NormalSMC": _SMC, "NormalInterrupt": _INTERRUPT, "NormalLoad": _LOAD, "NormalStore": _STORE}
"""Of the normal world's calls; 0 for those of victims."""
_ABORT_CLASSES = (0x24, 0x25)
"""Exception classes of data aborts: from a lower level, from the same."""
_CLASS_SHIFT, _STATUS_MASK = 26, 0x3F
_EXTERNAL_ABORT = 0x10
_REMEMBERED = 1 << 14
_MASK_64 = (1 << 64) - 1


@dataclass(frozen=True)
class _Access:
    """What a NormalLoad or NormalStore is about: physical address, bytes, and the region unless it is non-secure."""

    address: int
    width: int
    region: Region | None


class TwoWorlds:
    """What the family knows of one machine; `snapshot` is the memory that every program starts from.

    Without an `interface` no calls are judged; no live registers if the firmware, a user's own, does not keep them, or
    the memory does not hold its data.
    """

    def __init__(
        self,
        config: MachineConfig,
        normal: NormalWorld,
        firmware: Elf,
        interface: Interface | None,
        snapshot: MemoryImage,
    ) -> None:
        self._config = config
        self._decoder = Decoder(interface) if interface is not None else None
        self._view = ControllerView(config, normal)
        self._normal = normal
        self._kinds = np.zeros(1, np.uint8)
        if interface is not None:
            self._kinds = np.array([_KINDS.get(call.name, _OTHER) for call in interface.calls], np.uint8)
            self._kinds[: interface.first_normal_call] = 0
        self._names = register_names(normal.level)
        self._memory = normal.memory
        self.scr = frozenset({_SCR_SECURE, _scr_normal(normal)})
        """SCR_EL3 as either world must have it."""
        self._registers = bank(config)
        self._size = self._registers[-1].offset + self._registers[-1].size
        symbol = firmware.symbols.get(LIVE_BANK)
        self._live = symbol.address if symbol is not None else -1
        self._account = config.firmware_ram.base + protocol.WORLDS_OFFSET
        start = self._live_bank(snapshot)
        if start is None:
            self._live = -1
        self._start = self._bank(start or bytes(self._size))
        self._patterns = {pattern(index): self._names[index] for index in range(GENERAL + VECTOR_HALVES)}
        self._foreign = {entry.name: entry.pattern for entry in system_registers(normal.level) if entry.pattern}
        for name in _NOT_SWITCHED:
            self._foreign.pop(name, None)
        kept = [pattern(index) for index in range(_PASSED, GENERAL + VECTOR_HALVES)]
        self._kept: Words = np.sort(np.array(kept, np.uint64))
        self._accesses: dict[bytes, _Access] = {}
        self._prepare()

    def _prepare(self) -> None:
        """The same as columns over the words of a bank, for the quick look."""
        count = self._size // 8
        self._ordered: Words = np.sort(np.array(list(self._patterns), np.uint64))
        self._expected = np.zeros(count, np.uint64)
        self._constant = np.zeros(count, np.bool_)
        self._unwanted = np.zeros(count, np.uint64)
        self._general = np.zeros(count, np.bool_)
        for register in self._registers:
            words = slice(register.offset // 8, (register.offset + register.size) // 8)
            if _is_general(register.name):
                self._general[words] = True
            elif register.name in _CONSTANT:
                self._constant[words], self._expected[words] = True, self._start[register.name]
            self._unwanted[words] = self._foreign.get(register.name, 0)
        place = {register.name: register.offset // 8 for register in self._registers}
        self._scr, self._elr = place["scr_el3"], place["elr_el3"]

    def _live_bank(self, memory: MemoryImage) -> bytes | None:
        return read_optional(memory, self._live, self._size) if self._live >= 0 else None

    def _bank(self, data: bytes) -> dict[str, int]:
        return {
            register.name: int.from_bytes(data[register.offset : register.offset + register.size], "little")
            for register in self._registers
        }

    # What the program did

    def _calls(self, memory: MemoryImage, observation: Any) -> tuple[Sequence[bytes], Any]:
        """The program's records, and for each whether it is a call that this family looks at, and which."""
        start = self._config.exchange.base + protocol.EXCHANGE_PROGRAM
        program = read_optional(memory, start, observation.calls * protocol.CALL_BYTES) or b""
        return records(program), self._kinds[
            np.frombuffer(program, np.uint8)[:: protocol.CALL_BYTES] % len(self._kinds)
        ]

    def _decode(self, rows: Sequence[bytes], index: int) -> Decoded:
        assert self._decoder is not None  # nobody asks without an interface: all calls are of kind 0 then
        return self._decoder.decode_call(rows, index)

    def _access(self, rows: Sequence[bytes], index: int) -> _Access:
        """Of a load or store; remembered by its record."""
        known = self._accesses.get(rows[index])
        if known is None:
            decoded = self._decode(rows, index)
            offset, width = decoded.words[:2]
            address = (decoded.target + offset) & ((1 << 64) - width)
            region = self._config.region_at(address)
            if region is not None and region.world is World.NON_SECURE:
                region = None
            known = _Access(address, width, region)
            if len(self._accesses) >= _REMEMBERED:
                self._accesses.clear()
            self._accesses[rows[index]] = known
        return known

    # Leaks

    def judge_results(self, memory: MemoryImage, observation: Any, judgement: Judgement) -> None:
        """What the normal world saw: registers that came back changed and are no results."""
        rows, kinds = self._calls(memory, observation)
        results = observation.results
        for index in np.flatnonzero((kinds == _SMC) | (kinds == _INTERRUPT)).tolist():
            result = results[index]
            if result["state"] != CallState.DONE:
                continue
            judgement.judged += 1
            changed = int(result["info"])
            if changed:
                more = result["reserved"].tolist()
                indices = [more[1] >> 8 * n & 0xFF for n in range(min(changed, _SHOWN))]
                names = [self._names[i - 1] if 0 < i <= len(self._names) else f"register {i - 1}" for i in indices]
                values = dict(zip(names, map(hex, more[2 : 2 + _VALUES]), strict=False))
                number = self._decode(rows, index).words[0]
                what = f"SMC {number:#x}" if kinds[index] == _SMC else f"an interrupt of line {number}"
                judgement.fail(
                    f"call {index}: after {what} {changed} registers of the normal world are changed that "
                    f"are no results: {', '.join(names)}",
                    _kind(names[0]),
                    call=index,
                    after=what,
                    registers=names,
                    values=values,
                )

    def judge_live(self, data: bytes, judgement: Judgement) -> None:
        """The registers with which a world parked: which world it is, and the secure one's."""
        live = self._bank(data)
        normal = self._memory.base <= live["elr_el3"] < self._memory.end
        judgement.judged += 1
        if normal and not live["scr_el3"] & _SCR_NS:
            judgement.fail_field("the normal world", "scr_el3", "SCR_EL3.NS", 0, 1, scr_el3=hex(live["scr_el3"]))
        if normal or live["scr_el3"] & _SCR_NS:
            return
        for name, value in live.items():
            judgement.judged += 1
            expected = self._start[name]
            if _is_general(name):
                owner = self._patterns.get(value & _MASK_64) or self._patterns.get(value >> 64)
                if owner:
                    self._fail_foreign(name, value, owner, judgement)
            elif value and value == self._foreign.get(name):
                self._fail_foreign(name, value, name, judgement)
            elif name in _CONSTANT and value != expected:
                judgement.fail_field("the secure world", _kind(name), name, hex(value), hex(expected))

    @staticmethod
    def _fail_foreign(name: str, value: int, owner: str, judgement: Judgement) -> None:
        judgement.fail(
            f"{name} of the secure world holds {value:#x}, the normal world's {owner}",
            _kind(name),
            register=name,
            value=hex(value),
            owner=owner,
        )

    def judge_memory(self, ram: Ram, numbers: Any, judgement: Judgement) -> None:
        """Words of secure RAM that a program changed: none is what the normal world keeps in x8-x30 and q0-q31."""
        words = ram.words[numbers]
        judgement.judged += len(words)
        for number in numbers[contains(self._kept, words)].tolist():
            value, address = int(ram.words[number]), ram.base + 8 * number
            owner = self._patterns[value]
            judgement.fail(
                f"the word at {address:#x} of secure RAM is what the normal world keeps in {owner}",
                _kind(owner),
                address=hex(address),
                value=hex(value),
                owner=owner,
            )

    # Reach

    def judge_reach(self, memory: MemoryImage, observation: Any, judgement: Judgement) -> None:
        """Accesses of the normal world: what is secure faults; of the interrupt controller only its own part shows."""
        rows, kinds = self._calls(memory, observation)
        results = observation.results
        for index in np.flatnonzero(kinds >= _LOAD).tolist():
            access = self._access(rows, index)
            if access.region is not None:
                self._judge_access(index, kinds[index] == _STORE, access, access.region, results[index], judgement)

    def _judge_access(
        self, index: int, store: bool, access: _Access, region: Region, result: Any, judgement: Judgement
    ) -> None:
        state, syndrome = int(result["state"]), int(result["error"])
        if state not in (CallState.DONE, CallState.FAULTED):
            return
        judgement.judged += 1
        evidence = {"call": index, "address": hex(access.address), "bytes": access.width, "region": region.name}
        what = f"call {index}: the normal world's {'store' if store else 'load'} of {access.width} bytes at "
        what += f"{access.address:#x} ({region.name})"
        value = int(result["mr"][0])
        if region.world is World.BANKED:
            secret = 0
            if not store and state == CallState.DONE:
                secret = self._view.secret(access.address, access.width, value)
            if secret:
                message = f"{what} shows {value:#x}, of which {secret:#x} is the secure world's"
                judgement.fail(message, region.name, **evidence, value=hex(value), secret=hex(secret))
        elif state == CallState.DONE:
            if not syndrome:
                judgement.fail(f"{what} did not fault", region.name, **evidence, value=hex(value))
        elif syndrome >> _CLASS_SHIFT not in _ABORT_CLASSES or syndrome & _STATUS_MASK != _EXTERNAL_ABORT:
            message = f"{what} ended with syndrome {syndrome:#x}, which is no external abort"
            judgement.fail(message, region.name, **evidence, syndrome=hex(syndrome))

    # Interrupts

    def judge_interrupts(self, memory: MemoryImage, observation: Any, judgement: Judgement) -> None:
        """Interrupts that the normal world made pending, until somebody else may have changed what comes."""
        rows, kinds = self._calls(memory, observation)
        account = read_optional(memory, self._account, protocol.WORLDS.itemsize)
        if account is not None:
            interrupted = int(np.frombuffer(account, protocol.WORLDS)[0]["interrupted"])
            judge_interrupts(self._normal, self._interrupts(rows, kinds, observation.results), interrupted, judgement)

    def _interrupts(self, rows: Sequence[bytes], kinds: Any, results: Any) -> Iterator[InterruptCall]:
        for index, kind in enumerate(kinds.tolist()):
            if not kind:
                return  # victims can mask lines
            if kind == _SMC:
                yield InterruptCall(index, results[index])
            elif kind == _INTERRUPT:
                line, waits = self._decode(rows, index).words
                yield InterruptCall(index, results[index], line, bool(waits))
            elif kind >= _LOAD:
                region = self._access(rows, index).region
                if region is not None and region.world is World.BANKED:
                    return  # so can the normal world, for its own

    # Fast

    def clean(self, memory: MemoryImage, observation: Any, ram: Ram) -> bool:
        """Whether there is nothing to see, as far as it can be told quickly."""
        data = self._live_bank(memory)
        if data is not None and not self._live_clean(np.frombuffer(data, np.uint64)):
            return False
        numbers = observation.changed_words
        if numbers is None or contains(self._kept, ram.words[numbers]).any():
            return False
        _, kinds = self._calls(memory, observation)
        if observation.results["info"][(kinds == _SMC) | (kinds == _INTERRUPT)].any():
            return False
        judgement = Judgement()
        if (kinds >= _LOAD).any():
            self.judge_reach(memory, observation, judgement)
        if (kinds == _INTERRUPT).any():
            self.judge_interrupts(memory, observation, judgement)
        return not judgement.broken

    def _live_clean(self, live: Words) -> bool:
        inside = self._memory.base <= live[self._elr] < self._memory.end
        if live[self._scr] & _SCR_NS:
            return bool(inside)
        return not (
            inside
            or (live != self._expected)[self._constant].any()
            or ((live == self._unwanted) & (live != 0)).any()
            or contains(self._ordered, live[self._general]).any()
        )

    def judge_leaks(self, memory: MemoryImage, observation: Any, ram: Ram, judgement: Judgement) -> None:
        """All that tells of registers."""
        data = self._live_bank(memory)
        if data is not None:
            self.judge_live(data, judgement)
        if observation is None:
            return
        self.judge_results(memory, observation, judgement)
        numbers = observation.changed_words
        if numbers is not None:
            self.judge_memory(ram, np.asarray(numbers), judgement)


def _scr_normal(normal: NormalWorld) -> int:
    return _SCR_SECURE | _SCR_NS | _SCR_FIQ | (_SCR_HCE if normal.level is Level.EL2 else 0)


def _is_general(name: str) -> bool:
    """Whether it is one of x0-x30 and q0-q31."""
    return name[0] in "xq" and name[1:2].isdigit()


def _kind(name: str) -> str:
    """What a register is called in a signature: general and vector registers are of one kind each."""
    if _is_general(name):
        return "general register" if name[0] == "x" else "vector register"
    return name


@invariant("no_register_leak", family=FAMILY, reference=REFERENCE)
def no_register_leak(context: Context) -> Judgement:
    """After a switch no register holds the other world's value, but for arguments and results."""
    judgement = Judgement()
    if context.worlds is not None:
        try:
            context.worlds.judge_leaks(context.state.memory, context.observation, context.state.ram, judgement)
        except BothworldsError:
            return judgement  # an observation that is over: what memory shows is judged
    return judgement


def _judged(context: Context, judge: Callable[[TwoWorlds, MemoryImage, Any, Judgement], None]) -> Judgement:
    """Judge what a program's observation says; of one that is over, what was judged until then."""
    judgement = Judgement()
    if context.worlds is not None and context.observation is not None:
        with contextlib.suppress(BothworldsError):
            judge(context.worlds, context.state.memory, context.observation, judgement)
    return judgement


@invariant("normal_world_confined", family=FAMILY, reference=REFERENCE)
def normal_world_confined(context: Context) -> Judgement:
    """The normal world's accesses to secure memory and devices fault, and it sees its own interrupts only."""
    return _judged(context, TwoWorlds.judge_reach)


@invariant("interrupts_reach_their_world", family=FAMILY, reference=REFERENCE)
def interrupts_reach_their_world(context: Context) -> Judgement:
    """What the normal world makes pending comes to it, and a secure interrupt to the secure world, at once."""
    return _judged(context, TwoWorlds.judge_interrupts)
