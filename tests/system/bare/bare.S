/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest without a kernel, for tests of the firmware. The program area of the exchange pages holds
 * an operation and values for x0-x30; what they become goes to the results. EL0 waits as a victim does.
 */
#include "protocol.h"
#include "machine.h"
#include "operations.h"
#ifdef BARE_NORMAL_WORLD
#include "../worlds/common.h"
#endif

#define BLOCK           (1 << 21)
#define NORMAL          ((4 << 2) | (3 << 8) | (1 << 10) | 1)
#define TABLE           3
#define DEVICE          ((1 << 10) | 1)
#define EL0             (1 << 6)
#ifndef EXCHANGE
#define EXCHANGE        BW_EXCHANGE_AREA_BASE
#endif
#define OFFSET          (BARE_VIRTUAL - BW_REGION_SECURE_RAM_BASE)

        .text
        .globl  _start
_start:
        ldr     x10, =stack_top
        mov     sp, x10
        ldr     x10, =arguments
        stp     x0, x1, [x10]
        stp     x2, x3, [x10, #16]
        mrs     x0, sctlr_el1
        mrs     x1, cntkctl_el1
        stp     x0, x1, [x10, #32]
#ifdef BARE_SMC_AT_BOOT
        ldr     x0, =BARE_SMC_AT_BOOT
        smc     #0
#endif
        ldr     x10, =vectors
        msr     vbar_el1, x10
        /* Lower half: the image for EL0, the GIC, and normal RAM with the exchange area, each at its physical address. */
        ldr     x10, =tables
        ldr     x11, =tables - OFFSET
        msr     ttbr0_el1, x11
        ldr     x12, =tables - OFFSET + BW_PAGE + TABLE
        str     x12, [x10]
        add     x10, x10, #BW_PAGE
        ldr     x12, =tables - OFFSET + 2 * BW_PAGE + TABLE
        ldr     x13, =0x40000000 | NORMAL | EL0
        stp     x12, x13, [x10]
        add     x10, x10, #BW_PAGE
        ldr     x12, =BW_REGION_SECURE_RAM_BASE | NORMAL | EL0
        str     x12, [x10, #(BW_REGION_SECURE_RAM_BASE / BLOCK * 8)]
        ldr     x12, =BW_REGION_GICD_BASE | DEVICE
        str     x12, [x10, #(BW_REGION_GICD_BASE / BLOCK * 8)]
        dsb     sy
        tlbi    vmalle1
        dsb     sy
        isb
#ifdef BARE_NORMAL_WORLD
        ldr     x0, =BW_DISPATCHER_READY        /* comes back when the normal world passes its turn */
        smc     #0
#endif
        mov     x0, #0x3c0
        msr     spsr_el1, x0
        ldr     x0, =user - OFFSET
        msr     elr_el1, x0
        eret

user:
        wfi
        ldr     x1, =EXCHANGE
        ldr     x0, [x1, #BW_EXCHANGE_PERFORMED]
        add     x0, x0, #1
        str     x0, [x1, #BW_EXCHANGE_PERFORMED]
        add     x2, x1, #BW_EXCHANGE_PROGRAM
        ldr     x2, [x2]
        ldr     x0, [x1, #BW_EXCHANGE_NONCE]
        cbz     x2, user
        svc     #0
        b       user

#ifndef BARE_NORMAL_WORLD
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
#endif
.macro operation number, target
        cmp     x2, #\number
        b.eq    \target
.endm

supervisor:
        msr     spsel, #1
        ldr     x30, =EXCHANGE + BW_EXCHANGE_RESULTS
        mov     sp, x30
        ldr     x30, =EXCHANGE + BW_EXCHANGE_PROGRAM + 8
        operation BARE_SMC, smc_zero
        operation BARE_SMC_IMMEDIATE, smc_one
        operation BARE_TIMER, timer
        operation BARE_WAIT, wait
        operation BARE_CHANGE_REGISTERS, change_registers
        operation BARE_CHANGE_INTERRUPTS, change_interrupts
        operation BARE_READ_INTERRUPTS, read_interrupts
#ifdef BARE_NORMAL_WORLD
        operation BARE_TURN, give_turn
        operation BARE_SWITCH, switch_registers
        operation BARE_OTHER_SPACE, smc_from_other_space
#endif
        mov     x0, #0                          /* BARE_FORGE: wait without the nonce */
        eret

smc_zero:
        load_all x30
        smc     #0
        b       finish
smc_one:
        load_all x30
        smc     #1
finish:
        store_all sp
leave:
        ldr     x1, =EXCHANGE
        ldr     x0, [x1, #BW_EXCHANGE_NONCE]
        eret

timer:
        load_all x30
        msr     cntps_ctl_el1, x0
        mrs     x10, cntps_ctl_el1
        msr     cntps_cval_el1, x1
        mrs     x11, cntps_cval_el1
        mrs     x12, cntps_tval_el1
        msr     cntps_tval_el1, x30
        mrs     x13, cntps_cval_el1
        mrs     x8, cntps_tval_el1
        mrs     xzr, cntps_cval_el1
        msr     cntps_cval_el1, xzr
        mrs     x9, cntps_cval_el1
        msr     cntps_cval_el1, x16
        b       finish

wait:
        load_all x30
        wfi
        b       finish

.macro flip name, bits
        mrs     x0, \name
        eor     x0, x0, #(\bits)
        msr     \name, x0
.endm

change_registers:
        flip    sctlr_el1, 1 << 26
        flip    cpacr_el1, 1 << 28
        flip    ttbr0_el1, 1 << 48
        flip    ttbr1_el1, 1 << 48
        flip    tcr_el1, 1 << 37
        flip    mair_el1, 0xff << 56
        flip    vbar_el1, 1 << 12
        flip    contextidr_el1, 1
        flip    esr_el1, 0xff
        flip    far_el1, 0xff
        flip    par_el1, 0xff << 12
        flip    sp_el0, 0xff0
        flip    tpidr_el0, 0xff
        flip    tpidrro_el0, 0xff
        flip    tpidr_el1, 0xff
        flip    csselr_el1, 1
        flip    mdscr_el1, 1 << 12
        flip    cntkctl_el1, 3
        flip    cntp_ctl_el0, 2
        flip    cntp_cval_el0, 0xff
        flip    cntv_ctl_el0, 2
        flip    cntv_cval_el0, 0xff
        flip    fpcr, 3 << 22
        flip    fpsr, 1
        mov     x0, #3
        msr     cntps_ctl_el1, x0
        mov     x0, #0x5678
        msr     cntps_cval_el1, x0
        dup     v0.2d, x0
    .irp number, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        mov     v\number\().16b, v0.16b
    .endr
        flip    spsr_el1, 1 << 30
        ldr     x1, =EXCHANGE
        ldr     x17, [x1, #BW_EXCHANGE_NONCE]
        ldr     x30, =BARE_PATTERN
    .irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,18,19,20,21,22,23,24,25,26,27,28,29
        mov     x\number, x30
    .endr
        mov     x0, x17
        mov     x17, x30
        mov     sp, x30
        eret

/* Interrupts 40 (shared) and 3 (software), and the CPU interface's mask. */
.macro interrupts operation, register
        \operation \register, 0x080
        \operation \register, 0x104
        \operation \register, 0x204
        \operation \register, 0x304
        \operation \register, 0x428
        \operation \register, 0x828
        \operation \register, 0xc08
        \operation \register, 0xf20
        \operation \register, 0x10004
        \operation \register, 0x10008
.endm
.macro interrupt_read base, offset
        ldr     x1, =BW_REGION_GICD_BASE + \offset
        ldr     w0, [x1]
        str     w0, [\base], #4
.endm
.macro interrupt_change base, offset
        ldr     x1, =BW_REGION_GICD_BASE + \offset
        ldr     w0, [\base], #4
        str     w0, [x1]
.endm

read_interrupts:
        mov     x2, sp
        interrupts interrupt_read, x2
        b       leave
change_interrupts:
        interrupts interrupt_change, x30
        b       leave

#ifdef BARE_NORMAL_WORLD
#include "../worlds/secure.S"
#endif

        .balign 2048
vectors:
    .rept 8
        b       .
        .balign 128
    .endr
        b       supervisor
        .balign 128
    .rept 7
        b       .
        .balign 128
    .endr
        .ltorg

        .data
        .globl  arguments
        .balign 16
arguments:
        .skip   64
        .bss
        .balign 4096
tables: .skip   3 * 4096
        .skip   4096
stack_top:
