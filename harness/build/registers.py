# SPDX-License-Identifier: BSD-2-Clause
"""The registers that EL3 saves at the snapshot and restores before each program, and that a world switch changes.

This is all state of the CPU, outside memory, that code below EL3 can change. The list is
the only one: the firmware's tables are generated from it, and hosts find a register's index and
its place in the firmware's `snapshot_bank` here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.configs import Level, MachineConfig

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

# The normal world's timers go on while the secure world runs, or their interrupts would not come then. The kernel has
# another one, and EL1 lets nobody at S-EL0 read these (CNTKCTL_EL1).
_NORMAL_TIMERS = ("cntp_ctl_el0", "cntp_cval_el0", "cntv_ctl_el0", "cntv_cval_el0")

# Of EL2, which the normal world uses where it starts there, or where the switch is to save them
_EL2 = (
    "hcr_el2 sctlr_el2 actlr_el2 cptr_el2 hstr_el2 hacr_el2 mdcr_el2 cnthctl_el2 cntvoff_el2 vpidr_el2 vmpidr_el2 "
    "vtcr_el2 vttbr_el2 ttbr0_el2 tcr_el2 mair_el2 amair_el2 vbar_el2 esr_el2 far_el2 hpfar_el2 elr_el2 spsr_el2 "
    "sp_el2 tpidr_el2 afsr0_el2 afsr1_el2 cnthp_ctl_el2 cnthp_cval_el2"
).split()

# Of QEMU's `max` beside a normal world: pointer authentication, context numbers, deferred errors. By encoding,
# since the firmware is assembled for the architecture's first version.
OF_MAX = {
    "apiakeylo_el1": "s3_0_c2_c1_0", "apiakeyhi_el1": "s3_0_c2_c1_1",
    "apibkeylo_el1": "s3_0_c2_c1_2", "apibkeyhi_el1": "s3_0_c2_c1_3",
    "apdakeylo_el1": "s3_0_c2_c2_0", "apdakeyhi_el1": "s3_0_c2_c2_1",
    "apdbkeylo_el1": "s3_0_c2_c2_2", "apdbkeyhi_el1": "s3_0_c2_c2_3",
    "apgakeylo_el1": "s3_0_c2_c3_0", "apgakeyhi_el1": "s3_0_c2_c3_1",
    "scxtnum_el0": "s3_3_c13_c0_7", "scxtnum_el1": "s3_0_c13_c0_7", "disr_el1": "s3_0_c12_c1_1",
}  # fmt: skip
# The same of EL2
OF_MAX_EL2 = {
    "ttbr1_el2": "s3_4_c2_c0_1", "contextidr_el2": "s3_4_c13_c0_1", "scxtnum_el2": "s3_4_c13_c0_7",
    "cnthv_ctl_el2": "s3_4_c14_c3_1", "cnthv_cval_el2": "s3_4_c14_c3_2",
}  # fmt: skip

# Kept by EL3 in its report for S-EL1, whose accesses trap: name, field of the report.
_EMULATED = (("cntps_ctl_el1", "timer_control"), ("cntps_cval_el1", "timer_value"))


@dataclass(frozen=True)
class BankRegister:
    """One register: its index (what `omit_register` counts from 1), and its place in the bank in bytes."""

    name: str
    index: int
    offset: int
    size: int


def is_max(config: MachineConfig) -> bool:
    """Whether the CPU is QEMU's `max`, which has what the architecture's later versions brought."""
    return config.qemu.cpu.split(",")[0] == "max"


def _system(config: MachineConfig | None) -> tuple[list[str], list[str]]:
    """System registers of a config's bank; and those among them that the world switch leaves alone."""
    normal = None if config is None else config.normal_world
    if config is None or normal is None:
        return _SYSTEM, _SYSTEM
    usual = [*_SYSTEM, *(OF_MAX if is_max(config) else ())]
    of_el2: list[str] = []
    if normal.save_el2 or normal.level is Level.EL2:
        of_el2 = [*_EL2, *(OF_MAX_EL2 if is_max(config) else ())]
    # SCR_EL3 says which world it is: the switch itself writes it.
    return [*usual, *of_el2], ["scr_el3", *_NORMAL_TIMERS, *(() if normal.save_el2 else of_el2)]


def bank(config: MachineConfig | None = None) -> tuple[BankRegister, ...]:
    """Every register of a config's bank, by index; without a normal world all configs have the same one."""
    words = [*_system(config)[0], *(name for name, _ in _EMULATED), *(f"x{number}" for number in range(31))]
    registers = [BankRegister(name, index, 8 * index, 8) for index, name in enumerate(words)]
    start = (8 * len(words) + 15) & -16
    for number in range(32):
        registers.append(BankRegister(f"q{number}", len(words) + number, start + 16 * number, 16))
    return tuple(registers)


def switched_registers(config: MachineConfig) -> list[str]:
    """Names of the registers, without x0-x30 and q0-q31, that each world has for itself: the switch changes them."""
    registers, left = _system(config)
    return [name for name in registers if name not in left]


def bank_register(name: str, config: MachineConfig | None = None) -> BankRegister:
    """The register of that name; KeyError if the bank has none."""
    for register in bank(config):
        if register.name == name:
            return register
    raise KeyError(name)


def assembly_tables(config: MachineConfig | None = None) -> str:
    """Offsets in the bank, and macros that apply an operation to each register, for the firmware."""
    registers = bank(config)
    place = {register.name: register for register in registers}
    encoding = {name: name for name in place} | OF_MAX | OF_MAX_EL2
    lines = [f"#define BW_BANK_{register.name.upper()} {register.offset:#x}" for register in registers]
    lines += [
        f"#define BW_BANK_BYTES {registers[-1].offset + registers[-1].size:#x}",
        f"#define BW_BANK_REGISTERS {len(registers)}",
        f"#define BW_BANK_FIRST_VECTOR {place['q0'].index}",
    ]

    def macro(name: str, members: Iterable[str]) -> None:
        lines.append(f".macro {name} operation")
        lines.extend(f"\t\\operation {encoding[member]}, {place[member].offset:#x}" for member in members)
        lines.append(".endm")

    macro("system_registers", _system(config)[0])
    if config is not None and config.normal_world is not None:
        macro("switched_registers", switched_registers(config))
        macro("el2_registers", (name for name in place if name in _EL2 or name in OF_MAX_EL2))
    lines += [
        ".macro emulated_registers operation",
        *(f"\t\\operation BW_REPORT_{field.upper()}, {place[name].offset:#x}" for name, field in _EMULATED),
        ".endm",
        ".macro vector_registers operation, base",
        *(f"\t\\operation q{number}, q{number + 1}, [\\base, #{16 * number}]" for number in range(0, 32, 2)),
        ".endm",
    ]
    return "\n".join(lines) + "\n"


BANK = bank()
"""The bank of a config without a normal world."""
BANK_BYTES = BANK[-1].offset + BANK[-1].size
