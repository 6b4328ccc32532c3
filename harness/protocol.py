# SPDX-License-Identifier: BSD-2-Clause
"""The memory that host, plugin, firmware and victims share: every layout, once.

The C and assembly sides include `protocol.h`, which `header()` generates from the tables
here; the host reads the same memory through the numpy dtypes. Four areas:

* **control**: a file that host and TCG plugin map (`Control`). Futex words, the restore set,
  the list of pages that the last program changed (the host maps the guest's memory itself).
* **report**: EL3's account of the last park (`Report`), at the start of the firmware's RAM;
  the plugin copies it into the control file at each park.
* **exchange**: pages of normal RAM (`exchange` in the machine config) with the command, the
  program and the results. The host maps normal RAM, the victims map these pages.
* **flash header**: how `harness.build.flash` tells the firmware where its images are.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

import numpy as np

PAGE = 4096

MAXIMUM_VICTIMS = 8
MAXIMUM_CALLS = 256
"""Calls in one program: what the exchange pages hold."""
CALL_BYTES = 32
"""Bytes of one call record in a program."""
RESULT_REGISTERS = 8
"""Message registers that a result keeps."""
SMC_LOG_ENTRIES = 64
"""SMCs that EL3 keeps for one program; later ones are only counted."""
STORED_PAGES = 64
"""Stores of one program; EL3 refuses later ones."""
RESTORE_RANGES = 32
CHANGED_PAGES = 1024
CHANGED_WORDS = 4096
MESSAGE_BYTES = 8192 + 64

EXCHANGE_COMMAND = 0x0000
EXCHANGE_PROGRAM = 0x1000
EXCHANGE_RESULTS = 0x4000
EXCHANGE_DECODED = 0xC000
"""Byte offsets in the exchange area: command page, program (8 KiB), results (32 KiB), decoder output."""


class Command(IntFlag):
    """What EL3 and the victims do on waking."""

    RESTORE_REGISTERS = 1 << 0
    """EL3 writes the saved register bank back and resumes the snapshot's context."""
    INVALIDATE_TLB = 1 << 1
    DECODE_ONLY = 1 << 2
    """Victims decode the program into the exchange area and perform nothing."""
    RESTORE_INTERRUPTS = 1 << 3
    """EL3 also writes the saved state of the interrupt controller back."""


class Request(IntEnum):
    """What a victim asks EL3 for by a trapped write of PMCR_EL0, with the nonce in x0 and the request in x1.

    Unlike WFI it traps while an interrupt is pending, too. EL3 answers in x0.
    """

    UNMASK = 1
    """Interrupts are open again in the victim's PSTATE."""
    INTERRUPT = 2
    """Line x2 becomes pending, the timer x3 times in all; with x4 the victim goes on with interrupts masked."""
    STORE = 3
    """May the victim store to address x2? Answers 1 unless that is a device, the exchange area or EL3's memory."""


class Dispatcher(IntEnum):
    """Function identifiers of EL3's interface for the Trusted OS' dispatcher; `docs/two-worlds.md` has their rules.

    They exist for the process that said READY first, and for nobody else in either world.
    """

    READY = 0xBE00_0000
    """The Trusted OS is there: EL3 starts the normal world. Returns with the normal world's first call."""
    DONE = 0xBE00_0001
    """x1-x4 are the results of the normal world's call. Returns with its next call."""
    RESUME = 0xBE00_0002
    """The interrupt is served: the normal world goes on. Returns with its next call."""
    INTERRUPTED = 0xBE00_0010
    """Comes back in x0 instead of a call's identifier: a secure interrupt came while the normal world ran."""


class ParkStatus(IntEnum):
    """Why EL3 parked, as EL3 itself can tell; the host refines it with symbols."""

    NONE = 0
    SNAPSHOT = 1
    """First park: the machine is as every program will find it."""
    DONE = 2
    """A victim reached the end of the program (WFI at EL0 with the nonce)."""
    FORGED = 3
    """WFI at EL0 without the nonce."""
    WAIT_EL1 = 4
    """WFI at EL1: the idle thread (everything blocked) or halt()."""
    EL3_PANIC = 5
    """An exception that EL3 does not handle."""
    SYSTEM_OFF = 6
    SYSTEM_RESET = 7
    """PSCI calls that end the machine, reached by a program."""


class NormalState(IntEnum):
    """Where the normal world stands, for EL3."""

    ABSENT = 0
    """It has not been started."""
    RUNNING = 1
    CALLING = 2
    """It waits for the Trusted OS' answer."""
    INTERRUPTED = 3
    """A secure interrupt took its turn."""


class Restore(IntEnum):
    """Which pages the plugin copies back before the guest runs on."""

    NONE = 0
    LISTED = 1
    """Those in changed_page, which the comparison at the last park found."""
    COMPARED = 2
    """Those that a new comparison finds (the host wrote to the guest's memory)."""


class BootStage(IntEnum):
    """How far the plugin has seen the machine boot, by where it executes."""

    NONE = 0
    FIRMWARE = 1
    KERNEL = 2
    ROOT_TASK = 3


class CallState(IntEnum):
    """What became of one call of a program."""

    NOT_REACHED = 0
    STARTED = 1
    """Performed, and it has not returned: the caller is blocked, dead or preempted."""
    DONE = 2
    SKIPPED = 3
    """Its victim could not take its turn."""
    FAULTED = 4
    """Its victim faulted in it and went on behind it: `error` is the seL4_Fault, `mr` the fault's message."""


_Field = tuple[str, "str | np.dtype[np.void]"] | tuple[str, "str | np.dtype[np.void]", tuple[int, ...]]


def _dtype(*fields: _Field) -> np.dtype[np.void]:
    return np.dtype(list(fields))


# EL3's account of the last park. Registers are those of the interrupted context.
SMC_LOG = _dtype(
    ("arguments", "<u8", (8,)),
    ("result", "<u8", (8,)),  # x0 to x7 as the caller got them
    ("beyond", "<u8", (2,)),  # x8 to x17: the even ones or-ed together, and the odd ones
    ("call", "<u8"),
    ("elr_el3", "<u8"),
)
REPORT = _dtype(
    ("sequence", "<u8"),  # of the message that was run
    ("status", "<u8"),  # ParkStatus
    ("nonce", "<u8"),  # x0 at the park
    ("parks", "<u8"),  # since reset
    ("elr_el3", "<u8"),
    ("spsr_el3", "<u8"),
    ("esr_el3", "<u8"),
    ("far_el3", "<u8"),
    ("elr_el1", "<u8"),
    ("spsr_el1", "<u8"),
    ("esr_el1", "<u8"),
    ("far_el1", "<u8"),
    ("sp_el0", "<u8"),
    ("sp_el1", "<u8"),
    ("ttbr0_el1", "<u8"),
    ("ttbr1_el1", "<u8"),
    ("sctlr_el1", "<u8"),
    ("scr_el3", "<u8"),
    ("vbar_el1", "<u8"),
    ("x", "<u8", (31,)),
    ("timer_control", "<u8"),  # what S-EL1 last wrote to CNTPS_CTL_EL1, which EL3 keeps for it
    ("timer_value", "<u8"),
    ("ticks", "<u8"),  # further expiries of the timer, each when the kernel has set it again
    ("stores", "<u8"),  # pages in stored_page
    ("stored_page", "<u8", (STORED_PAGES,)),  # physical addresses of the pages that victims stored to
    ("smc_count", "<u8"),  # SMCs from S-EL1 since the program began
    ("smc_log", SMC_LOG, (SMC_LOG_ENTRIES,)),
)

# What EL3 notes about the normal world, behind the message: only where a config has one. The log is that of its SMCs;
# `result` is what a call returned, zeros while it has not.
WORLDS = _dtype(
    ("entries", "<u8"),  # of the normal world since the program began
    ("interrupted", "<u8"),  # times that a secure interrupt left it since the program began
    ("smc_count", "<u8"),
    ("state", "<u8"),  # NormalState
    ("smc_log", SMC_LOG, (SMC_LOG_ENTRIES,)),
)

# The message in the firmware's RAM, behind the report; the plugin writes it before it lets the vCPU go.
MESSAGE = _dtype(
    ("sequence", "<u8"),  # differs from the last one: wakes EL3
    ("command", "<u8"),  # Command
    ("nonce", "<u8"),  # what a victim must show in x0 to park
    ("omit_register", "<u8"),  # 1 + index of a register that the restore leaves out; 0: none. For tests of the tests
)

# The first exchange page. The host writes the upper part, victims the lower.
EXCHANGE = _dtype(
    ("nonce", "<u8"),
    ("command", "<u8"),
    ("calls", "<u8"),  # in the program
    ("repetitions", "<u8"),  # the program runs 1 + repetitions times (measurements)
    ("stop_after", "<u8"),  # park after this many calls; 0: at the end (step mode)
    ("reserved", "<u8", (11,)),
    # The victims' part; the host sets all of it to zero before a program.
    ("next_call", "<u8"),  # victims: index of the call to take next
    ("current_call", "<u8"),  # victims: index of the call being performed (EL3 logs it with an SMC)
    ("performed", "<u8"),  # victims: calls performed over all repetitions
    ("succeeded", "<u8"),  # victims: of these, calls without an error
    ("repetition", "<u8"),  # victims: the repetition that runs now
    ("begun", "<u8"),  # victims: calls begun over all repetitions
    ("domains", "<u8"),  # victims: 1 once a thread may have been given a domain
    # By performer: 1 + the index of the call that it performs, or 0; the interrupt that waits for its next system call
    ("performing", "<u8", (MAXIMUM_VICTIMS,)),
    ("interrupt", "<u8", (MAXIMUM_VICTIMS,)),
    # The normal world: when the Trusted OS has read a page so often, so many bytes there change (the plugin's work)
    ("change_reads", "<u8"),
    ("change_address", "<u8"),
    ("change_bytes", "<u8"),
    ("change_value", "<u8"),
)

POPULATION_OFFSET = 0x400
"""Where the population report lies in the first exchange page, behind EXCHANGE."""
MAXIMUM_POPULATION_ENTRIES = 188


class PopulationKind(IntEnum):
    """What a range of physical memory that the root task reports is used for."""

    NONE = 0
    KERNEL_OBJECT = 1
    """An object with no kind of its own below: capability tables of the supervisor, ASID pools."""
    CNODE = 2
    TCB = 3
    ENDPOINT = 4
    NOTIFICATION = 5
    PAGE_TABLE = 6
    """A table of any of the four levels."""
    CODE = 7
    """Frames of a victim's code: programs cannot change them."""
    STATE = 8
    """The frame with a victim's IPC buffer and stack."""
    FRAME = 9
    """A frame of the population, with a capability in a victim's slot: programs load from it and store to it."""
    ARENA = 10
    """The untyped memory in which a program makes its objects."""
    EXCHANGE = 11
    DEVICE = 12
    SUPERVISOR = 13
    """Writable pages of the root task, which goes on when all victims wait."""


# What the root task tells the host before the first park. `object` indexes the population's objects
# (harness.programs.population), or is NO_OBJECT.
NO_OBJECT = 0xFFFF
TRUSTED_OS = 0xFF
"""In place of a victim's number: the range is part of the trusted OS."""
POPULATION_ENTRY = _dtype(("address", "<u8"), ("size", "<u4"), ("kind", "u1"), ("victim", "u1"), ("object", "<u2"))
POPULATION = _dtype(
    ("step", "<u8"),  # steps of the setup that are done; the last one that was begun if error is set
    ("error", "<u8"),  # 1 + seL4_Error, or 0x100 and above for the root task's own errors
    ("detail", "<u8"),
    ("entries", "<u8"),
    ("entry", POPULATION_ENTRY, (MAXIMUM_POPULATION_ENTRIES,)),
)

# One call as a victim's decoder understands it (DECODE_ONLY), at EXCHANGE_DECODED + 64 * index.
DECODED = _dtype(
    ("call", "<u2"),  # index in the call table
    ("victim", "<u2"),
    ("syscall", "<i4"),  # system call number; 0 for calls of the harness
    ("target", "<u8"),  # capability pointer, or the address that Load reads
    ("info", "<u8"),  # message info word
    ("cap", "<u8", (3,)),  # extra capabilities
    ("word0", "<u8"),  # first message word
    ("digest", "<u8"),  # FNV-1a over all message words, then all extra capabilities, 64 bits at a time
)

RESULT = _dtype(
    ("state", "<u4"),  # CallState
    ("victim", "<u4"),
    ("error", "<u8"),  # label of the answer: a seL4_Error for invocations; 0 for system calls without one
    ("info", "<u8"),  # message info word of the answer
    ("badge", "<u8"),
    ("mr", "<u8", (RESULT_REGISTERS,)),
    ("reserved", "<u8", (4,)),
)

# What the normal world's program keeps in its own memory (symbols `message_log`, `message_log_count`) of each call that
# brings the Trusted OS a message, or resumes one: the message as shared memory held it before and after the SMC.
MESSAGE_LOG_ENTRIES = 32
LOGGED_MESSAGE_BYTES = 224
NORMAL_MESSAGE_LOG = _dtype(
    ("call", "<u8"),  # its index in the program
    ("client", "<u8"),  # x7
    ("address", "<u8"),  # physical, of the message; outside of shared memory nothing is logged of it
    ("answer", "<u8"),  # x0 afterwards
    ("before", "u1", (LOGGED_MESSAGE_BYTES,)),
    ("after", "u1", (LOGGED_MESSAGE_BYTES,)),
)

# The control file of the plugin.
RANGE = _dtype(("address", "<u8"), ("size", "<u8"))
CONTROL = _dtype(
    ("go", "<u4"),  # host adds 1: run the message
    ("pad0", "<u4", (15,)),
    ("done", "<u4"),  # plugin sets it to go: parked
    ("pad1", "<u4", (15,)),
    ("leave", "<u4"),  # the vCPU thread polls instead of blocking, so that stop, quit and gdb get through
    ("refused", "<u4"),  # the park address was executed outside the firmware
    ("snapshot_ready", "<u4"),  # host adds 1: the plugin copies the ranges before it lets the guest run
    ("restore", "<u4"),  # Restore: whether changed pages are copied back on waking
    ("track", "<u4"),  # 1: changed pages are found at each park
    ("stay", "<u4"),  # 1: on waking only restore memory and park again; the guest runs nothing
    ("ranges", "<u4"),
    ("changed", "<u4"),  # pages in changed_page
    ("overflow", "<u4"),  # changed pages that did not fit
    ("omit_page", "<u4"),  # 1 + index in changed_page of a page that the restore leaves out; 0: none
    ("code_changed", "<u4"),  # 1: a changed page held code that ran since the snapshot: replace the machine
    ("stage", "<u4"),  # BootStage that the plugin has seen
    ("message_bytes", "<u4"),
    ("interrupts", "<u4"),  # 1: the kernel wrote to the interrupt controller; the host clears it
    ("parks", "<u8"),
    ("restore_ns", "<u8"),  # of the last restore
    ("compare_ns", "<u8"),  # of the last comparison
    ("secure_host_address", "<u8"),  # of the first byte of secure RAM, in QEMU's process; 0: not seen yet
    ("message", "u1", (256,)),
    ("range", RANGE, (RESTORE_RANGES,)),
    ("report", "u1", (16384,)),
    ("changed_page", "<u8", (CHANGED_PAGES,)),  # physical addresses
    ("changed_words", "<u4"),  # 64-bit words in changed_word; more than fit: it says nothing
    ("pad3", "<u4"),
    ("changed_word", "<u4", (CHANGED_WORDS,)),  # their numbers, counted from the start of secure RAM; ascending by page
)
CONTROL_BYTES = (CONTROL.itemsize + PAGE - 1) & -PAGE

# Flash: the firmware's own image lies at 0; this header tells it the rest. Where a config has a normal world, another
# one with that world's image follows it.
FLASH_HEADER_OFFSET = 0x40
FLASH_IMAGE = _dtype(("source", "<u8"), ("destination", "<u8"), ("file_bytes", "<u8"), ("memory_bytes", "<u8"))
FLASH_HEADER = _dtype(
    ("kernel", FLASH_IMAGE),
    ("root_task", FLASH_IMAGE),
    ("kernel_entry", "<u8"),  # virtual
    ("kernel_virtual_base", "<u8"),
    ("kernel_physical_base", "<u8"),
    ("kernel_map_bytes", "<u8"),
    ("boot_tables", "<u8"),  # physical; four pages
    ("boot_arguments", "<u8", (4,)),  # x0-x3 of the kernel: image start, end, pv_offset, entry
    ("program", "<u8"),  # flash offset of a program to run without a host; 0: none
    ("program_calls", "<u8"),
)
NORMAL_HEADER_OFFSET = FLASH_HEADER_OFFSET + FLASH_HEADER.itemsize
NORMAL_HEADER = _dtype(("image", FLASH_IMAGE), ("entry", "<u8"), ("reserved", "<u8"))


def header() -> str:
    """The text of `protocol.h`, for C and assembly: offsets, sizes and enumeration values."""
    lines = ["/* SPDX-License-Identifier: BSD-2-Clause */", "/* Generated from harness/protocol.py. */", "#pragma once"]

    defined: set[str] = set()

    def define(name: str, value: int) -> None:
        name += "_FIELD" * (name in defined)  # EXCHANGE_COMMAND is a page of the exchange area and a field of it
        defined.add(name)
        lines.append(f"#define {name} {value:#x}")

    for name in (
        "PAGE MAXIMUM_CALLS MAXIMUM_VICTIMS STORED_PAGES "
        "CALL_BYTES RESULT_REGISTERS SMC_LOG_ENTRIES RESTORE_RANGES CHANGED_PAGES CHANGED_WORDS "
        "EXCHANGE_COMMAND EXCHANGE_PROGRAM EXCHANGE_RESULTS EXCHANGE_DECODED FLASH_HEADER_OFFSET MESSAGE_OFFSET "
        "NORMAL_HEADER_OFFSET WORLDS_OFFSET "
        "POPULATION_OFFSET MAXIMUM_POPULATION_ENTRIES NO_OBJECT TRUSTED_OS "
        "MESSAGE_LOG_ENTRIES LOGGED_MESSAGE_BYTES"
    ).split():
        define(f"BW_{name}", globals()[name])
    renamed = {"ParkStatus": "PARK", "CallState": "CALL", "BootStage": "STAGE", "PopulationKind": "KIND"}
    renamed["NormalState"] = "NORMAL"
    enumerations = (
        Command,
        Request,
        Dispatcher,
        ParkStatus,
        NormalState,
        CallState,
        Restore,
        BootStage,
        PopulationKind,
    )
    for enumeration in enumerations:
        prefix = renamed.get(enumeration.__name__)
        prefix = prefix or enumeration.__name__.upper()
        for member in enumeration:
            define(f"BW_{prefix}_{member.name}", int(member))
    dtypes = (
        "REPORT SMC_LOG MESSAGE EXCHANGE RESULT DECODED POPULATION POPULATION_ENTRY CONTROL RANGE NORMAL_MESSAGE_LOG"
    )
    for name in [*dtypes.split(), "WORLDS", "FLASH_HEADER", "FLASH_IMAGE", "NORMAL_HEADER"]:
        dtype: np.dtype[np.void] = globals()[name]
        assert dtype.fields is not None
        for field, entry in dtype.fields.items():
            define(f"BW_{name}_{field.upper()}", int(entry[1]))
        define(f"BW_{name}_BYTES", dtype.itemsize)
    return "\n".join(lines) + "\n"


MESSAGE_OFFSET = (REPORT.itemsize + 63) & -64
"""Offset of the message from the start of the firmware's RAM, where the report begins."""
WORLDS_OFFSET = (MESSAGE_OFFSET + MESSAGE.itemsize + 63) & -64
"""Offset of the account of the normal world from the start of the firmware's RAM."""
