/* SPDX-License-Identifier: BSD-2-Clause */
/* The Trusted OS' part of bare.S: gives the normal world its turn, and answers its calls. */

.macro done
        ldr     x0, =BW_DISPATCHER_DONE
        smc     #0
.endm

/* Until the turn is passed back, answer each call alike. x19 and x20 must survive the other world. */
give_turn:
        ldr     x19, =WORLDS_PASS_TURN
        ldr     x20, =EXCHANGE + WORLDS_REQUESTS
        mov     x1, xzr
1:      done
        cmp     x0, x19
        b.eq    leave
        ldr     x9, [x20]
        cmp     x9, #WORLDS_MAXIMUM_REQUESTS
        b.hs    2f
        add     x10, x20, #8
        add     x10, x10, x9, lsl #6
        add     x9, x9, #1
        str     x9, [x20]
        stp     x0, x1, [x10]
        stp     x2, x3, [x10, #16]
        stp     x4, x5, [x10, #32]
        stp     x6, x7, [x10, #48]
2:      ldr     x9, =EXCHANGE + WORLDS_ANSWER
        ldp     x1, x2, [x9]
        ldp     x3, x4, [x9, #16]
        b       1b

/* All registers, before and after the other world has run with its own. */
switch_registers:
        secure_registers flip_bits
        number_registers 0x5555000000000000
        stack   EXCHANGE + DUMP_SECURE_BEFORE
        dump    secure_registers
        stack   EXCHANGE + DUMP_SECURE_CALLED
        mov     x1, xzr
        done
        dump    secure_registers
        stack   EXCHANGE + DUMP_SECURE_AFTER
        mov     x1, #0xa0
        mov     x2, #0xa1
        mov     x3, #0xa2
        done
        dump    secure_registers
        b       leave

smc_from_other_space:
        flip_bits ttbr0_el1, 1 << 48
        isb
        load_all x30
        smc     #0
        store_all sp
        flip_bits ttbr0_el1, 1 << 48
        isb
        b       leave
