/* SPDX-License-Identifier: BSD-2-Clause */
/* The normal world: passes its turn to the secure world, for ever. */
#include "protocol.h"
#include "machine.h"

/* A yielding call of the OEM range: it returns when it is the normal world's turn. */
#define PASS_TURN               0x03000001

        .section .text.entry, "ax"
        .globl  _start
_start:
        ldr     x0, =stack_top
        mov     sp, x0
1:      ldr     x0, =PASS_TURN
        mov     x1, #BW_MAXIMUM_VICTIMS         /* to nobody in particular */
        smc     #0
        b       1b
        .ltorg

        .bss
        .balign 16
        .skip   4096
stack_top:
