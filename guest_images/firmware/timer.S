/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The secure timer as S-EL1 sees it. Its registers live in the report and its counter stands at 0,
 * so the timer never expires by itself and no run depends on the host's time. A program's Interrupt
 * makes it expire: the report counts the expiries that are left, one each time that the kernel has
 * set the timer again.
 */
#include "firmware.h"

/* Syndrome of a trapped MSR or MRS: which register, which direction (1: read), which Xt. */
#define SYNDROME_READ           0
#define SYNDROME_XT_SHIFT       5
#define SYNDROME_XT_BITS        5
#define CNTPS_TVAL_EL1          SYNDROME_REGISTER(3, 7, 14, 2, 0)
#define CNTPS_CTL_EL1           SYNDROME_REGISTER(3, 7, 14, 2, 1)
#define CNTPS_CVAL_EL1          SYNDROME_REGISTER(3, 7, 14, 2, 2)
/* ENABLE and IMASK; ISTATUS stays 0. */
#define CONTROL_WRITABLE        3

#define FRAME_BYTES             (8 * 32)

        .text
/* x8: ESR_EL3; the caller's x8 and x9 are on the stack. */
function timer_access
        /* x0-x30 as an array, and a zero for XZR, so that Xt can be picked by its number. */
        sub     sp, sp, #FRAME_BYTES
        stp     x0, x1, [sp]
        most_registers stp, sp
        stp     x16, x17, [sp, #8 * 16]
        stp     x30, xzr, [sp, #8 * 30]
        ldp     x0, x1, [sp, #FRAME_BYTES]
        stp     x0, x1, [sp, #8 * 8]

        ubfx    x1, x8, #SYNDROME_XT_SHIFT, #SYNDROME_XT_BITS
        load    x2, SYNDROME_REGISTER_MASK
        and     x2, x8, x2
        address x3, report
        load    x4, CNTPS_CTL_EL1
        cmp     x2, x4
        b.eq    control
        load    x4, CNTPS_TVAL_EL1
        cmp     x2, x4
        b.eq    timer_value
        load    x4, CNTPS_CVAL_EL1
        cmp     x2, x4
        b.eq    compare_value

        /* Not the timer: nothing else traps here on purpose. */
        most_registers ldp, sp
        ldp     x16, x17, [sp, #8 * 16]
        ldr     x30, [sp, #8 * 30]
        ldp     x0, x1, [sp], #FRAME_BYTES
        add     sp, sp, #16
        b       panic

control:
        tbnz    x8, #SYNDROME_READ, 1f
        ldr     x0, [sp, x1, lsl #3]
        and     x0, x0, #CONTROL_WRITABLE
        str     x0, [x3, #BW_REPORT_TIMER_CONTROL]
        ldr     x0, [x3, #BW_REPORT_TICKS]
        cbz     x0, timer_done
        sub     x0, x0, #1
        str     x0, [x3, #BW_REPORT_TICKS]
        mov     x8, #TIMER_LINE
        bl      make_pending
        b       timer_done
1:      ldr     x0, [x3, #BW_REPORT_TIMER_CONTROL]
        b       timer_read

timer_value:                                    /* 32 bits, relative to the counter, which is 0 */
        tbnz    x8, #SYNDROME_READ, 1f
        ldr     x0, [sp, x1, lsl #3]
        sxtw    x0, w0
        str     x0, [x3, #BW_REPORT_TIMER_VALUE]
        b       timer_done
1:      ldr     w0, [x3, #BW_REPORT_TIMER_VALUE]
        b       timer_read

compare_value:
        tbnz    x8, #SYNDROME_READ, 1f
        ldr     x0, [sp, x1, lsl #3]
        str     x0, [x3, #BW_REPORT_TIMER_VALUE]
        b       timer_done
1:      ldr     x0, [x3, #BW_REPORT_TIMER_VALUE]

timer_read:
        str     x0, [sp, x1, lsl #3]
timer_done:
        mrs     x0, elr_el3                     /* the access is done */
        add     x0, x0, #4
        msr     elr_el3, x0
        most_registers ldp, sp
        ldp     x16, x17, [sp, #8 * 16]
        ldr     x30, [sp, #8 * 30]
        ldp     x0, x1, [sp], #FRAME_BYTES
        add     sp, sp, #16
        eret
endfunction timer_access
