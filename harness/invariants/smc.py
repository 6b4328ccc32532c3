# SPDX-License-Identifier: BSD-2-Clause
"""smc_authority: every secure monitor call was asked for by someone who was allowed to.

EL3 logs each SMC from S-EL1 with the number of the program's call that was being performed.
The message registers of that call are known from the program. The capability that it invoked
is known too if no earlier call of the program touched that slot, or if what they did there is
plain (a copy, a mint, a move, a deletion within one capability space). Everything else is left
open: the answer lies in memory right before the call, so the program has to run again up to there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness import protocol
from harness.configs import MachineConfig
from harness.errors import BothworldsError
from harness.invariants.definitions import Context, Judgement, Request, invariant
from harness.kernel_state.lookup import SlotContent, lookup_slot
from harness.kernel_state.memory import MemoryImage, Ram, read_optional
from harness.kernel_state.state import KernelState
from harness.programs.encodings import Decoded, Decoder, records
from harness.programs.interfaces import Interface
from harness.programs.population import read_report
from harness.protocol import CALL_BYTES, CallState, PopulationKind

SMC_REGISTERS = 8
_LABEL = "ARMSMCCall"
_DEPTH = 64
_CAPS = 7 << 7
"""The field of a message info word that counts extra capabilities."""
_INFO_LENGTH = 0x7F
# Calls that change no slot whatever they are given; any other call of an interface may.
_HARMLESS_INTERFACES = ("seL4_ARM_Page", "seL4_ARM_PageTable", "seL4_ARM_SMC", "seL4_IRQHandler")
_HARMLESS_CALLS = frozenset({"Yield", "Load"})

UNKNOWN = object()
"""Content of a slot that the program may have changed in a way that is not followed."""


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
        self._decoder = Decoder(interface)
        page = snapshot.memory.read(snapshot.config.exchange.base, protocol.PAGE)
        self.victims = _victims(page, interface)
        self._slots = interface.population.slots_per_victim
        self._label = next((call.label for call in interface.calls if call.label_name == _LABEL), -1)
        self._start = [self._content(snapshot.ram, victim) for victim in self.victims]
        self._own = [self._own_roots(number) for number in range(len(self.victims))]

    def _content(self, ram: Ram, victim: Victim) -> list[SlotContent]:
        first = (victim.cnode - ram.base) >> self._layout.slot_bits
        return [SlotContent(self._layout, int(w[0]), int(w[1])) for w in ram.slots[first : first + self._slots]]

    def _own_roots(self, victim: int) -> frozenset[int]:
        """Slots that hold a capability to the victim's own CNode under which slot numbers are addresses."""
        found = set()
        for slot, content in enumerate(self._start[victim]):
            if content.type == "cnode_cap" and content.base == self.victims[victim].cnode:
                radix, guard = content.field("capCNodeRadix"), content.field("capCNodeGuardSize")
                if radix + guard == _DEPTH and 1 << radix == self._slots and not content.field("capCNodeGuard"):
                    found.add(slot)
        return frozenset(found)

    def program_of(self, memory: MemoryImage, calls: int) -> bytes | None:
        """The program as it lies in the exchange area; None if memory does not hold it."""
        return read_optional(memory, self._config.exchange.base + protocol.EXCHANGE_PROGRAM, calls * CALL_BYTES)

    # The log

    def judge(self, log: Any, results: Any, program: bytes, judgement: Judgement) -> None:
        """Judge a log (protocol.SMC_LOG[n]) of a program with these results (protocol.RESULT[calls])."""
        rows = records(program)
        seen: set[int] = set()
        judgement.judged += len(log)
        for entry in log:
            index = int(entry["call"])
            registers = tuple(entry["arguments"].tolist())
            evidence = {"call": index, "registers": [hex(value) for value in registers]}
            if index >= len(rows):
                judgement.fail("an SMC while no call of the program was performed", "smc", **evidence)
                continue
            call = self._decoder.decode_call(rows, index)
            name = self.interface.calls[call.call].name
            evidence |= {"name": name, "target": hex(call.target), "victim": call.victim}
            if index in seen:
                judgement.fail(f"call {index} ({name}) made more than one SMC", "smc", **evidence)
                continue
            seen.add(index)
            if call.info >> 12 != self._label or call.info & _INFO_LENGTH < SMC_REGISTERS:
                judgement.fail(f"call {index} ({name}) made an SMC and is no invocation of one", "smc", **evidence)
            elif registers != call.words[:SMC_REGISTERS]:
                evidence["message_registers"] = [hex(word) for word in call.words]
                judgement.fail(f"x0-x7 of the SMC are not the message of call {index} ({name})", "smc", **evidence)
            elif not self._known_good(rows, index, call, results):
                judgement.requests.append(Request("smc_authority", index, evidence))

    def _known_good(self, rows: list[bytes], index: int, call: Decoded, results: Any) -> bool:
        """Whether the capability before the call is known, and allows this function."""
        if call.target >= self._slots:
            return False
        content = self._before(rows, index, results, call.victim, call.target)
        return isinstance(content, int) and content in (0, call.words[0])

    def _before(self, rows: list[bytes], index: int, results: Any, victim: int, slot: int) -> object:
        """Badge of the SMC capability in a slot before a call; None for anything else; UNKNOWN."""
        changed: dict[tuple[int, int], object] = {}
        states, errors = results["state"][:index].tolist(), results["error"][:index].tolist()
        for earlier in range(index):
            if states[earlier] in (CallState.NOT_REACHED, CallState.SKIPPED):
                continue
            type_ = self.interface.calls[rows[earlier][0] % len(self.interface.calls)]
            if type_.name in _HARMLESS_CALLS or type_.interface in _HARMLESS_INTERFACES:
                continue
            done = self._decoder.decode_call(rows, earlier)
            if not type_.interface:
                # A system call: it changes slots only by handing over capabilities.
                if (done.info | int(results["info"][earlier])) & _CAPS:
                    return UNKNOWN
                continue
            if states[earlier] != CallState.DONE:
                return UNKNOWN
            if not errors[earlier] and not self._follow(type_.name, done, changed):
                return UNKNOWN
        return self._badge_at(victim, slot, changed)

    def _badge_at(self, victim: int, slot: int, changed: dict[tuple[int, int], object]) -> object:
        key = (victim, slot)
        return changed[key] if key in changed else _badge(self._start[victim][slot])

    def _is_own(self, victim: int, slot: int, changed: dict[tuple[int, int], object]) -> bool:
        """Whether a slot still holds a capability to the victim's whole capability space."""
        return slot in self._own[victim] and (victim, slot) not in changed

    def _follow(self, name: str, done: Decoded, changed: dict[tuple[int, int], object]) -> bool:
        """What a successful operation did to the slots of the victim that made it; False if that is not plain."""
        victim, words = done.victim, done.words
        root = done.caps[0] if done.caps else -1
        if name == "Untyped_Retype":
            # Words: type, size, node index, node depth, offset, number. Depth 0 means the root itself.
            if words[3] or not self._is_own(victim, root, changed):
                return False
            changed.update({(victim, number): None for number in range(words[4], words[4] + words[5])})
            return True
        if not self._is_own(victim, done.target, changed) or words[1] != _DEPTH or words[0] >= self._slots:
            return False
        if name == "CNode_Delete":
            changed[victim, words[0]] = None
            return True
        if name not in ("CNode_Copy", "CNode_Mint", "CNode_Move"):
            return False
        source, depth = words[2], words[3]
        if not self._is_own(victim, root, changed) or depth != _DEPTH or source >= self._slots:
            return False
        moved = self._badge_at(victim, source, changed)
        if name == "CNode_Mint" and moved == 0:
            moved = words[5]
        if name == "CNode_Move":
            changed[victim, source] = None
        changed[victim, words[0]] = moved
        return True

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
                judgement.fail(
                    f"call {request.call} made SMC {function:#x} through a capability for {badge:#x}",
                    "smc_cap",
                    badge=hex(int(str(badge))),
                    **evidence,
                )
        return judgement


def _badge(content: SlotContent) -> object:
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
        judgement.fail_caps(context, badged[~same], lambda row: "its badge is not that of what it was copied from")
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
