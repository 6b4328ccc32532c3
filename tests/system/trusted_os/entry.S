/* SPDX-License-Identifier: BSD-2-Clause */
#define PASS_TURN               0x03000001

        .section .text.entry, "ax"
        .globl  _start
_start:
        ldr     x0, =stack_top
        mov     sp, x0
        bl      perform_steps
1:      ldr     x0, =PASS_TURN
        mov     x1, #-1                         /* to nobody */
        smc     #0
        b       1b
        .ltorg

        .section .rodata
        .balign 8
        .globl  steps, steps_end, data
steps:
        .incbin "steps.bin"
steps_end:
data:
        .incbin "data.bin"

        .bss
        .balign 16
        .skip   4096
stack_top:
