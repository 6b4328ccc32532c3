/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The register bank: all that the secure world below EL3 can change outside its memory. The list
 * of registers, their order and their offsets are generated (tables.h) from harness/build/registers.py.
 */
#include "firmware.h"

.macro save_system name, offset
        mrs     x0, \name
        str     x0, [x17, #\offset]
.endm

/* Only what differs is written: most writes make QEMU drop translations or leave its fast path. */
.macro restore_system name, offset
        ldr     x1, [x17, #\offset]
        mrs     x0, \name
        cmp     x0, x1
        b.eq    9f
        msr     \name, x1
9:
.endm

/* Registers that EL3 keeps for S-EL1 in the report. */
.macro save_emulated field, offset
        ldr     x0, [x19, #\field]
        str     x0, [x17, #\offset]
.endm

.macro restore_emulated field, offset
        ldr     x0, [x17, #\offset]
        str     x0, [x19, #\field]
.endm

        .text
/* x17: bank, x19: report with the interrupted context's x0-x30. Changes x0-x7. */
function save_bank
        system_registers save_system
        emulated_registers save_emulated
        add     x0, x19, #BW_REPORT_X
        add     x1, x17, #BW_BANK_X0
        add     x2, x0, #8 * 30
1:      ldp     x3, x4, [x0], #16
        stp     x3, x4, [x1], #16
        cmp     x0, x2
        b.lo    1b
        ldr     x3, [x0]
        str     x3, [x1]
        add     x0, x17, #BW_BANK_Q0
        vector_registers stp, x0
        ret
endfunction save_bank

/* x17: bank, x19: report. Ends in the bank's context. */
function restore_bank
        system_registers restore_system
        emulated_registers restore_emulated
        add     x0, x17, #BW_BANK_Q0
        vector_registers ldp, x0
        add     x17, x17, #BW_BANK_X0
        most_registers ldp, x17
        ldr     x30, [x17, #8 * 30]
        ldp     x0, x1, [x17]
        ldp     x16, x17, [x17, #8 * 16]
        eret
endfunction restore_bank

/*
 * For the test that a register which the restore leaves out is noticed. x0: 1 + its index. Leaves
 * in x17 a bank that equals the snapshot's but for that register, which keeps its present value.
 */
function mix_banks
        mov     x28, x30
        sub     x27, x0, #1
        address x17, current_bank
        bl      save_bank
        mov     x0, x17
        address x1, snapshot_bank
        address x17, mixed_bank
        mov     x2, xzr
1:      ldr     x3, [x1, x2]
        str     x3, [x17, x2]
        add     x2, x2, #8
        cmp     x2, #BW_BANK_BYTES
        b.lo    1b
        subs    x2, x27, #BW_BANK_FIRST_VECTOR
        b.hs    2f
        ldr     x3, [x0, x27, lsl #3]
        str     x3, [x17, x27, lsl #3]
        ret     x28
2:      cmp     x27, #BW_BANK_REGISTERS
        b.hs    3f
        add     x2, xzr, x2, lsl #4
        add     x2, x2, #BW_BANK_Q0
        add     x0, x0, x2
        ldp     x3, x4, [x0]
        add     x0, x17, x2
        stp     x3, x4, [x0]
3:      ret     x28
endfunction mix_banks
