/* SPDX-License-Identifier: BSD-2-Clause */
/* The interrupt controller (GICv2) as the secure world sees it: saved at the snapshot, written back on request. */
#include "firmware.h"
#include "interrupts.h"

#define SOFTWARE_WORDS          4               /* 16 software interrupts, a byte each */
#define TYPER_LINES_BITS        5

/*
 * All registers in the order of a restore, except the two controls. x25: distributor, x26: CPU
 * interface, x27: number of groups of 32 interrupts; `plain` and `bits` get address, x28 for the
 * count of words.
 */
.macro interrupt_registers plain, bits, software
        mov     x28, x27
        \plain  x25, GICD_IGROUPR
        lsl     x28, x27, #3
        \plain  x25, GICD_IPRIORITYR
        \plain  x25, GICD_ITARGETSR
        lsl     x28, x27, #1
        \plain  x25, GICD_ICFGR
        mov     x28, x27
        \bits   x25, GICD_ISENABLER
        \bits   x25, GICD_ISPENDR
        \bits   x25, GICD_ISACTIVER
        mov     x28, #SOFTWARE_WORDS
        \software
        \plain  x26, GICC_APR
#ifdef BW_NORMAL_WORLD
        \plain  x26, GICC_NSAPR
#endif
        mov     x28, #1
        \plain  x26, GICC_PMR
        \plain  x26, GICC_BPR
        \plain  x26, GICC_ABPR
.endm

.macro call_with routine, base, offset
        add     x0, \base, #\offset
        bl      \routine
.endm
.macro save_plain base, offset
        call_with save_words, \base, \offset
.endm
.macro restore_plain base, offset
        call_with restore_words, \base, \offset
.endm
.macro restore_bits base, offset
        call_with restore_set_and_clear, \base, \offset
.endm
.macro save_software
        call_with save_words, x25, GICD_SPENDSGIR
.endm
.macro restore_software
        call_with restore_software_pending, x25, GICD_SPENDSGIR
.endm

.macro interrupt_controller
        load    x25, BW_REGION_GICD_BASE
        load    x26, BW_REGION_GICC_BASE
        ldr     w27, [x25, #GICD_TYPER]
        ubfx    x27, x27, #0, #TYPER_LINES_BITS
        add     x27, x27, #1
        address x1, saved_interrupts
.endm

        .text
/* Changes x0-x4, x25-x29. */
function save_interrupts
        mov     x29, x30
        interrupt_controller
        ldr     w2, [x25, #GICD_CTLR]
        ldr     w3, [x26, #GICC_CTLR]
        stp     w2, w3, [x1], #8
#ifdef BW_NORMAL_WORLD
        address x2, normal_group1
        ldr     x2, [x2]
        str     x2, [x1], #8
#endif
        interrupt_registers save_plain, save_plain, save_software
        ret     x29
endfunction save_interrupts

/* The same; the controller is off meanwhile. */
function restore_interrupts
        mov     x29, x30
        interrupt_controller
        str     wzr, [x26, #GICC_CTLR]
        str     wzr, [x25, #GICD_CTLR]
        add     x1, x1, #8
#ifdef BW_NORMAL_WORLD
        address x2, normal_group1
        ldr     x3, [x1], #8
        str     x3, [x2]
#endif
        interrupt_registers restore_plain, restore_bits, restore_software
        address x1, saved_interrupts
        ldp     w2, w3, [x1]
        str     w2, [x25, #GICD_CTLR]
        str     w3, [x26, #GICC_CTLR]
        ret     x29
endfunction restore_interrupts

/* x0: first register, x1: where the saved words are (moves on), x28: words. */
function save_words
        mov     x2, x28
1:      ldr     w3, [x0], #4
        str     w3, [x1], #4
        subs    x2, x2, #1
        b.ne    1b
        ret
endfunction save_words

function restore_words
        mov     x2, x28
1:      ldr     w3, [x1], #4
        str     w3, [x0], #4
        subs    x2, x2, #1
        b.ne    1b
        ret
endfunction restore_words

/* x0: the first of the registers that set bits. */
function restore_set_and_clear
        mov     x2, x28
1:      ldr     w3, [x1], #4
        mvn     w4, w3
        str     w4, [x0, #CLEAR_REGISTERS]
        str     w3, [x0], #4
        subs    x2, x2, #1
        b.ne    1b
        ret
endfunction restore_set_and_clear

/*
 * The same for software interrupts, a byte each. What was not pending is not written: QEMU makes an
 * interrupt pending when 0 is written to its byte of the register that sets, and ends when it is taken.
 */
function restore_software_pending
        lsl     x2, x28, #2
1:      ldrb    w3, [x1], #1
        mvn     w4, w3
        strb    w4, [x0, #(GICD_CPENDSGIR - GICD_SPENDSGIR)]
        cbz     w3, 2f
        strb    w3, [x0]
2:      add     x0, x0, #1
        subs    x2, x2, #1
        b.ne    1b
        ret
endfunction restore_software_pending
