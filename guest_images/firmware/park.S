/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Parking: the machine stands still at park_pc until the host sends a message. The first WFI at
 * EL0 is the snapshot: from then on a message can bring the registers back to that moment.
 *
 * Throughout: x19 is the report, w20 the status of the park.
 */
#include "firmware.h"

        .text
/* WFI from below; all registers of the interrupted context are in place. */
function wait_trapped
        save_context
        mrs     x1, spsr_el3
        mov     w20, #BW_PARK_WAIT_EL1
#ifdef BW_NORMAL_WORLD
        mrs     x2, scr_el3
        tbnz    x2, #SCR_NS_BIT, normal_wait
#endif
        tst     x1, #(3 << SPSR_LEVEL_SHIFT)
        b.ne    park
        address x0, snapshot_taken
        ldr     x1, [x0]
        cbnz    x1, 1f
        mov     x1, #1
        str     x1, [x0]
        address x17, snapshot_bank
        bl      save_bank
        /* Programs start behind the WFI, with x0 = 0. */
        mrs     x1, elr_el3
        add     x1, x1, #4
        str     x1, [x17, #BW_BANK_ELR_EL3]
        str     xzr, [x17, #BW_BANK_X0]
        bl      save_interrupts
#ifdef BW_NORMAL_WORLD
        bl      keep_normal_world
#endif
        mov     w20, #BW_PARK_SNAPSHOT
        b       park
#ifdef BW_NORMAL_WORLD
normal_wait:                                    /* at any level; before the snapshot there is nothing to wait for */
        mov     w20, #BW_PARK_FORGED
        address x0, snapshot_taken
        ldr     x1, [x0]
        cbz     x1, park
#endif
1:      address x0, message
        ldr     x0, [x0, #BW_MESSAGE_NONCE]
        ldr     x1, [x19, #BW_REPORT_X]
        cmp     x0, x1
        mov     w20, #BW_PARK_FORGED
        mov     w0, #BW_PARK_DONE
        csel    w20, w0, w20, eq
        b       park
endfunction wait_trapped

/* An SMC that ends a program; all registers of the interrupted context are in place. */
function program_ended
        save_context
        address x0, ending_status
        ldr     w20, [x0]
        b       park
endfunction program_ended

.macro report_register name, field
        mrs     x0, \name
        str     x0, [x19, #\field]
.endm

function park
        str     x20, [x19, #BW_REPORT_STATUS]
        ldr     x0, [x19, #BW_REPORT_X]
        str     x0, [x19, #BW_REPORT_NONCE]
        report_register elr_el3, BW_REPORT_ELR_EL3
        report_register spsr_el3, BW_REPORT_SPSR_EL3
        report_register esr_el3, BW_REPORT_ESR_EL3
        report_register far_el3, BW_REPORT_FAR_EL3
        report_register elr_el1, BW_REPORT_ELR_EL1
        report_register spsr_el1, BW_REPORT_SPSR_EL1
        report_register esr_el1, BW_REPORT_ESR_EL1
        report_register far_el1, BW_REPORT_FAR_EL1
        report_register sp_el0, BW_REPORT_SP_EL0
        report_register sp_el1, BW_REPORT_SP_EL1
        report_register ttbr0_el1, BW_REPORT_TTBR0_EL1
        report_register ttbr1_el1, BW_REPORT_TTBR1_EL1
        report_register sctlr_el1, BW_REPORT_SCTLR_EL1
        report_register scr_el3, BW_REPORT_SCR_EL3
        report_register vbar_el1, BW_REPORT_VBAR_EL1
#ifdef BW_NORMAL_WORLD
        /* The kernel's address spaces, whichever world parks */
        mrs     x0, scr_el3
        tbz     x0, #SCR_NS_BIT, 1f
        address x1, secure_world
        ldr     x0, [x1, #BW_BANK_TTBR0_EL1]
        str     x0, [x19, #BW_REPORT_TTBR0_EL1]
        ldr     x0, [x1, #BW_BANK_TTBR1_EL1]
        str     x0, [x19, #BW_REPORT_TTBR1_EL1]
1:      /* What the world that parks really has: for judges, who need not believe the switch. */
        address x17, current_bank
        bl      save_bank
#endif
        ldr     x0, [x19, #BW_REPORT_PARKS]
        add     x0, x0, #1
        str     x0, [x19, #BW_REPORT_PARKS]
        address x0, flash_header
        ldr     x0, [x0, #BW_FLASH_HEADER_PROGRAM]
        cbnz    x0, program_parked              /* comes back to publish, or to resume */
endfunction park

/*
 * The report is complete: show its sequence last. x21 and x22 stay what the loop needs: the message
 * and the sequence that was handled.
 */
function publish
        address x21, message
        address x0, taken_sequence
        ldr     x22, [x0]
        add     x0, x19, #BW_REPORT_SEQUENCE
        stlr    x22, [x0]
        b       park_pc
endfunction publish

/* The plugin blocks the machine here. Without it EL3 looks for a message for ever. */
function park_pc
        nop
        ldar    x23, [x21]
        cmp     x23, x22
        b.eq    park_pc

        address x0, taken_sequence
        str     x23, [x0]
        ldr     x24, [x21, #BW_MESSAGE_COMMAND]
        tbz     x24, #BW_COMMAND_INVALIDATE_TLB_BIT, 1f
        tlbi    alle1
#ifdef BW_NORMAL_WORLD
        mrs     x0, scr_el3                     /* of the world that parked; now of the other one */
        eor     x1, x0, #(1 << SCR_NS_BIT)
        msr     scr_el3, x1
        isb
        tlbi    alle1
#if BW_NORMAL_LEVEL == 2
        orr     x1, x0, #(1 << SCR_NS_BIT)      /* EL2 exists in the normal world only */
        msr     scr_el3, x1
        isb
        tlbi    alle2
#endif
        dsb     sy
        msr     scr_el3, x0
#endif
        dsb     sy
        isb
1:      address x0, snapshot_taken
        ldr     x0, [x0]
        cbz     x0, publish                     /* nothing to go back to: the machine never came up */
        tbz     x24, #BW_COMMAND_RESTORE_INTERRUPTS_BIT, 2f
        bl      restore_interrupts
2:      tbnz    x24, #BW_COMMAND_RESTORE_REGISTERS_BIT, restore
        cmp     w20, #BW_PARK_SNAPSHOT
        ccmp    w20, #BW_PARK_DONE, #4, ne
        b.eq    resume
        b       publish                         /* a program that ended badly can only be restored */
endfunction park_pc

/* Go on behind the WFI, with x0 = 0. */
function resume
        mrs     x0, elr_el3
        add     x0, x0, #4
        msr     elr_el3, x0
        add     x0, x19, #BW_REPORT_X
        most_registers ldp, x0
        ldp     x16, x17, [x0, #8 * 16]
        ldr     x30, [x0, #8 * 30]
        ldr     x1, [x0, #8]
        mov     x0, xzr
        eret
endfunction resume

/* Back to the snapshot. The host has restored memory. */
function restore
#ifdef BW_NORMAL_WORLD
        bl      restore_normal_world
#endif
        str     xzr, [x19, #BW_REPORT_TICKS]
        str     xzr, [x19, #BW_REPORT_STORES]
        /* Clear the entries of the SMC log that were used. */
        ldr     x0, [x19, #BW_REPORT_SMC_COUNT]
        cbz     x0, 2f
        mov     x1, #BW_SMC_LOG_ENTRIES
        cmp     x0, x1
        csel    x0, x0, x1, lo
        str     xzr, [x19, #BW_REPORT_SMC_COUNT]
        add     x1, x19, #BW_REPORT_SMC_LOG
        mov     x2, #BW_SMC_LOG_BYTES
        madd    x2, x0, x2, x1
1:      stp     xzr, xzr, [x1], #16
        cmp     x1, x2
        b.lo    1b

2:      address x17, snapshot_bank
        ldr     x0, [x21, #BW_MESSAGE_OMIT_REGISTER]
        cbnz    x0, 3f
        b       restore_bank
3:      bl      mix_banks
        b       restore_bank
endfunction restore
