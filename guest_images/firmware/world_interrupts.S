/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Whose interrupt is whose. Group 0 is the secure world's and arrives as FIQ: at S-EL1, or here while
 * the normal world runs. Group 1 is the normal world's and arrives as IRQ at the world that runs. The
 * secure kernel does not acknowledge it, but keeps the group away at the CPU interface, by a bit that
 * is the normal world's: the switch gives it back as that world left it.
 */
#include "firmware.h"
#include "interrupts.h"

#ifdef BW_NORMAL_WORLD

/*
 * Of the normal world's lines, as secure accesses see it. The normal world cannot give them a higher
 * one than 0x80, so that the kernel's lines, which have 0, come before them.
 */
#define NORMAL_PRIORITY         0xa0
#define LINE_BYTES              32              /* of GICD_IPRIORITYR, for the lines of a word of GICD_IGROUPR */

        .text
/* Before the normal world starts: its lines are Group 1, all others stay Group 0. Changes x0-x4. */
function assign_interrupts
        load    x0, BW_REGION_GICD_BASE
        mov     w3, #NORMAL_PRIORITY
        .macro assign number, lines
        load    w1, \lines
        str     w1, [x0, #(GICD_IGROUPR + 4 * \number)]
        add     x2, x0, #(GICD_IPRIORITYR + LINE_BYTES * \number)
        bl      lower_priorities
        .endm
        mov     x4, x30
        normal_lines assign
        ret     x4
endfunction assign_interrupts

/* x1: lines, a bit each, x2: the byte of the first one's priority, w3: the priority. Changes x1 and x2. */
function lower_priorities
1:      cbz     w1, 3f
        tbz     w1, #0, 2f
        strb    w3, [x2]
2:      lsr     w1, w1, #1
        add     x2, x2, #1
        b       1b
3:      ret
endfunction lower_priorities

/* The normal world is left. Changes x0-x2. */
function leave_normal_interrupts
        load    x0, BW_REGION_GICC_BASE
        address x1, normal_group1
        ldr     w2, [x0, #GICC_CTLR]
        and     x2, x2, #CONTROL_GROUP1
        str     x2, [x1]
        ret
endfunction leave_normal_interrupts

/*
 * The normal world is entered. Changes x0-x3. What is stored differs from the register only after the kernel
 * has changed it, which the plugin has noticed.
 */
function enter_normal_interrupts
        load    x0, BW_REGION_GICC_BASE
        address x1, normal_group1
        ldr     w2, [x0, #GICC_CTLR]
        ldr     x1, [x1]
        bic     w3, w2, #CONTROL_GROUP1
        orr     w3, w3, w1
        cmp     w2, w3
        b.eq    1f
        str     w3, [x0, #GICC_CTLR]
1:      ret
endfunction enter_normal_interrupts

        .bss
        .balign 8
        .globl  normal_group1
        .type   normal_group1, %object
        .size   normal_group1, 8
        /* Bit 1 of GICC_CTLR as the normal world left it. */
normal_group1:
        .skip   8

#endif
