# SPDX-License-Identifier: BSD-2-Clause
"""The registers that EL3 saves at the snapshot and restores before each program.

This is all state of the CPU, outside memory, that code at S-EL1 and EL0 can change. The list is
the only one: the firmware's tables are generated from it, and hosts find a register's index and
its place in the firmware's `snapshot_bank` here.
"""

from __future__ import annotations

from dataclasses import dataclass

_SYSTEM = (
    # Translation and control. The kernel writes some of them only while it boots.
    "sctlr_el1 actlr_el1 cpacr_el1 ttbr0_el1 ttbr1_el1 tcr_el1 mair_el1 amair_el1 vbar_el1 contextidr_el1 "
    # Exceptions
    "esr_el1 far_el1 afsr0_el1 afsr1_el1 elr_el1 spsr_el1 par_el1 "
    # Stacks and thread identifiers
    "sp_el0 sp_el1 tpidr_el0 tpidrro_el0 tpidr_el1 "
    # Caches' identification, debugging, counters and timers that EL3 does not emulate
    "csselr_el1 mdscr_el1 cntkctl_el1 cntp_ctl_el0 cntp_cval_el0 cntv_ctl_el0 cntv_cval_el0 "
    # What AArch32 at EL0 would use
    "dacr32_el2 ifsr32_el2 fpexc32_el2 spsr_abt spsr_und spsr_irq spsr_fiq "
    # Floating point
    "fpcr fpsr "
    # Where EL3 returns to
    "elr_el3 spsr_el3 "
    # Nothing below EL3 can change it, but a firmware that is under test may: no later program shall be blamed
    "scr_el3"
).split()

# Kept by EL3 in its report for S-EL1, whose accesses trap: name, field of the report.
_EMULATED = (("cntps_ctl_el1", "timer_control"), ("cntps_cval_el1", "timer_value"))


@dataclass(frozen=True)
class BankRegister:
    """One register: its index (what `omit_register` counts from 1), and its place in the bank in bytes."""

    name: str
    index: int
    offset: int
    size: int


def _bank() -> tuple[BankRegister, ...]:
    words = [*_SYSTEM, *(name for name, _ in _EMULATED), *(f"x{number}" for number in range(31))]
    registers = [BankRegister(name, index, 8 * index, 8) for index, name in enumerate(words)]
    start = (8 * len(words) + 15) & -16
    for number in range(32):
        registers.append(BankRegister(f"q{number}", len(words) + number, start + 16 * number, 16))
    return tuple(registers)


BANK = _bank()
"""Every register of the bank, by index."""
BANK_BYTES = BANK[-1].offset + BANK[-1].size


def bank_register(name: str) -> BankRegister:
    """The register of that name; KeyError if the bank has none."""
    for register in BANK:
        if register.name == name:
            return register
    raise KeyError(name)


def assembly_tables() -> str:
    """Offsets in the bank, and macros that apply an operation to each register, for the firmware."""
    lines = [f"#define BW_BANK_{register.name.upper()} {register.offset:#x}" for register in BANK]
    lines += [
        f"#define BW_BANK_BYTES {BANK_BYTES:#x}",
        f"#define BW_BANK_REGISTERS {len(BANK)}",
        f"#define BW_BANK_FIRST_VECTOR {bank_register('q0').index}",
        ".macro system_registers operation",
        *(f"\t\\operation {name}, {bank_register(name).offset:#x}" for name in _SYSTEM),
        ".endm",
        ".macro emulated_registers operation",
        *(f"\t\\operation BW_REPORT_{field.upper()}, {bank_register(name).offset:#x}" for name, field in _EMULATED),
        ".endm",
        ".macro vector_registers operation, base",
        *(f"\t\\operation q{number}, q{number + 1}, [\\base, #{16 * number}]" for number in range(0, 32, 2)),
        ".endm",
    ]
    return "\n".join(lines) + "\n"
