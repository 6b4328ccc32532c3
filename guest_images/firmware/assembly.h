/* SPDX-License-Identifier: BSD-2-Clause */
/* Macros of the firmware's assembly, and of the normal world's. */
#pragma once

/* Set a register to a constant with as few moves as it needs. */
.macro load register, value:vararg
        movz    \register, #((\value) & 0xffff)
    .if ((\value) >> 16) & 0xffff
        movk    \register, #(((\value) >> 16) & 0xffff), lsl #16
    .endif
    .if ((\value) >> 32) & 0xffff
        movk    \register, #(((\value) >> 32) & 0xffff), lsl #32
    .endif
    .if ((\value) >> 48) & 0xffff
        movk    \register, #(((\value) >> 48) & 0xffff), lsl #48
    .endif
.endm

/* Set a register to the address of a symbol. */
.macro address register, symbol
        adrp    \register, \symbol
        add     \register, \register, :lo12:\symbol
.endm

.macro function name
        .globl  \name
        .type   \name, %function
        .balign 4
\name:
.endm

.macro endfunction name
        .size   \name, . - \name
.endm

/* Store or load (the operation) the pairs x2-x15 and x18-x29 of an array of x0-x30. */
.macro most_registers operation, base
        \operation x2, x3, [\base, #8 * 2]
        \operation x4, x5, [\base, #8 * 4]
        \operation x6, x7, [\base, #8 * 6]
        \operation x8, x9, [\base, #8 * 8]
        \operation x10, x11, [\base, #8 * 10]
        \operation x12, x13, [\base, #8 * 12]
        \operation x14, x15, [\base, #8 * 14]
        \operation x18, x19, [\base, #8 * 18]
        \operation x20, x21, [\base, #8 * 20]
        \operation x22, x23, [\base, #8 * 22]
        \operation x24, x25, [\base, #8 * 24]
        \operation x26, x27, [\base, #8 * 26]
        \operation x28, x29, [\base, #8 * 28]
.endm
