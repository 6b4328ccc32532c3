/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Accesses that may fault: the handler (start.S) then returns 1 to the caller. x0: address, a multiple
 * of x1, the width in bytes; x2: where the value goes, or the value. Those of the interrupt controller
 * are functions of their own, which the plugin watches.
 */
#include "own.h"

.macro load_function name
function \name
        cmp     x1, #4
        b.hi    1f
        b.eq    2f
        cmp     x1, #2
        b.eq    3f
        ldrb    w3, [x0]
        b       4f
1:      ldr     x3, [x0]
        b       4f
2:      ldr     w3, [x0]
        b       4f
3:      ldrh    w3, [x0]
4:      str     x3, [x2]
        mov     x0, xzr
        ret
endfunction \name
.endm

.macro store_function name
function \name
        cmp     x1, #4
        b.hi    1f
        b.eq    2f
        cmp     x1, #2
        b.eq    3f
        strb    w2, [x0]
        b       4f
1:      str     x2, [x0]
        b       4f
2:      str     w2, [x0]
        b       4f
3:      strh    w2, [x0]
4:      mov     x0, xzr
        ret
endfunction \name
.endm

        .text
        .globl  probe_start
probe_start:
        load_function probe_load
        store_function probe_store
        load_function controller_load
        store_function controller_store
        .globl  probe_end
probe_end:
