/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the kernel expects at its first instruction: it runs at its virtual address at S-EL1, mapped
 * by boot tables that it leaves as soon as its own are built, with the root task's place in x0-x3.
 * EL3's own MMU is off, so no identity mapping is needed.
 */
#include "firmware.h"

#define TABLE_BITS              9
#define LEVEL0_SHIFT            39
#define LEVEL1_SHIFT            30
#define LEVEL2_SHIFT            21
#define BLOCK_BYTES             (1 << LEVEL2_SHIFT)
#define DESCRIPTOR_TABLE        3
/* Block, memory attribute 4, inner shareable, accessed, not executable at EL0; NS is 0. */
#define DESCRIPTOR_BLOCK        ((1 << 0) | (4 << 2) | (3 << 8) | (1 << 10) | (1 << 54))

/* Attributes as the kernel numbers them: 0 device, 1 device with early acknowledgement, 2 gathering, 3 uncached, 4 cached. */
#define MAIR_VALUE              0xff440c0400
/*
 * RES1, instruction and data cache, MMU; WFI at EL0 is not the kernel's (nTWI), so that it reaches
 * EL3. The kernel keeps the bits that it does not name. EL0's WFE does trap to the kernel.
 */
#define SCTLR_NTWI              (1 << 16)
#define SCTLR_VALUE             (0x30d01805 | SCTLR_NTWI)
#define CPACR_FP                (3 << 20)

        .text
function enter_kernel
        address x19, flash_header
        ldr     x1, [x19, #BW_FLASH_HEADER_BOOT_TABLES]
        add     x2, x1, #4 * BW_PAGE
        mov     x0, x1
1:      stp     xzr, xzr, [x0], #16
        cmp     x0, x2
        b.lo    1b

        ldp     x10, x11, [x19, #BW_FLASH_HEADER_KERNEL_VIRTUAL_BASE]
        ldr     x12, [x19, #BW_FLASH_HEADER_KERNEL_MAP_BYTES]
        add     x2, x1, #BW_PAGE                /* level 1 */
        add     x3, x2, #BW_PAGE                /* level 2 */
        orr     x4, x2, #DESCRIPTOR_TABLE
        ubfx    x5, x10, #LEVEL0_SHIFT, #TABLE_BITS
        str     x4, [x1, x5, lsl #3]
        orr     x4, x3, #DESCRIPTOR_TABLE
        ubfx    x5, x10, #LEVEL1_SHIFT, #TABLE_BITS
        str     x4, [x2, x5, lsl #3]
        load    x4, DESCRIPTOR_BLOCK
        orr     x4, x4, x11
        ubfx    x5, x10, #LEVEL2_SHIFT, #TABLE_BITS
        add     x3, x3, x5, lsl #3
        load    x6, BLOCK_BYTES
2:      str     x4, [x3], #8
        add     x4, x4, x6
        subs    x12, x12, x6
        b.hi    2b

        msr     ttbr1_el1, x1
        add     x1, x1, #3 * BW_PAGE            /* the fourth table stays empty */
        msr     ttbr0_el1, x1
        load    x0, MAIR_VALUE
        msr     mair_el1, x0
        load    x0, TCR_VALUE
        msr     tcr_el1, x0
        load    x0, CPACR_FP
        msr     cpacr_el1, x0
        msr     cntkctl_el1, xzr                /* EL0 reads no counter: programs must not see the host's time */
        dsb     sy
        isb
        tlbi    alle1
        ic      iallu
        dsb     sy
        isb
        load    x0, SCTLR_VALUE
        msr     sctlr_el1, x0
        load    x0, SPSR_EL1H_MASKED
        msr     spsr_el3, x0
        ldr     x0, [x19, #BW_FLASH_HEADER_KERNEL_ENTRY]
        msr     elr_el3, x0

        ldp     x0, x1, [x19, #BW_FLASH_HEADER_BOOT_ARGUMENTS]
        ldp     x2, x3, [x19, #BW_FLASH_HEADER_BOOT_ARGUMENTS + 16]
        /* No value of EL3 reaches the kernel. */
    .irp number, 4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
        mov     x\number, xzr
    .endr
        eret
endfunction enter_kernel
