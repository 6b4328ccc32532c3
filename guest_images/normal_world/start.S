/* SPDX-License-Identifier: BSD-2-Clause */
/* Entry and exceptions of the normal world's program. */
#include "own.h"

#define CPACR_FP                (3 << 20)
#define HCR_RW                  (1 << 31)
#define HCR_IMO                 (1 << 4)        /* interrupts come to EL2 */
#define CPTR_EL2_NOTHING_TRAPS  0x33ff
#define CNTHCTL_EL1_MAY_READ    3
#define PSTATE_I                (1 << 7)
#define GICC_IAR                0x00c
#define GICC_EOIR               0x010
#define LINE_BITS               10
#define FIRST_SPECIAL_LINE      1020

.macro write_system name, offset
        ldr     x1, [x0, #\offset]
        msr     \name, x1
.endm
.macro read_system_register name, offset
        mrs     x1, \name
        str     x1, [x0, #\offset]
.endm
/* x0: expected_system. Changes x1. */
.macro now_expected name, index
        mrs     x1, \name
        str     x1, [x0, #8 * \index]
.endm

        .section .text.entry, "ax"
        .globl  _start
_start:
        msr     daifset, #0xf
        msr     spsel, #1
        address x0, stack_top
        mov     sp, x0
        address x0, vectors
        msr     OWN(vbar), x0
#ifdef AT_EL2
        mov     x0, #CPTR_EL2_NOTHING_TRAPS
        msr     cptr_el2, x0
        mov     x0, #HCR_RW
        orr     x0, x0, #HCR_IMO
        msr     hcr_el2, x0
        mov     x0, #CNTHCTL_EL1_MAY_READ
        msr     cnthctl_el2, x0
#endif
        mov     x0, #CPACR_FP
        msr     cpacr_el1, x0
        isb
        address x0, system_patterns
        written_registers write_system
        isb
        address x0, expected_system
        bl      read_system
        bl      normal_main
        b       broken

        .text
/* x0: array. Changes x1. */
function read_system
        watched_registers read_system_register
        ret
endfunction read_system

        .balign 2048
vectors:
    .rept 4                                     /* with the stack pointer of EL0: never */
        b       broken
        .balign 128
    .endr
        b       synchronous
        .balign 128
        b       interrupt
        .balign 128
    .rept 10
        b       broken
        .balign 128
    .endr

/* An access that faulted returns 1 to its caller; there is no other exception. */
function synchronous
        stp     x0, x1, [sp, #-16]!
        stp     x2, x3, [sp, #-16]!
        address x0, expected_system
        now_expected OWN(far), SYSTEM_FAR
        now_expected OWN(spsr), SYSTEM_SPSR
        now_expected OWN(esr), SYSTEM_ESR
        mrs     x1, OWN(elr)
        address x2, probe_start
        cmp     x1, x2
        b.lo    broken
        address x2, probe_end
        cmp     x1, x2
        b.hs    broken
        address x2, exceptions
        str     x1, [x2, #16]
        ldr     x1, [x0, #8 * SYSTEM_ESR]
        ldr     x3, [x0, #8 * SYSTEM_FAR]
        stp     x1, x3, [x2]
        str     x30, [x0, #8 * SYSTEM_ELR]
        msr     OWN(elr), x30
        ldp     x2, x3, [sp], #16
        ldp     x0, x1, [sp], #16
        mov     x0, #1
        eret
endfunction synchronous

function interrupt
        stp     x0, x1, [sp, #-16]!
        stp     x2, x3, [sp, #-16]!
        address x0, expected_system
        now_expected OWN(elr), SYSTEM_ELR
        now_expected OWN(spsr), SYSTEM_SPSR
        load    x2, GICC_BASE
endfunction interrupt
/* The plugin watches it: the controller's state is no longer the snapshot's. */
function controller_acknowledge
        ldr     w1, [x2, #GICC_IAR]
        ubfx    w3, w1, #0, #LINE_BITS
        cmp     w3, #FIRST_SPECIAL_LINE
        b.hs    1f
        str     w1, [x2, #GICC_EOIR]
        address x2, exceptions
        ldr     x1, [x2, #24]
        add     x1, x1, #1
        stp     x1, x3, [x2, #24]
        b       2f
1:      mrs     x1, OWN(spsr)                   /* there is none that it may see: not again for ever */
        orr     x1, x1, #PSTATE_I
        msr     OWN(spsr), x1
        str     x1, [x0, #8 * SYSTEM_SPSR]
2:      ldp     x2, x3, [sp], #16
        ldp     x0, x1, [sp], #16
        eret
endfunction controller_acknowledge

/* The host sees a WFI without the nonce, and where it was. */
        .globl  broken
broken: mov     x0, #-1
        wfi
        b       broken

        .bss
        .balign 16
        .globl  expected_system
expected_system:
        .skip   8 * SYSTEM_REGISTERS
        .balign 8
        .globl  exceptions
exceptions:
        .skip   40
        .balign 16
        .skip   8192
stack_top:
