/* SPDX-License-Identifier: BSD-2-Clause */
/* What both worlds' guests do with registers. */
#pragma once
#include "protocol.h"
#include "machine.h"
#include "worlds.h"

#define EXCHANGE        BW_EXCHANGE_AREA_BASE

.macro load_all base
    .irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29
        ldr     x\number, [\base, #8 * \number]
    .endr
        ldr     x30, [\base, #8 * 30]
.endm
.macro store_all base
    .irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
        str     x\number, [\base, #8 * \number]
    .endr
.endm

.macro flip_bits name, bits
        mrs     x0, \name
        ldr     x1, =\bits
        eor     x0, x0, x1
        msr     \name, x0
.endm
/* A number of its own for each general register from x9 on, and for each half of the vector registers. */
.macro number_registers pattern
        ldr     x0, =\pattern
    .irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        add     x0, x0, #0x101
        mvn     x1, x0
        stp     x0, x1, [sp, #-16]!
        ldr     q\number, [sp], #16
    .endr
    .irp number, 4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
        add     x0, x0, #1
        mov     x\number, x0
    .endr
.endm
.macro dump_register name, bits
        mrs     x0, \name
        str     x0, [x1], #8
.endm
/* Write all registers where sp points. Changes x0, x1. */
.macro dump registers
        store_all sp
        add     x1, sp, #8 * 32
        \registers dump_register
        add     x1, x1, #15
        and     x1, x1, #~15
    .irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        str     q\number, [x1], #16
    .endr
.endm
.macro stack address
        ldr     x0, =\address
        mov     sp, x0
.endm
