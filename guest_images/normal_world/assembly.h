/* SPDX-License-Identifier: BSD-2-Clause */
/* Macros of the normal world's assembly. */
#pragma once
#include "layout.h"
#include "registers.h"

/* A system register of the level at which the program runs */
#ifdef AT_EL2
#define OWN(name) name##_el2
#else
#define OWN(name) name##_el1
#endif

.macro load register, value:vararg
        movz    \register, #((\value) & 0xffff)
    .if ((\value) >> 16) & 0xffff
        movk    \register, #(((\value) >> 16) & 0xffff), lsl #16
    .endif
.endm

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
