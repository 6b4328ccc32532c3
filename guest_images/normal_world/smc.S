/* SPDX-License-Identifier: BSD-2-Clause */
/* An SMC, or a request to EL3, with every register given, and every register seen afterwards. */
#include "own.h"

/* Store or load (the operation) the pairs x2-x29 of an array of x0-x30. */
.macro pairs_of_registers operation, base
        most_registers \operation, \base
        \operation x16, x17, [\base, #8 * 16]
.endm

.macro vector_registers operation, base
    .irp number, 0,2,4,6,8,10,12,14,16,18,20,22,24,26,28
        vector_pair \operation, \base, \number, %(\number + 1)
    .endr
        \operation q30, q31, [\base, #16 * 30]
.endm
.altmacro
.macro vector_pair operation, base, first, second
        \operation q\first, q\second, [\base, #16 * \first]
.endm

        .text
/* x0: x0-x30; x1: where q0-q31 go; x2: immediate, or -1 for a request; x3: patterns of q0-q31; x4: whether interrupts are open meanwhile */
function call_monitor
        stp     x19, x20, [sp, #-128]!
        stp     x21, x22, [sp, #16]
        stp     x23, x24, [sp, #32]
        stp     x25, x26, [sp, #48]
        stp     x27, x28, [sp, #64]
        stp     x29, x30, [sp, #80]
        stp     x0, x1, [sp, #96]
        vector_registers ldp, x3
        cbz     x4, 1f
        msr     daifclr, #2
1:      cmp     x2, #1
        pairs_of_registers ldp, x0
        ldr     x30, [x0, #8 * 30]
        ldp     x0, x1, [x0]
        b.lo    2f
        b.eq    3f
        b.lt    5f
        smc     #0xffff
        b       4f
5:      msr     pmcr_el0, x0
        b       4f
2:      smc     #0
        b       4f
3:      smc     #1
4:      msr     daifset, #2
        stp     x0, x1, [sp, #112]
        ldr     x0, [sp, #96]
        pairs_of_registers stp, x0
        str     x30, [x0, #8 * 30]
        ldp     x2, x3, [sp, #112]
        stp     x2, x3, [x0]
        ldr     x1, [sp, #104]
        vector_registers stp, x1
        ldp     x21, x22, [sp, #16]
        ldp     x23, x24, [sp, #32]
        ldp     x25, x26, [sp, #48]
        ldp     x27, x28, [sp, #64]
        ldp     x29, x30, [sp, #80]
        ldp     x19, x20, [sp], #128
        ret
endfunction call_monitor
