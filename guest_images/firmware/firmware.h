/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What every source of the firmware includes. The three generated headers come from
 * harness/protocol.py (protocol.h), the machine config (machine.h), and the register list and
 * smc.yaml (tables.h); harness/build/firmware.py writes them.
 *
 * All code runs at EL3 with its MMU off, from flash at address 0. Its data lies in the block of
 * secure RAM that the machine config keeps for it.
 */
#pragma once
#include "protocol.h"
#include "machine.h"
#include "tables.h"
#include "assembly.h"

/* Exception classes (ESR_ELx bits 31:26) and the syndrome fields that are looked at. */
#define ESR_CLASS_SHIFT         26
#define ESR_CLASS_WAIT          0x01
#define ESR_CLASS_SMC           0x17
#define ESR_CLASS_SYSTEM        0x18
#define ESR_SMC_IMMEDIATE       0xffff
/* A trapped MSR or MRS: which register */
#define SYNDROME_REGISTER(op0, op1, crn, crm, op2) \
        (((op0) << 20) | ((op2) << 17) | ((op1) << 14) | ((crn) << 10) | ((crm) << 1))
#define SYNDROME_REGISTER_MASK  0x3ffc1e

/*
 * SCR_EL3: the lower levels are secure (NS=0) and AArch64 (RW), WFI traps here (TWI), so do
 * S-EL1's accesses to the secure timer (ST=0). Interrupts stay with S-EL1. SIF is 0, since a
 * normal-world guest's code lies in non-secure frames.
 */
#define SCR_RES1                (3 << 4)
#define SCR_RW                  (1 << 10)
#define SCR_TWI                 (1 << 12)
#define SCR_VALUE               (SCR_RES1 | SCR_RW | SCR_TWI)

#ifdef BW_NORMAL_WORLD
/*
 * SCR_EL3 of the normal world: NS; Group 0 interrupts come here (FIQ), its own Group 1 goes to it
 * (IRQ=0); WFI traps here, too. HVC is for a normal world that begins at EL2.
 */
#define SCR_NS_BIT              0
#define SCR_FIQ                 (1 << 2)
#define SCR_HCE                 (1 << 8)
#define SCR_NORMAL              (SCR_VALUE | (1 << SCR_NS_BIT) | SCR_FIQ)
#endif

/* SPSR_EL3 of the kernel's first instruction: EL1 with its own stack, all interrupts masked. */
#define SPSR_EL1H_MASKED        0x3c5
#define SPSR_LEVEL_SHIFT        2

/* MDCR_EL3: EL0's accesses to the performance monitor trap here (TPM): victims' requests. */
#define MDCR_TPM                (1 << 6)
#ifdef BW_NORMAL_WORLD
/* Breakpoints of the normal world do not stop the secure one (SDD). */
#define MDCR_VALUE              (MDCR_TPM | (1 << 16))
#else
#define MDCR_VALUE              MDCR_TPM
#endif

/*
 * 48-bit addresses in both halves (16, 16), 4 KiB granules, cached and inner shareable walks,
 * 44-bit physical addresses, 16-bit ASIDs.
 */
#define TCR_HALF                (16 | (1 << 8) | (1 << 10) | (3 << 12))
#define TCR_VALUE               (TCR_HALF | (TCR_HALF << 16) | (2 << 30) | (4 << 32) | (1 << 36))
/* The secure timer's interrupt: private interrupt 13 */
#define TIMER_LINE              29
/* The distributor's registers that make lines pending */
#define GICD_ISPENDR            0x200

/* Store x0-x30 as an array at a symbol. Needs no stack. Leaves x0: the array. */
.macro store_general array
        msr     tpidr_el3, x0
        address x0, \array
        most_registers stp, x0
        str     x1, [x0, #8]
        stp     x16, x17, [x0, #8 * 16]
        str     x30, [x0, #8 * 30]
        mrs     x1, tpidr_el3
        str     x1, [x0]
        msr     tpidr_el3, xzr
.endm

/*
 * Keep the interrupted context's x0-x30 in the report and start over with an empty stack: for
 * everything that ends in a park. Needs no stack, so that it works in any state. Leaves x19: report.
 */
.macro save_context
        store_general (report + BW_REPORT_X)
        address x0, stack_top
        mov     sp, x0
        address x19, report
.endm
