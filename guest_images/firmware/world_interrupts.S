/* SPDX-License-Identifier: BSD-2-Clause */
/* The interrupt controller between the worlds: which lines are whose, and when the normal world's come. */
#include "firmware.h"

#ifdef BW_NORMAL_WORLD

#define GICD_CTLR               0x000
#define GICD_IGROUPR            0x080
#define GICC_CTLR               0x000
#define ENABLE_GROUP_1_BIT      1

        .text
/* Before the normal world starts: its lines are Group 1, all others stay Group 0. Changes x0-x2. */
function assign_interrupts
        load    x0, BW_REGION_GICD_BASE
        .macro assign number, lines
        load    w1, \lines
        str     w1, [x0, #(GICD_IGROUPR + 4 * \number)]
        .endm
        normal_lines assign
        ldr     w1, [x0, #GICD_CTLR]
        orr     w1, w1, #(1 << ENABLE_GROUP_1_BIT)
        str     w1, [x0, #GICD_CTLR]
        ret
endfunction assign_interrupts

/* On entering the normal world. Changes x0-x3. */
function open_normal_interrupts
        load    x0, BW_REGION_GICC_BASE
        ldr     w1, [x0, #GICC_CTLR]
        tbnz    w1, #ENABLE_GROUP_1_BIT, 1f
        orr     w1, w1, #(1 << ENABLE_GROUP_1_BIT)
        str     w1, [x0, #GICC_CTLR]
1:      ret
endfunction open_normal_interrupts

#endif
