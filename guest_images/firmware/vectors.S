/* SPDX-License-Identifier: BSD-2-Clause */
/* EL3's exception vectors: SMC, WFI, the secure timer and victims' requests are expected, everything else is a panic. */
#include "firmware.h"

.macro vector target
        .balign 128
        b       \target
.endm

        .text
        .balign 2048
        .globl  vectors
vectors:
    .rept 8                                     /* from EL3 itself */
        vector  panic
    .endr
        vector  lower_synchronous               /* from AArch64 below: synchronous, IRQ, FIQ, SError */
        vector  panic
#ifdef BW_NORMAL_WORLD
        vector  normal_interrupted
#else
        vector  panic
#endif
        vector  panic
    .rept 4                                     /* from AArch32 below */
        vector  panic
    .endr
        .balign 128

function lower_synchronous
        stp     x8, x9, [sp, #-16]!
        mrs     x8, esr_el3
        lsr     x9, x8, #ESR_CLASS_SHIFT
        cmp     x9, #ESR_CLASS_SMC
        b.eq    smc_call                        /* x8: syndrome; the caller's x8 and x9 are on the stack */
        cmp     x9, #ESR_CLASS_SYSTEM
        b.eq    system_access                   /* the same */
        cmp     x9, #ESR_CLASS_WAIT
        ldp     x8, x9, [sp], #16
        b.eq    wait_trapped
        b       panic
endfunction lower_synchronous

/* The registers of the interrupted context are still in place. */
function panic
        save_context
        address x0, panicking
        ldr     x1, [x0]
        cbnz    x1, 1f
        mov     x1, #1
        str     x1, [x0]
        address x0, panic_text
        bl      console_string
        mrs     x0, esr_el3
        bl      console_hexadecimal
        address x0, panic_elr
        bl      console_string
        mrs     x0, elr_el3
        bl      console_hexadecimal
        address x0, panic_far
        bl      console_string
        mrs     x0, far_el3
        bl      console_hexadecimal
        address x0, panic_end
        bl      console_string
        address x0, panicking
        str     xzr, [x0]
1:      mov     w20, #BW_PARK_EL3_PANIC
        b       park
endfunction panic

        .section .rodata
panic_text:
        .asciz  "\r\nbothworlds EL3 panic: ESR "
panic_elr:
        .asciz  " ELR "
panic_far:
        .asciz  " FAR "
panic_end:
        .asciz  "\r\n"
