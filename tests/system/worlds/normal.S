/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The normal world of the tests: passes its turn, and each time that it gets it back performs the one
 * operation that the exchange area names, at the level at which EL3 has entered it.
 */
#include "common.h"

#if BW_NORMAL_LEVEL == 2
#define EL(name)        name ## _el2
#else
#define EL(name)        name ## _el1
#endif
#define TRUSTED_CALL    0xb2000010              /* a fast call for the Trusted OS */

.macro operation number, target
        cmp     x2, #\number
        b.eq    \target
.endm

        .text
        .globl  _start
_start:
        ldr     x0, =vectors
        msr     EL(vbar), x0
        mov     x0, #(3 << 20)
        msr     cpacr_el1, x0
        isb
pass_turn:
        ldr     x0, =WORLDS_PASS_TURN
        smc     #0
        ldr     x30, =EXCHANGE + WORLDS_NORMAL_RESULTS
        mov     sp, x30
        ldr     x30, =EXCHANGE + WORLDS_NORMAL_OPERATION
        ldr     x2, [x30], #8
        operation WORLDS_SMC, smc_zero
        operation WORLDS_SMC_IMMEDIATE, smc_one
        operation WORLDS_REGISTERS, registers
        operation WORLDS_WAIT, wait
        operation WORLDS_FORGE, forge
        operation WORLDS_LOAD, load_word
        operation WORLDS_STORE, store_word
        operation WORLDS_CALLS, calls
        b       pass_turn

smc_zero:
        load_all x30
        smc     #0
        store_all sp
        b       pass_turn
smc_one:
        load_all x30
        smc     #1
        store_all sp
        b       pass_turn

registers:
        normal_registers flip_bits
        number_registers 0x7777000000000000
        stack   EXCHANGE + DUMP_NORMAL_BEFORE
        ldr     x0, =TRUSTED_CALL
        mov     x1, #1
        dump    normal_registers
        stack   EXCHANGE + DUMP_NORMAL_AFTER
        ldr     x0, =TRUSTED_CALL
        smc     #0
        dump    normal_registers
        b       pass_turn

wait:
        ldr     x1, =EXCHANGE
        ldr     x0, [x1, #BW_EXCHANGE_NONCE]
1:      wfi
        b       pass_turn
forge:
        mov     x0, #0
        b       1b

/* x1: address; afterwards x0: what it holds, or all ones and the syndrome in x1, the address in x2 */
load_word:
        load_all x30
        ldr     x0, [x1]
        store_all sp
        b       pass_turn
store_word:
        load_all x30
        str     x0, [x1]
        store_all sp
        b       pass_turn

/* The same call as often as x19 says, for measurements. */
calls:
        ldr     x19, [x30, #8 * 19]
1:      ldp     x0, x1, [x30]
        ldp     x2, x3, [x30, #16]
        smc     #0
        subs    x19, x19, #1
        b.ne    1b
        store_all sp
        b       pass_turn

        .balign 2048
vectors:
    .rept 4
        b       .
        .balign 128
    .endr
        mov     x0, #-1                         /* a synchronous exception of this level: go on behind it */
        mrs     x1, EL(elr)
        add     x1, x1, #4
        msr     EL(elr), x1
        mrs     x1, EL(esr)
        mrs     x2, EL(far)
        eret
        .balign 128
    .rept 11
        b       .
        .balign 128
    .endr
        .ltorg
