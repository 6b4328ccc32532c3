# SPDX-License-Identifier: BSD-2-Clause
"""A kernel state made by hand: its own bit-field layout, its own memory, no kernel and no QEMU.

The layout is deliberately not the real kernel's: what is tested must take everything from it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from harness import protocol
from harness.configs import MachineConfig, load_config
from harness.errors import ImageError
from harness.invariants.registry import Checker, CheckReport
from harness.kernel_state.bitfields import parse
from harness.kernel_state.dwarf import Member, Struct, Types, Variable
from harness.kernel_state.elf import Elf, Segment, Symbol
from harness.kernel_state.layout import Layout

OFFSET = 0xFFFFFF8000000000
_CAP = "padding 59 field capType 5"

BITFIELDS = f"""
base 64(49,1)
block null_cap {{ padding 64 {_CAP} }}
block untyped_cap {{
    field capFreeIndex 48 padding 4 field capIsNonSecure 1 padding 4 field capIsDevice 1 field capBlockSize 6
    field_high capPtr 47 padding 12 field capType 5 }}
block endpoint_cap {{ field capEPPtr 64 field capEPBadge 28 padding 31 field capType 5 }}
block notification_cap {{ field capNtfnBadge 64 field_high capNtfnPtr 49 padding 10 field capType 5 }}
block reply_cap {{ field capTCBPtr 64 field capReplyMaster 1 padding 58 field capType 5 }}
block cnode_cap {{
    field capCNodePtr 64
    field capCNodeGuardSize 6 field capCNodeRadix 6 field capCNodeGuard 18 padding 29 field capType 5 }}
block thread_cap {{ padding 64 field_high capTCBPtr 49 padding 10 field capType 5 }}
block irq_control_cap {{ padding 64 {_CAP} }}
block irq_handler_cap {{ field capIRQ 16 padding 48 {_CAP} }}
block zombie_cap {{ field capZombieID 64 field capZombieType 7 padding 52 field capType 5 }}
block domain_cap {{ padding 64 {_CAP} }}
block frame_cap {{
    field capFMappedASID 16 field_high capFBasePtr 48
    field capFSize 2 field_high capFMappedAddress 49 padding 6 field capFIsNonSecure 1 field capFIsDevice 1
    field capType 5 }}
block page_table_cap {{ field capPTMappedASID 16 field_high capPTBasePtr 48 {_CAP} }}
block page_directory_cap {{ field capPDMappedASID 16 field_high capPDBasePtr 48 {_CAP} }}
block page_upper_directory_cap {{ field capPUDMappedASID 16 field_high capPUDBasePtr 48 {_CAP} }}
block page_global_directory_cap {{ field capPGDMappedASID 16 field_high capPGDBasePtr 48 {_CAP} }}
block asid_control_cap {{ padding 64 {_CAP} }}
block asid_pool_cap {{ padding 64 field capASIDBase 16 field_high capASIDPool 37 padding 6 field capType 5 }}
block smc_cap {{ field capSMCBadge 64 {_CAP} }}
tagged_union cap capType {{
    tag null_cap 0 tag untyped_cap 2 tag endpoint_cap 4 tag notification_cap 6 tag reply_cap 8 tag cnode_cap 10
    tag thread_cap 12 tag irq_control_cap 14 tag irq_handler_cap 16 tag zombie_cap 18 tag domain_cap 20
    tag frame_cap 1 tag page_table_cap 3 tag page_directory_cap 5 tag page_upper_directory_cap 7
    tag page_global_directory_cap 9 tag asid_control_cap 11 tag asid_pool_cap 13 tag smc_cap 15 }}
block endpoint {{ field epQueue_head 64 field_high epQueue_tail 47 padding 15 field state 2 }}
block notification {{ padding 64 padding 64 padding 64 padding 62 field state 2 }}
block mdb_node {{ field_high mdbNext 47 padding 15 field mdbRevocable 1 field mdbFirstBadged 1 field mdbPrev 64 }}
block thread_state {{ padding 128 padding 60 field tsType 4 }}
"""

_WORDS = {
    "ksCurThread": 1,
    "ksIdleThread": 1,
    "intStateIRQNode": 1,
    "armKSASIDTable": 128,
    "intStateIRQTable": 256,
    "ksReadyQueues": 512,
    "armKSGlobalUserPGD": 512,
    "armKSGlobalKernelPGD": 512,
    "armKSGlobalKernelPUD": 512,
    "armKSGlobalKernelPDs": 4 * 512,
    "armKSGlobalKernelPT": 512,
}
_CONSTANTS = (
    {"tcbCTable": 0, "tcbVTable": 1, "tcbReply": 2, "tcbCaller": 3, "tcbBuffer": 4, "tcbCNodeEntries": 5},
    {"seL4_CapNull": 0, "seL4_CapInitThreadCNode": 2, "seL4_CapBootInfoFrame": 9},
    {"seL4_NoError": 0, "seL4_InvalidArgument": 1, "seL4_NumErrors": 2},
)


def _member(offset: int, size: int, dimensions: tuple[int, ...] = (), type_: str = "") -> Member:
    return Member(offset, size, dimensions, type_)


def make_layout(config: MachineConfig) -> Layout:
    """A layout whose variables lie page by page from the start of secure RAM."""
    base = config.secure_ram.base
    segment = Segment(base + OFFSET, base, 0x100000, b"")
    variables: dict[str, Variable] = {}
    at = base + 0x10000
    for name, words in _WORDS.items():
        variables[name] = Variable(at + OFFSET, words * 8, (words,), "")
        at += -(-words * 8 // 4096) * 4096
    structs = {
        "cte": Struct("cte", 32, {"cap": _member(0, 16), "cteMDBNode": _member(16, 16)}),
        "tcb": Struct("tcb", 1000, {"tcbState": _member(800, 24), "tcbName": _member(1000, 0)}),
        "asid_pool": Struct("asid_pool", 4096, {"array": _member(0, 4096, (512,))}),
        "seL4_UntypedDesc": Struct(
            "seL4_UntypedDesc",
            12,
            {
                "paddr": _member(0, 8),
                "isNonSecure": _member(8, 1),
                "sizeBits": _member(10, 1),
                "isDevice": _member(11, 1),
            },
        ),
        "seL4_BootInfo": Struct(
            "seL4_BootInfo",
            200,
            {
                "nodeID": _member(0, 8),
                "untyped": _member(8, 16, (), "seL4_SlotRegion"),
                "untypedList": _member(24, 120, (10,), "seL4_UntypedDesc"),
            },
        ),
    }
    elf = SimpleNamespace(path=Path("kernel.elf"), segments=(segment,), symbols={})
    symbols = {name: Symbol(name, v.address, v.size, "OBJECT") for name, v in variables.items()}
    elf.symbols = symbols
    return Layout(cast(Elf, elf), Types(structs, _CONSTANTS, variables), parse(BITFIELDS))


class Memory:
    """Secure RAM (and the firmware's) of the config, written by hand."""

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.bytes = np.zeros(size, np.uint8)
        self.words = self.bytes.view(np.uint64)

    def view(self, address: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Array over a range; ImageError outside."""
        offset = address - self.base
        if offset < 0 or offset + size > len(self.bytes):
            raise ImageError(f"no memory at {address:#x}")
        return self.bytes[offset : offset + size]

    def read(self, address: int, size: int, /) -> bytes:
        """Bytes of a range; ImageError outside."""
        return self.view(address, size).tobytes()

    def put(self, address: int, *words: int) -> None:
        """Write words at a physical address."""
        start = (address - self.base) >> 3
        self.words[start : start + len(words)] = [word & ((1 << 64) - 1) for word in words]


class Machine:
    """A healthy state to spoil: one CNode, one thread, an address space of all page sizes, untypeds."""

    def __init__(self) -> None:
        self.config = load_config()
        self.layout = make_layout(self.config)
        ram, firmware = self.config.secure_ram, self.config.firmware_ram
        self.memory = Memory(ram.base, firmware.end - ram.base)
        base = ram.base
        self.cnode, self.thread, self.idle, self.irq_node = (
            base + 0x100000,
            base + 0x110000,
            base + 0x111000,
            base + 0x112000,
        )
        self.pgd, self.pud, self.pd, self.pt = (base + 0x120000 + i * 0x1000 for i in range(4))
        self.pool, self.endpoint, self.page = base + 0x124000, base + 0x125000, base + 0x126000
        self.large, self.arena, self.normal = base + 0x400000, base + 0x200000, self.config.normal_ram.base
        self.huge, self.device = 0x80000000, self.config.region("virtio").base
        self.boot_info = base + 0x127000
        self.chain: list[int] = []
        self._globals()
        self._window()
        self._tables()
        self._slots()
        self._report()

    # Writing

    def var(self, name: str) -> int:
        """Physical address of a variable."""
        return self.layout.physical(self.layout.variable(name).address)

    def virtual(self, address: int) -> int:
        """Kernel pointer."""
        return self.layout.virtual(address)

    def cap(self, type_: str, **fields: int) -> tuple[int, int]:
        """Words of a capability."""
        words = self.layout.block(type_).encode(capType=self.layout.cap_types[type_], **fields)
        return words[0], words[1]

    def slot(self, number: int, container: int | None = None) -> int:
        """Physical address of a slot."""
        return (self.cnode if container is None else container) + 32 * number

    def set(self, slot: int, cap: tuple[int, int], *, revocable: bool = True, first_badged: bool = True) -> int:
        """Write a capability with an unlinked node; returns the slot's address."""
        self.memory.put(slot, *cap, *self.node(0, 0, revocable=revocable, first_badged=first_badged))
        return slot

    def node(self, next_: int, previous: int, *, revocable: bool = True, first_badged: bool = False) -> list[int]:
        """Words of an mdb_node."""
        return self.layout.block("mdb_node").encode(
            mdbNext=self.virtual(next_) if next_ else 0,
            mdbPrev=self.virtual(previous) if previous else 0,
            mdbRevocable=revocable,
            mdbFirstBadged=first_badged,
        )

    def link(self, *slots: int, revocable: bool = True) -> None:
        """Chain slots in the mapping database in this order."""
        ends = [0, *slots, 0]
        for i, slot in enumerate(slots, 1):
            self.memory.put(slot + 16, *self.node(ends[i + 1], ends[i - 1], revocable=revocable))

    def entry(self, table: int, index: int, value: int) -> None:
        """Write a table entry."""
        self.memory.put(table + 8 * index, value)

    # The healthy state

    def _globals(self) -> None:
        put = self.memory.put
        put(self.var("ksCurThread"), self.virtual(self.thread + self.layout.tcb_offset))
        put(self.var("ksIdleThread"), self.virtual(self.idle + self.layout.tcb_offset))
        put(self.var("intStateIRQNode"), self.virtual(self.irq_node))
        put(self.var("armKSASIDTable"), self.virtual(self.pool))
        put(self.pool + 8, self.virtual(self.pgd))

    def _window(self) -> None:
        kernel_pgd, pud = self.var("armKSGlobalKernelPGD"), self.var("armKSGlobalKernelPUD")
        pds = self.var("armKSGlobalKernelPDs")
        self.entry(kernel_pgd, 511, pud | 3)
        for i in range(4):
            self.entry(pud, i, (pds + 4096 * i) | 3)
        for region in self.config.regions:
            if region.window and region.kind == "ram":
                ns = 0x20 if region.world == "non-secure" else 0
                for address in range(region.base, min(region.end, region.base + (16 << 21)), 1 << 21):
                    self.entry(pds, address >> 21, address | 0x401 | ns)

    def _tables(self) -> None:
        self.entry(self.pgd, 0, self.pud | 3)
        self.entry(self.pud, 0, self.pd | 3)
        self.entry(self.pd, 0, self.pt | 3)
        self.entry(self.pt, 0, self.page | 0x403)
        self.entry(self.pt, 1, self.normal | 0x423)
        self.entry(self.pt, 2, self.device | 0x423)
        self.entry(self.pd, 1, self.large | 0x401)
        self.entry(self.pud, 1, self.huge | 0x421)

    def frame(self, address: int, size: int = 0, *, non_secure: bool = False, device: bool = False) -> tuple[int, int]:
        """Words of a frame capability."""
        return self.cap(
            "frame_cap",
            capFBasePtr=self.virtual(address),
            capFSize=size,
            capFIsNonSecure=non_secure,
            capFIsDevice=device,
            capFMappedASID=1,
        )

    def untyped(
        self, address: int, bits: int, free: int = 0, *, non_secure: bool = False, device: bool = False
    ) -> tuple[int, int]:
        """Words of an untyped capability; `free` in bytes."""
        return self.cap(
            "untyped_cap",
            capPtr=self.virtual(address),
            capBlockSize=bits,
            capFreeIndex=free >> 4,
            capIsNonSecure=non_secure,
            capIsDevice=device,
        )

    def _slots(self) -> None:
        v, cap, s = self.virtual, self.cap, self.slot
        caps = [
            (1, cap("thread_cap", capTCBPtr=v(self.thread + self.layout.tcb_offset))),
            (2, cap("cnode_cap", capCNodePtr=v(self.cnode), capCNodeRadix=7, capCNodeGuardSize=57)),
            (3, cap("page_global_directory_cap", capPGDBasePtr=v(self.pgd))),
            (4, cap("page_upper_directory_cap", capPUDBasePtr=v(self.pud))),
            (5, cap("page_directory_cap", capPDBasePtr=v(self.pd))),
            (6, cap("page_table_cap", capPTBasePtr=v(self.pt))),
            (7, cap("asid_pool_cap", capASIDPool=v(self.pool))),
            (8, cap("endpoint_cap", capEPPtr=v(self.endpoint))),
            (9, self.frame(self.boot_info)),
            (10, self.frame(self.page)),
            (11, self.frame(self.normal, non_secure=True)),
            (12, self.frame(self.device, non_secure=True, device=True)),
            (13, self.frame(self.large, 1)),
            (14, self.frame(self.huge, 2, non_secure=True)),
            (20, self.untyped(self.arena, 18, 0x1000)),
            (21, self.cap("endpoint_cap", capEPPtr=v(self.arena), capEPBadge=5)),
            (22, self.untyped(self.config.secure_ram.base + 0x800000, 22)),
            (30, self.cap("smc_cap", capSMCBadge=0)),
            (31, self.cap("smc_cap", capSMCBadge=7)),
        ]
        for number, words in caps:
            self.set(s(number), words)
        self.link(s(20), s(21))
        self.link(s(30), s(31))
        self.memory.put(s(31) + 16, *self.node(0, s(30), first_badged=True))
        own = self.cap("cnode_cap", capCNodePtr=v(self.cnode), capCNodeRadix=7, capCNodeGuardSize=57)
        self.set(self.slot(0, self.thread), own)
        self.link(s(2), self.slot(0, self.thread))
        self.set(self.slot(4, self.thread), self.frame(self.normal, non_secure=True))
        self.memory.put(self.boot_info, 0, 40, 42)
        self.memory.put(self.boot_info + 24, self.arena, 18 << 16)
        self.memory.view(self.boot_info + 36, 8)[:] = np.frombuffer(self.normal.to_bytes(8, "little"), np.uint8)
        self.memory.view(self.boot_info + 44, 4)[:] = [1, 0, 21, 0]

    def _report(self) -> None:
        self.report = self.memory.view(self.config.firmware_ram.base, protocol.REPORT.itemsize).view(protocol.REPORT)
        self.report["parks"] = 1
        self.report["scr_el3"] = 0x1430
        self.report["ttbr0_el1"] = self.pgd | 1 << 48
        self.report["ttbr1_el1"] = self.var("armKSGlobalKernelPGD")

    # Judging

    def checker(self) -> Checker:
        """A checker for the state as it is now."""
        return Checker(self.layout, self.config, self.memory)


Change = Callable[[Machine], object]


def both(*changes: Change) -> Change:
    """Several changes, one after the other."""
    return lambda machine: [change(machine) for change in changes]


def broken(report: CheckReport) -> list[str]:
    """Ids of the violated invariants, each once."""
    return list(dict.fromkeys(violation.invariant for violation in report.violations))
