/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The switch between the worlds, and what the snapshot keeps of them. No register of EL1 exists once
 * for each world: all that one of them could read of the other, or change for it, is exchanged here.
 * The list is generated (tables.h) from harness/build/registers.py.
 */
#include "firmware.h"

#ifdef BW_NORMAL_WORLD

/* Keep one world's value and put the other's in. Only what differs is written: most writes cost QEMU dear. */
.macro switch_system name, offset
        mrs     x0, \name
        ldr     x1, [x17, #\offset]
        str     x0, [x16, #\offset]
        cmp     x0, x1
        b.eq    9f
        msr     \name, x1
9:
.endm

        .text
/* x16: bank of the world that is left, with its x0-x30 in it; x17: bank of the other. Ends there. */
function switch_worlds
        add     x0, x16, #BW_BANK_Q0
        vector_registers stp, x0
        add     x0, x17, #BW_BANK_Q0
        vector_registers ldp, x0
        switched_registers switch_system
        mrs     x0, scr_el3
        str     x0, [x16, #BW_BANK_SCR_EL3]
        ldr     x0, [x17, #BW_BANK_SCR_EL3]
        msr     scr_el3, x0
        isb
        add     x17, x17, #BW_BANK_X0
        most_registers ldp, x17
        ldr     x30, [x17, #8 * 30]
        ldp     x0, x1, [x17]
        ldp     x16, x17, [x17, #8 * 16]
        eret
endfunction switch_worlds

/* Copy a bank. x0: from, x1: to. Changes x0-x4. */
function copy_bank
        add     x2, x0, #BW_BANK_BYTES
1:      ldp     x3, x4, [x0], #16
        stp     x3, x4, [x1], #16
        cmp     x0, x2
        b.lo    1b
        ret
endfunction copy_bank

/* At the snapshot: what the normal world has while it waits. Changes x0-x5. */
function keep_normal_world
        mov     x5, x30
        address x0, normal_world
        address x1, snapshot_normal_world
        bl      copy_bank
        address x0, worlds
        ldr     x0, [x0, #BW_WORLDS_STATE]
        address x1, snapshot_normal_state
        str     x0, [x1]
        ret     x5
endfunction keep_normal_world

/* Back to the snapshot, whichever world has parked. The registers themselves follow (restore_bank). Changes x0-x6. */
function restore_normal_world
        mov     x5, x30
        address x0, snapshot_normal_world
        address x1, normal_world
        bl      copy_bank
        address x6, worlds
        address x0, snapshot_normal_state
        ldr     x0, [x0]
        str     x0, [x6, #BW_WORLDS_STATE]
        stp     xzr, xzr, [x6, #BW_WORLDS_ENTRIES]
        address x0, unlogged_normal_smc         /* the call that waits was logged before the snapshot */
        address x1, normal_log_entry
        str     x0, [x1]
        /* Clear the entries of the log that were used. */
        ldr     x0, [x6, #BW_WORLDS_SMC_COUNT]
        cbz     x0, 2f
        mov     x1, #BW_SMC_LOG_ENTRIES
        cmp     x0, x1
        csel    x0, x0, x1, lo
        str     xzr, [x6, #BW_WORLDS_SMC_COUNT]
        add     x1, x6, #BW_WORLDS_SMC_LOG
        mov     x2, #BW_SMC_LOG_BYTES
        madd    x2, x0, x2, x1
1:      stp     xzr, xzr, [x1], #16
        cmp     x1, x2
        b.lo    1b
2:      ret     x5
endfunction restore_normal_world

#endif
