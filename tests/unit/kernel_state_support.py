# SPDX-License-Identifier: BSD-2-Clause
"""A kernel state made by hand: its own bit-field layout, its own memory, no kernel and no QEMU.

The layout is deliberately not the real kernel's: what is tested must take everything from it.
"""

from __future__ import annotations

import struct
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
BOOT_INFO = {"ipcBuffer": 24, "userImagePaging": 32, "userImageFrames": 48, "untypedList": 200}
"""Offsets of some members of seL4_BootInfo."""
_FIRST_TABLE, _FIRST_FRAME, FIRST_UNTYPED = 106, 109, 110
"""What the boot information tells: first slots of tables, frames, untypeds."""
_MOST_UNTYPEDS = 200
_RADIX = 9
_GUARD = 64 - _RADIX
_NORMAL, _NEVER_EXECUTE = 4 << 2, 1 << 54
_PAGE, _BLOCK = 0x403, 0x401
_USER_PAGE, _USER_BLOCK = _PAGE | 1 << 11, _BLOCK | 1 << 11
"""Entries of leaves: valid, accessed, and of one ASID (nG)."""
_CAP = "padding 59 field capType 5"

BITFIELDS = f"""
base 64(49,1)
block null_cap {{ padding 64 {_CAP} }}
block untyped_cap {{
    field capFreeIndex 48 padding 4 field capIsNonSecure 1 padding 4 field capIsDevice 1 field capBlockSize 6
    field_high capPtr 47 padding 12 field capType 5 }}
block endpoint_cap {{ field capEPPtr 64 field capEPBadge 28 padding 28
    field capCanGrant 1 field capCanSend 1 field capCanReceive 1 field capType 5 }}
block notification_cap {{ field capNtfnBadge 64 field_high capNtfnPtr 49 padding 8
    field capNtfnCanReceive 1 field capNtfnCanSend 1 field capType 5 }}
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
    field capFSize 2 field_high capFMappedAddress 49 padding 4 field capFVMRights 2
    field capFIsNonSecure 1 field capFIsDevice 1 field capType 5 }}
block page_table_cap {{ field capPTMappedASID 16 field_high capPTBasePtr 48
    field capPTIsMapped 1 field_high capPTMappedAddress 28 padding 30 field capType 5 }}
block page_directory_cap {{ field capPDMappedASID 16 field_high capPDBasePtr 48
    field capPDIsMapped 1 field_high capPDMappedAddress 19 padding 39 field capType 5 }}
block page_upper_directory_cap {{ field capPUDMappedASID 16 field_high capPUDBasePtr 48
    field capPUDIsMapped 1 field_high capPUDMappedAddress 10 padding 48 field capType 5 }}
block page_global_directory_cap {{ field capPGDMappedASID 16 field_high capPGDBasePtr 48
    field capPGDIsMapped 1 padding 58 field capType 5 }}
block asid_control_cap {{ padding 64 {_CAP} }}
block asid_pool_cap {{ padding 64 field capASIDBase 16 field_high capASIDPool 37 padding 6 field capType 5 }}
block smc_cap {{ field capSMCBadge 64 {_CAP} }}
tagged_union cap capType {{
    tag null_cap 0 tag untyped_cap 2 tag endpoint_cap 4 tag notification_cap 6 tag reply_cap 8 tag cnode_cap 10
    tag thread_cap 12 tag irq_control_cap 14 tag irq_handler_cap 16 tag zombie_cap 18 tag domain_cap 20
    tag frame_cap 1 tag page_table_cap 3 tag page_directory_cap 5 tag page_upper_directory_cap 7
    tag page_global_directory_cap 9 tag asid_control_cap 11 tag asid_pool_cap 13 tag smc_cap 15 }}
block seL4_CapRights {{ padding 61 field capAllowGrant 1 field capAllowRead 1 field capAllowWrite 1 }}
block vm_attributes {{ padding 61 field armExecuteNever 1 field armParityEnabled 1 field armPageCacheable 1 }}
block endpoint {{ field epQueue_head 64 field_high epQueue_tail 47 padding 15 field state 2 }}
block notification {{
    field ntfnMsgIdentifier 64 field_high ntfnBoundTCB 49 padding 15 padding 15 field_high ntfnQueue_tail 49
    padding 13 field_high ntfnQueue_head 49 field state 2 }}
block mdb_node {{ field_high mdbNext 47 padding 15 field mdbRevocable 1 field mdbFirstBadged 1 field mdbPrev 64 }}
block thread_state {{
    field blockingIPCBadge 64 padding 61 field blockingIPCCanGrant 1 field tcbQueued 1 field blockingIPCIsCall 1
    field_high blockingObject 45 padding 15 field tsType 4 }}
block NullFault {{ padding 125 field seL4_FaultType 3 }}
block CapFault {{ field address 64 field inReceivePhase 1 padding 60 field seL4_FaultType 3 }}
block UnknownSyscall {{ field syscallNumber 64 padding 61 field seL4_FaultType 3 }}
block UserException {{ padding 64 field number 32 field code 29 field seL4_FaultType 3 }}
block VMFault {{ field address 64 field FSR 32 field instructionFault 1 padding 28 field seL4_FaultType 3 }}
tagged_union seL4_Fault seL4_FaultType {{
    tag NullFault 0 tag CapFault 1 tag UnknownSyscall 2 tag UserException 3 tag VMFault 5 }}
block missing_capability {{ padding 64 padding 55 field bitsLeft 7 field lufType 2 }}
tagged_union lookup_fault lufType {{ tag missing_capability 1 }}
"""

_WORDS = {
    "ksCurThread": 1,
    "ksIdleThread": 1,
    "intStateIRQNode": 1,
    "ksSchedulerAction": 1,
    "ksCurDomain": 1,
    "ksDomainTime": 1,
    "ksDomScheduleIdx": 1,
    "ksDomSchedule": 4,
    "ksReadyQueuesL1Bitmap": 2,
    "ksReadyQueuesL2Bitmap": 6,
    "ksActiveFPUState": 1,
    "armKSASIDTable": 128,
    "intStateIRQTable": 256,
    "ksReadyQueues": 512,
    "armKSGlobalUserPGD": 512,
    "armKSGlobalKernelPGD": 512,
    "armKSGlobalKernelPUD": 512,
    "armKSGlobalKernelPDs": 4 * 512,
    "armKSGlobalKernelPT": 512,
}
_TCB_WORDS = (
    *("tcbPriority", "tcbMCP", "tcbDomain", "tcbIPCBuffer", "tcbFaultHandler", "tcbTimeSlice", "tcbBoundNotification"),
    *("tcbSchedNext", "tcbSchedPrev", "tcbEPNext", "tcbEPPrev"),
)
_CONSTANTS = (
    {"tcbCTable": 0, "tcbVTable": 1, "tcbReply": 2, "tcbCaller": 3, "tcbBuffer": 4, "tcbCNodeEntries": 5},
    {"seL4_CapNull": 0, "seL4_CapInitThreadCNode": 2, "seL4_CapBootInfoFrame": 9, "seL4_NumInitialCaps": _FIRST_TABLE},
    {
        "ThreadState_Inactive": 0,
        "ThreadState_Running": 1,
        "ThreadState_Restart": 2,
        "ThreadState_BlockedOnReceive": 3,
        "ThreadState_BlockedOnSend": 4,
        "ThreadState_BlockedOnReply": 5,
        "ThreadState_BlockedOnNotification": 6,
        "ThreadState_IdleThreadState": 7,
    },
    {"EPState_Idle": 0, "EPState_Send": 1, "EPState_Recv": 2},
    {"NtfnState_Idle": 0, "NtfnState_Waiting": 1, "NtfnState_Active": 2},
    {"seL4_CapInitThreadIPCBuffer": 105},
    {"VMKernelOnly": 0, "VMReadWrite": 1, "VMKernelReadOnly": 2, "VMReadOnly": 3},
    {"DEVICE_nGnRnE": 0, "NORMAL": 4},
    {"IRQInactive": 0, "IRQSignal": 1, "IRQTimer": 2, "IRQReserved": 3},
    {"seL4_NoError": 0, "seL4_InvalidArgument": 1, "seL4_NumErrors": 2},
)


def _member(offset: int, size: int, dimensions: tuple[int, ...] = (), type_: str = "") -> Member:
    return Member(offset, size, dimensions, type_)


_TCB = {
    "tcbArch": _member(0, 800),
    "tcbState": _member(800, 24),
    "tcbFault": _member(824, 16),
    **{name: _member(840 + 8 * index, 8) for index, name in enumerate(_TCB_WORDS)},
    "tcbLookupFailure": _member(840 + 8 * len(_TCB_WORDS), 16),
    "tcbName": _member(1000, 0),
}


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
        "tcb": Struct("tcb", 1000, _TCB),
        "arch_tcb": Struct("arch_tcb", 800, {"tcbContext": _member(0, 800)}),
        "user_context": Struct("user_context", 800, {"fpuState": _member(280, 520)}),
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
            BOOT_INFO["untypedList"] + 12 * _MOST_UNTYPEDS,
            {
                "nodeID": _member(0, 8),
                "untyped": _member(8, 16, (), "seL4_SlotRegion"),
                "ipcBuffer": _member(BOOT_INFO["ipcBuffer"], 8),
                "userImagePaging": _member(BOOT_INFO["userImagePaging"], 16, (), "seL4_SlotRegion"),
                "userImageFrames": _member(BOOT_INFO["userImageFrames"], 16, (), "seL4_SlotRegion"),
                "untypedList": _member(
                    BOOT_INFO["untypedList"], 12 * _MOST_UNTYPEDS, (_MOST_UNTYPEDS,), "seL4_UntypedDesc"
                ),
                "numNodes": _member(144, 8),
                "initThreadCNodeSizeBits": _member(152, 1),
                "extraBIPages": _member(160, 16, (), "seL4_SlotRegion"),
                "empty": _member(176, 16, (), "seL4_SlotRegion"),
            },
        ),
    }
    elf = SimpleNamespace(path=Path("kernel.elf"), segments=(segment,), symbols={})
    symbols = {name: Symbol(name, v.address, v.size, "OBJECT") for name, v in variables.items()}
    # The image without its boot part: the pages of the variables.
    symbols["ki_boot_end"] = Symbol("ki_boot_end", base + 0x10000 + OFFSET, 0, "NOTYPE")
    symbols["ki_end"] = Symbol("ki_end", at + OFFSET, 0, "NOTYPE")
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
        # Threads besides the one that runs: ready, blocked sending, waiting for a notification, waiting for a reply.
        self.ready, self.sender, self.waiter, self.caller = (base + 0x130000 + i * 0x1000 for i in range(4))
        self.notification, self.bound = base + 0x134000, base + 0x134040
        self.chain: list[int] = []
        self._globals()
        self._window()
        self._tables()
        self._slots()
        self._threads()
        self._report()
        self._tell()

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
            self.memory.put(slot + 16, *self.node(ends[i + 1], ends[i - 1], revocable=revocable, first_badged=i == 1))

    def entry(self, table: int, index: int, value: int) -> None:
        """Write a table entry."""
        self.memory.put(table + 8 * index, value)

    def member(self, thread: int, name: str, value: int) -> None:
        """Write a member of a thread's tcb_t."""
        self.memory.put(thread + self.layout.tcb_offset + self.layout.struct("tcb")[name].offset, value)

    def link_threads(self, names: str, *threads: int) -> None:
        """Link threads into a queue (`tcbSched` or `tcbEP`) in this order."""
        ends = [0, *(self.tcb(thread) for thread in threads), 0]
        for i, thread in enumerate(threads, 1):
            self.member(thread, f"{names}Next", ends[i + 1])
            self.member(thread, f"{names}Prev", ends[i - 1])

    def tcb(self, thread: int) -> int:
        """Kernel pointer to a thread's tcb_t."""
        return self.virtual(thread + self.layout.tcb_offset)

    def state(self, thread: int, name: str, blocking: int = 0, *, queued: bool = False) -> None:
        """Write a thread's state (`Running`); `blocking`: physical address of what it waits for."""
        words = self.layout.block("thread_state").encode(
            tsType=self.layout.constant(f"ThreadState_{name}"),
            blockingObject=self.virtual(blocking) if blocking else 0,
            tcbQueued=queued,
        )
        address = thread + self.layout.tcb_offset + self.layout.struct("tcb")["tcbState"].offset
        self.memory.put(address, *words)

    def ready_queue(self, priority: int, *threads: int, domain: int = 0, mark: bool = True) -> None:
        """Put threads into a ready queue, and mark it in both bitmaps."""
        domains = self.layout.variable("ksReadyQueuesL1Bitmap").size // 8
        priorities = self.layout.variable("ksReadyQueues").size // 16 // domains
        words = self.layout.variable("ksReadyQueuesL2Bitmap").size // 8 // domains
        queue = self.var("ksReadyQueues") + 16 * (domain * priorities + priority)
        ends = (self.tcb(threads[0]), self.tcb(threads[-1])) if threads else (0, 0)
        self.memory.put(queue, *ends)
        self.link_threads("tcbSched", *threads)
        for thread in threads:
            self.state(thread, "Running", queued=True)
            self.member(thread, "tcbPriority", priority)
            self.member(thread, "tcbDomain", domain)
        if mark:
            self.memory.put(self.var("ksReadyQueuesL1Bitmap") + 8 * domain, 1 << (priority >> 6))
            word = self.var("ksReadyQueuesL2Bitmap") + 8 * (domain * words + (priority >> 6))
            self.memory.put(word, 1 << (priority & 63))

    def queue(self, kind: str, address: int, state: str, *threads: int, bound: int = 0) -> None:
        """Write an endpoint or notification with these threads in its queue."""
        prefix = "epQueue" if kind == "endpoint" else "ntfnQueue"
        fields = {"state": self.layout.constant(state)}
        if threads:
            fields |= {f"{prefix}_head": self.tcb(threads[0]), f"{prefix}_tail": self.tcb(threads[-1])}
        if bound:
            fields["ntfnBoundTCB"] = self.tcb(bound)
        self.memory.put(address, *self.layout.block(kind).encode(**fields))
        self.link_threads("tcbEP", *threads)

    # The healthy state

    def _globals(self) -> None:
        put = self.memory.put
        put(self.var("ksCurThread"), self.virtual(self.thread + self.layout.tcb_offset))
        put(self.var("ksIdleThread"), self.virtual(self.idle + self.layout.tcb_offset))
        put(self.var("intStateIRQNode"), self.virtual(self.irq_node))
        put(self.var("armKSASIDTable"), self.virtual(self.pool))
        put(self.pool + 8, self.virtual(self.pgd))
        put(self.var("ksDomSchedule"), 0, 4, 1, 7)
        put(self.var("ksDomainTime"), 3)
        put(self.var("intStateIRQTable") + 8 * 30, self.layout.constant("IRQTimer"))
        put(self.var("intStateIRQTable") + 8 * 90, self.layout.constant("IRQSignal"))

    def _window(self) -> None:
        kernel_pgd, pud = self.var("armKSGlobalKernelPGD"), self.var("armKSGlobalKernelPUD")
        pds = self.var("armKSGlobalKernelPDs")
        self.entry(kernel_pgd, 511, pud | 3)
        for i in range(4):
            self.entry(pud, i, (pds + 4096 * i) | 3)
        for region in self.config.regions:
            if region.window and region.kind == "ram":
                ns = 0x20 if region.world == "non-secure" else 0
                for address in range(region.base, region.end, 1 << 21):
                    self.entry(pds, address >> 21, address | _BLOCK | _NORMAL | _NEVER_EXECUTE | ns)
        devices = [region for region in self.config.regions if region.window and region.kind == "device"]
        self.entry(pds, 4 * 512 - 1, self.var("armKSGlobalKernelPT") | 3)
        for number, region in enumerate(devices):
            self.entry(self.var("armKSGlobalKernelPT"), number, region.base | _PAGE | _NEVER_EXECUTE)

    def _tables(self) -> None:
        self.entry(self.pgd, 0, self.pud | 3)
        self.entry(self.pud, 0, self.pd | 3)
        self.entry(self.pd, 0, self.pt | 3)
        self.entry(self.pt, 0, self.page | _USER_PAGE)
        self.entry(self.pt, 1, self.normal | 0x20 | _USER_PAGE)
        self.entry(self.pt, 2, self.device | 0x20 | _USER_PAGE)
        self.entry(self.pd, 1, self.large | _USER_BLOCK)
        self.entry(self.pud, 1, self.huge | 0x20 | _USER_BLOCK)

    def frame(
        self, address: int, size: int = 0, *, non_secure: bool = False, device: bool = False, at: int | None = None
    ) -> tuple[int, int]:
        """Words of a frame capability; `at`: the virtual address that it is mapped at."""
        return self.cap(
            "frame_cap",
            capFBasePtr=self.virtual(address),
            capFSize=size,
            capFIsNonSecure=non_secure,
            capFIsDevice=device,
            capFVMRights=1,
            capFMappedASID=at is not None,
            capFMappedAddress=at or 0,
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
            (2, cap("cnode_cap", capCNodePtr=v(self.cnode), capCNodeRadix=_RADIX, capCNodeGuardSize=_GUARD)),
            (3, cap("page_global_directory_cap", capPGDBasePtr=v(self.pgd), capPGDIsMapped=1, capPGDMappedASID=1)),
            (4, cap("page_upper_directory_cap", capPUDBasePtr=v(self.pud), capPUDIsMapped=1, capPUDMappedASID=1)),
            (5, cap("page_directory_cap", capPDBasePtr=v(self.pd), capPDIsMapped=1, capPDMappedASID=1)),
            (6, cap("page_table_cap", capPTBasePtr=v(self.pt), capPTIsMapped=1, capPTMappedASID=1)),
            (7, cap("asid_pool_cap", capASIDPool=v(self.pool))),
            (8, cap("endpoint_cap", capEPPtr=v(self.endpoint))),
            (9, self.frame(self.boot_info)),
            (10, self.frame(self.page, at=0)),
            (11, self.frame(self.normal, non_secure=True, at=0x1000)),
            (12, self.frame(self.device, non_secure=True, device=True, at=0x2000)),
            (13, self.frame(self.large, 1, at=1 << 21)),
            (14, self.frame(self.huge, 2, non_secure=True, at=1 << 30)),
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
        own = self.cap("cnode_cap", capCNodePtr=v(self.cnode), capCNodeRadix=_RADIX, capCNodeGuardSize=_GUARD)
        self.set(self.slot(0, self.thread), own)
        self.link(s(2), self.slot(0, self.thread))
        self.set(self.slot(4, self.thread), self.frame(self.normal, non_secure=True))
        self.link(s(11), self.slot(4, self.thread))

    def _tell(self) -> None:
        """Boot information. All memory that nobody has is told to be untyped, in slots that are empty by now."""
        told = [(self.arena, 18, False, False), (self.normal, 21, True, False)]
        lines = self.layout.variable("intStateIRQTable").size // 8
        taken = [(base, base + (1 << bits)) for base, bits, _, _ in told] + [self.layout.image]
        taken += [(self.idle, self.idle + (1 << self.layout.tcb_bits)), (self.irq_node, self.irq_node + lines * 32)]
        taken += [(self.cnode, self.cnode + (32 << _RADIX)), (self.boot_info, self.boot_info + 4096)]
        for region in self.config.regions:
            if region.use in ("kernel", "untyped"):
                own = sorted(one for one in taken if region.covers(one[0]))
                at = region.base
                for start, end in [*own, (region.end, region.end)]:
                    while at < start:
                        bits = min((at & -at).bit_length(), (start - at).bit_length()) - 1
                        told.append((at, bits, region.world == "non-secure", region.kind == "device"))
                        at += 1 << bits
                    at = max(at, end)
        info, first, last = self.boot_info, FIRST_UNTYPED, FIRST_UNTYPED + len(told)
        put = self.memory.put
        put(info, 0, first, last, 0x1000, _FIRST_TABLE, _FIRST_FRAME, _FIRST_FRAME, first)
        put(info + 144, 1, _RADIX, 0, 0, last, 1 << _RADIX)
        for number, (base, bits, non_secure, device) in enumerate(told):
            entry = struct.pack("<QBBBB", base, non_secure, 0, bits, device)
            place = info + BOOT_INFO["untypedList"] + len(entry) * number
            self.memory.view(place, len(entry))[:] = np.frombuffer(entry, np.uint8)

    def _threads(self) -> None:
        v, cap = self.virtual, self.cap
        for number, thread in enumerate((self.ready, self.sender, self.waiter, self.caller), 50):
            self.set(self.slot(number), cap("thread_cap", capTCBPtr=self.tcb(thread)))
            self.master(thread)
        self.master(self.thread)
        self.set(self.slot(54), cap("notification_cap", capNtfnPtr=v(self.notification)))
        self.set(self.slot(55), cap("notification_cap", capNtfnPtr=v(self.bound)))
        self.set(self.slot(56), cap("irq_handler_cap", capIRQ=90))
        self.set(self.slot(90, self.irq_node), cap("notification_cap", capNtfnPtr=v(self.bound)))
        self.link(self.slot(55), self.slot(90, self.irq_node))
        self.state(self.thread, "Running")
        self.state(self.idle, "IdleThreadState")
        for thread in (self.thread, self.ready, self.sender, self.waiter, self.caller):
            self.member(thread, "tcbTimeSlice", 5)
        self.ready_queue(70, self.ready)
        self.state(self.sender, "BlockedOnSend", self.endpoint)
        self.queue("endpoint", self.endpoint, "EPState_Send", self.sender)
        self.state(self.waiter, "BlockedOnNotification", self.notification)
        self.queue("notification", self.notification, "NtfnState_Waiting", self.waiter)
        self.queue("notification", self.bound, "NtfnState_Idle", bound=self.thread)
        self.member(self.thread, "tcbBoundNotification", v(self.bound))
        self.state(self.caller, "BlockedOnReply")
        reply = self.set(self.slot(3, self.thread), cap("reply_cap", capTCBPtr=self.tcb(self.caller)))
        self.link(self.slot(2, self.caller), reply)

    def master(self, thread: int) -> None:
        """Write a thread's master reply capability."""
        self.set(self.slot(2, thread), self.cap("reply_cap", capTCBPtr=self.tcb(thread), capReplyMaster=1))

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
