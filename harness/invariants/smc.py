# SPDX-License-Identifier: BSD-2-Clause
"""smc_authority: every secure monitor call was asked for by someone who was allowed to.

EL3 logs each SMC from S-EL1 with the number of the program's call that was being performed.
The message registers of that call are known from the program. The capability that it invoked
is known too if no earlier call of the program touched that slot, or if what they did there is
plain (a copy, a mint, a move, a deletion within one capability space). Everything else is left
open: the answer lies in memory right before the call, so the program has to run again up to there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness import protocol
from harness.configs import MachineConfig
from harness.errors import BothworldsError
from harness.invariants.definitions import Context, Judgement, Request, invariant
from harness.kernel_state.lookup import SlotContent, lookup_slot
from harness.kernel_state.memory import MemoryImage, Ram, read_optional
from harness.kernel_state.state import KernelState
from harness.programs.descriptions import Action
from harness.programs.encodings import Decoded, Decoder, records
from harness.programs.interfaces import Interface
from harness.programs.population import read_report
from harness.protocol import CALL_BYTES, CallState, PopulationKind
from harness.specification.message_info import LABEL_SHIFT, LENGTH, MESSAGE_REGISTERS

SMC_REGISTERS = 8
_LABEL = "ARMSMCCall"
_DEPTH = 64
_CAPS = 7 << 7
"""The field of a message info word that counts extra capabilities."""
# Calls that change no slot whatever they are given; any other call of an interface may.
_HARMLESS_INTERFACES = ("seL4_ARM_Page", "seL4_ARM_PageTable", "seL4_ARM_SMC", "seL4_IRQHandler")
_HARMLESS_CALLS = frozenset({"Yield", "Load"})


def _offset_in_words(dtype: np.dtype[np.void], name: str) -> int:
    assert dtype.fields is not None
    return int(dtype.fields[name][1]) // 8


_LOG = _offset_in_words(protocol.REPORT, "smc_log")
_LOG_ENTRY = protocol.SMC_LOG.itemsize // 8
_LOG_CALL, _LOG_ARGUMENTS, _LOG_BEYOND = (
    _offset_in_words(protocol.SMC_LOG, name) for name in ("call", "arguments", "beyond")
)

LogEntry = tuple[int, list[int], list[int]]
"""An SMC: the call that made it, x0-x7, and what came along in x8-x17."""


def log_entries(report: Sequence[int], count: int) -> list[LogEntry]:
    """The first `count` entries of the log in the words of a report."""
    starts = range(_LOG, _LOG + min(count, protocol.SMC_LOG_ENTRIES) * _LOG_ENTRY, _LOG_ENTRY)
    return [
        (
            report[start + _LOG_CALL],
            list(report[start + _LOG_ARGUMENTS : start + _LOG_ARGUMENTS + SMC_REGISTERS]),
            list(report[start + _LOG_BEYOND : start + _LOG_BEYOND + 2]),
        )
        for start in starts
    ]


@dataclass(frozen=True)
class Victim:
    """Where a victim's capabilities are: physical addresses of its thread object and of its CNode."""

    thread: int
    cnode: int


class SmcAuthority:
    """Judges the SMC log of programs for one snapshot.

    Raises MachineError if the snapshot's population report is not usable.
    """

    def __init__(self, snapshot: KernelState, interface: Interface) -> None:
        self.interface = interface
        self._config: MachineConfig = snapshot.config
        self._layout = snapshot.layout
        self.decoder = Decoder(interface)
        page = snapshot.memory.read(snapshot.config.exchange.base, protocol.PAGE)
        self.victims = _victims(page, interface)
        self.slots = interface.population.slots_per_victim
        self._label = next((call.label for call in interface.calls if call.label_name == _LABEL), -1)
        self.harmless = [
            call.name in _HARMLESS_CALLS or call.interface in _HARMLESS_INTERFACES for call in interface.calls
        ]
        """For each call of the table whether it changes no slot, whatever it is given."""
        self.on_threads = [call.interface == "seL4_TCB" for call in interface.calls]
        """For each call of the table whether it is an operation on a thread."""
        contents = [self._content(snapshot.ram, victim) for victim in self.victims]
        self.start = [{slot: _badge(c) for slot, c in enumerate(content)} for content in contents]
        """For each victim, the badges of its SMC capabilities in the snapshot by slot; None for other slots."""
        self.own = [self._own_roots(v, content) for v, content in zip(self.victims, contents, strict=True)]
        """For each victim, the slots that hold a capability to its whole capability space."""

    def _content(self, ram: Ram, victim: Victim) -> list[SlotContent]:
        first = (victim.cnode - ram.base) >> self._layout.slot_bits
        return [SlotContent(self._layout, int(w[0]), int(w[1])) for w in ram.slots[first : first + self.slots]]

    def _own_roots(self, victim: Victim, contents: list[SlotContent]) -> frozenset[int]:
        """Slots that hold a capability to the victim's own CNode under which slot numbers are addresses."""
        found = set()
        for slot, content in enumerate(contents):
            if content.type == "cnode_cap" and content.base == victim.cnode:
                radix, guard = content.field("capCNodeRadix"), content.field("capCNodeGuardSize")
                if radix + guard == _DEPTH and 1 << radix == self.slots and not content.field("capCNodeGuard"):
                    found.add(slot)
        return frozenset(found)

    def program_of(self, memory: MemoryImage, calls: int) -> bytes | None:
        """The program as it lies in the exchange area; None if memory does not hold it."""
        return read_optional(memory, self._config.exchange.base + protocol.EXCHANGE_PROGRAM, calls * CALL_BYTES)

    # The log

    def judge(self, log: Any, results: Any, program: bytes, judgement: Judgement) -> None:
        """Judge a log (protocol.SMC_LOG[n]) of a program with these results (protocol.RESULT[calls])."""
        entries = list(zip(log["call"].tolist(), log["arguments"].tolist(), log["beyond"].tolist(), strict=True))
        self.judge_entries(entries, results, program, judgement)

    def judge_entries(self, log: Sequence[LogEntry], results: Any, program: bytes, judgement: Judgement) -> None:
        """The same for a log that `log_entries` read from a report."""
        rows = records(program)
        past = _Past(self, rows, results)
        judgement.judged += len(log)
        last = -1
        # The log is in the order of time, and so of calls.
        for index, registers, beyond in log:
            if any(beyond):
                evidence = {"call": index, "beyond": [hex(value) for value in beyond]}
                judgement.fail("registers behind x7 go along with an SMC", "smc", **evidence)
            if index >= len(rows):
                evidence = {"call": index, "registers": [hex(value) for value in registers]}
                judgement.fail("an SMC while no call of the program was performed", "smc", **evidence)
                continue
            call = self.decode(rows, index)
            message = call.words[:SMC_REGISTERS]
            if (
                index > last
                and call.info >> LABEL_SHIFT == self._label
                and call.info & LENGTH >= SMC_REGISTERS
                and (
                    tuple(registers) == message
                    or (
                        tuple(registers[:MESSAGE_REGISTERS]) == message[:MESSAGE_REGISTERS]
                        and self.buffer_unknown(rows, results, index)
                    )
                )
            ):
                last = index
                badge = past.badge_before(index, call)
                if badge != 0 and badge != message[0]:
                    judgement.requests.append(Request("smc_authority", index, self._evidence(call, index, registers)))
                continue
            evidence = self._evidence(call, index, registers)
            name = evidence["name"]
            if index <= last:
                judgement.fail(f"call {index} ({name}) made more than one SMC", "smc", **evidence)
            elif tuple(registers) == message:
                judgement.fail(f"call {index} ({name}) made an SMC and is no invocation of one", "smc", **evidence)
            else:
                evidence["message_registers"] = [hex(word) for word in message]
                judgement.fail(f"x0-x7 of the SMC are not the message of call {index} ({name})", "smc", **evidence)
        for index, badge in past.badged_again:
            again = f"call {index} gave another badge to an SMC capability for {badge:#x}"
            judgement.fail(again, "smc_cap", call=index, badge=hex(badge))

    def buffer_unknown(self, rows: Sequence[bytes], results: Any, index: int) -> bool:
        """Whether an operation on a thread before a call may have changed which memory is the caller's IPC buffer."""
        for row, result in zip(rows[:index], results[:index], strict=True):
            state = int(result["state"])
            refused = state in (CallState.NOT_REACHED, CallState.SKIPPED) or (
                state == CallState.DONE and bool(result["error"])
            )
            if self.on_threads[row[0] % len(self.on_threads)] and not refused:
                return True
        return False

    def _evidence(self, call: Decoded, index: int, registers: list[int]) -> dict[str, Any]:
        return {
            "call": index,
            "registers": [hex(value) for value in registers],
            "name": self.interface.calls[call.call].name,
            "target": hex(call.target),
            "victim": call.victim,
        }

    def decode(self, rows: Sequence[bytes], index: int) -> Decoded:
        """A call of a program, given as its records."""
        return self.decoder.decode_call(rows, index)

    def returns_answer(self, rows: Sequence[bytes], index: int) -> bool:
        """Whether a call of a program, given as its records, is one whose answer is kept."""
        return self.interface.calls[self.decode(rows, index).call].action in (Action.INVOKE, Action.TRANSFER)

    def calls_monitor(self, row: bytes) -> bool:
        """Whether a record is, or may be, an invocation of an SMC capability."""
        type_ = self.interface.calls[row[0] % len(self.interface.calls)]
        return type_.label == self._label or type_.action is Action.TRANSFER

    def due(self, rows: Sequence[bytes], results: Any) -> Iterator[int]:
        """Calls that must have made an SMC: they succeeded through a capability that is known to allow it."""
        past = _Past(self, rows, results)
        for index, result in enumerate(results[: len(rows)]):
            if (
                int(result["state"]) != CallState.DONE
                or int(result["info"]) >> LABEL_SHIFT
                or not self.returns_answer(rows, index)
            ):
                continue
            call = self.decode(rows, index)
            if call.info >> LABEL_SHIFT != self._label or call.info & LENGTH < SMC_REGISTERS:
                continue
            badge = past.badge_before(index, call)
            if badge is not None and badge in (0, call.words[0]):
                yield index

    # The step

    def resolve(self, request: Request, state: KernelState) -> Judgement:
        """Judge an SMC that was left open, by the state right before its call."""
        judgement = Judgement(1)
        evidence = dict(request.evidence)
        victim = self.victims[int(evidence["victim"])]
        function = int(evidence["registers"][0], 16)
        content = lookup_slot(state.layout, state.ram, victim.thread, int(evidence["target"], 16))
        if content is None or content.type != "smc_cap":
            found = content.type if content is not None else "no slot"
            judgement.fail(f"call {request.call} made an SMC through {found}", "smc", capability=found, **evidence)
        else:
            badge = _badge(content)
            if badge not in (0, function):
                message = f"call {request.call} made SMC {function:#x} through a capability for {badge or 0:#x}"
                judgement.fail(message, "smc_cap", badge=hex(badge or 0), **evidence)
        return judgement


class _Past:
    """What the capability slots hold before each call, as far as it follows from the calls before."""

    def __init__(self, authority: SmcAuthority, rows: Sequence[bytes], results: Any) -> None:
        self._authority = authority
        self._rows = rows
        self._results = results
        self._states: list[int] = []
        self._errors: list[int] = []
        self._infos: list[int] = []
        self._next = 0
        self._known = True
        self._changed: dict[tuple[int, int], int | None] = {}
        self.badged_again: list[tuple[int, int]] = []
        """Mints from SMC capabilities that have a badge, all of which the kernel must refuse: call, and that badge."""

    def badge_before(self, index: int, call: Decoded) -> int | None:
        """Badge of the SMC capability that a call invokes; None for anything else, and where it is not known.

        Calls have to be asked for in ascending order.
        """
        if self._next < index and not self._states:
            self._states = self._results["state"].tolist()
            self._errors = self._results["error"].tolist()
            self._infos = self._results["info"].tolist()
        while self._known and self._next < index:
            self._known = self._follow_call(self._next)
            self._next += 1
        return self._badge_at(call.victim, call.target) if self._known else None

    def _follow_call(self, index: int) -> bool:
        """Follow one call; False if it may have changed slots in a way that is not followed."""
        authority, state, row = self._authority, self._states[index], self._rows[index]
        if state in (CallState.NOT_REACHED, CallState.SKIPPED) or authority.harmless[row[0] % len(authority.harmless)]:
            return True
        done = authority.decode(self._rows, index)
        type_ = authority.interface.calls[done.call]
        if not type_.interface:
            # A system call changes slots only by handing over capabilities.
            return not (done.info | self._infos[index]) & _CAPS
        if state == CallState.FAULTED:
            return True  # no slot changes when the lookup of a capability faults
        if state != CallState.DONE:
            return False
        return bool(self._errors[index]) or self._follow(index, type_.name, done)

    def _badge_at(self, victim: int, slot: int) -> int | None:
        key = (victim, slot)
        return self._changed[key] if key in self._changed else self._authority.start[victim].get(slot)

    def _is_own(self, victim: int, slot: int) -> bool:
        """Whether a slot still holds a capability to the victim's whole capability space."""
        return slot in self._authority.own[victim] and (victim, slot) not in self._changed

    def _follow(self, index: int, name: str, done: Decoded) -> bool:
        """What a successful operation did to the slots of the victim that made it; False if that is not plain."""
        victim, words, changed, slots = done.victim, done.words, self._changed, self._authority.slots
        root = done.caps[0] if done.caps else -1
        if name == "Untyped_Retype":
            # Words: type, size, node index, node depth, offset, number. Depth 0 means the root itself.
            if words[3] or not self._is_own(victim, root):
                return False
            end = min(words[4] + words[5], slots)
            changed.update({(victim, number): None for number in range(words[4], end)})
            return True
        if not self._is_own(victim, done.target) or words[1] != _DEPTH or words[0] >= slots:
            return False
        if name == "CNode_Revoke":
            # SMC capabilities derive from SMC capabilities only; what else goes is of no use to later calls.
            return self._badge_at(victim, words[0]) is None
        if name == "CNode_Delete":
            changed[victim, words[0]] = None
            return True
        if name not in ("CNode_Copy", "CNode_Mint", "CNode_Move"):
            return False
        source, depth = words[2], words[3]
        if not self._is_own(victim, root) or depth != _DEPTH or source >= slots:
            return False
        moved = self._badge_at(victim, source)
        if name == "CNode_Mint" and moved is not None:
            if moved:
                self.badged_again.append((index, moved))
            moved = moved or words[5]
        if name == "CNode_Move":
            changed[victim, source] = None
        changed[victim, words[0]] = moved
        return True


def _badge(content: SlotContent) -> int | None:
    return content.field("capSMCBadge") if content.type == "smc_cap" else None


def _victims(page: bytes, interface: Interface) -> list[Victim]:
    """Thread and CNode of each victim, from the root task's report: the first of each that is no named object."""
    ranges = [entry for entry in read_report(page, interface.population) if entry.object is None]

    def first(kind: PopulationKind, victim: int) -> int:
        return next(entry.address for entry in ranges if entry.kind == kind and entry.victim == victim)

    count = len(interface.population.victims)
    return [Victim(first(PopulationKind.TCB, v), first(PopulationKind.CNODE, v)) for v in range(count)]


@invariant("smc_authority", family="world", reference="docs/invariants.md")
def smc_authority(context: Context) -> Judgement:
    """Every SMC matches one invocation that its capability allowed, and badges do not change along derivation."""
    caps = context.state.caps
    rows = caps.of("smc_cap")
    judgement = Judgement(len(rows))
    badged = rows[(caps.badge[rows] != 0) & ~caps.first_badged[rows]]
    if len(badged):
        # A badged capability that does not begin a group stands behind the one that it was copied from.
        before = caps.rows_at(caps.previous[badged])
        same = (before >= 0) & (caps.type[before] == caps.type[badged]) & (caps.badge[before] == caps.badge[badged])
        judgement.fail_caps(
            context,
            badged[~same],
            lambda row: "its badge is not that of what it was copied from",
            "capSMCBadge",
            lambda row: hex(int(caps.badge[row])),
            "that of the capability before it in the mapping database",
        )
    observation, authority = context.observation, context.smc
    if observation is None or authority is None:
        return judgement
    try:
        log = observation.smc_log
        if len(log):
            program = authority.program_of(context.state.memory, observation.calls)
            if program is not None:
                authority.judge(log, observation.results, program, judgement)
    except BothworldsError:
        # An observation that is over: its log is gone, the state is still there to be judged.
        return judgement
    return judgement
