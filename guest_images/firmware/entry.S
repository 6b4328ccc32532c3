/* SPDX-License-Identifier: BSD-2-Clause */
/* Reset: set EL3 up, copy the images out of flash, enter the kernel. */
#include "firmware.h"

        .section .text.entry, "ax"
        .globl  _start
_start:
        b       reset
        /* Filled in by harness/build/flash.py. */
        .org    BW_FLASH_HEADER_OFFSET
        .globl  flash_header
        .type   flash_header, %object
        .size   flash_header, BW_FLASH_HEADER_BYTES
flash_header:
        .skip   BW_FLASH_HEADER_BYTES
#ifdef BW_NORMAL_WORLD
        .globl  normal_header
        .type   normal_header, %object
        .size   normal_header, BW_NORMAL_HEADER_BYTES
normal_header:
        .skip   BW_NORMAL_HEADER_BYTES
#endif

        .text
function reset
        msr     daifset, #0xf
        mrs     x0, mpidr_el1                   /* one CPU only: others sleep for ever */
        and     x0, x0, #0xffffff
        cbnz    x0, sleep

        address x0, vectors
        msr     vbar_el3, x0
        load    x0, 0x30c51830                  /* SCTLR_EL3: RES1 and I; MMU, caches of data and alignment checks off */
        msr     sctlr_el3, x0
        load    x0, SCR_VALUE
        msr     scr_el3, x0
        msr     cptr_el3, xzr                   /* nothing of FP, SIMD or CPACR traps here */
        load    x0, MDCR_VALUE                  /* nor do debug registers */
        msr     mdcr_el3, x0
        mov     x0, #1                          /* EL0's accesses to the performance monitor are not the kernel's */
        msr     pmuserenr_el0, x0
        msr     tpidr_el3, xzr
        isb

        /* RAM outlives a reset of the machine. */
        address x0, firmware_data
        address x1, firmware_data_end
1:      stp     xzr, xzr, [x0], #16
        cmp     x0, x1
        b.lo    1b
        address x0, stack_top
        mov     sp, x0

        bl      console_open
        address x0, greeting
        bl      console_string

        address x19, flash_header
        add     x0, x19, #BW_FLASH_HEADER_KERNEL
        bl      copy_image
        add     x0, x19, #BW_FLASH_HEADER_ROOT_TASK
        bl      copy_image
        b       enter_kernel
endfunction reset

function sleep
        wfi
        b       sleep
endfunction sleep

/*
 * x0: an image's entry in the flash header. Copies it and clears the rest of its memory.
 * Addresses and sizes are multiples of 16. Changes x0-x6.
 */
function copy_image
        ldp     x1, x2, [x0, #BW_FLASH_IMAGE_SOURCE]
        ldp     x3, x4, [x0, #BW_FLASH_IMAGE_FILE_BYTES]
        load    x5, BW_REGION_FLASH_BASE
        add     x1, x1, x5
        add     x3, x3, x2                      /* end of what is copied */
        add     x4, x4, x2                      /* end of the image's memory */
        b       2f
1:      ldp     x5, x6, [x1], #16
        stp     x5, x6, [x2], #16
2:      cmp     x2, x3
        b.lo    1b
        b       4f
3:      stp     xzr, xzr, [x2], #16
4:      cmp     x2, x4
        b.lo    3b
        ret
endfunction copy_image

        .section .rodata
greeting:
        .asciz  "bothworlds EL3\r\n"
