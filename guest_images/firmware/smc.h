/* SPDX-License-Identifier: BSD-2-Clause */
/* What the handlers of SMCs share. x10 is the call's log entry throughout; x8, x9 and x11-x13 are free. */
#pragma once
#include "firmware.h"

/* Results by the SMC calling convention and by PSCI */
#define SUCCESS                 0
#define NOT_SUPPORTED           -1
#define INVALID_PARAMETERS      -2
#define DENIED                  -3
#define ALREADY_ON              -4
#define INVALID_ADDRESS         -9

.macro dispatch name, identifier
        load    w8, \identifier
        cmp     w0, w8
        b.eq    smc_\name
.endm

/* Or two registers that the stack holds into x11 and x12. */
.macro or_saved offset
        ldp     x9, x13, [sp, #\offset]
        orr     x11, x11, x9
        orr     x12, x12, x13
.endm

/*
 * The beginning of a call: note it in the log of its world. x8: ESR_EL3; the caller's x8 and x9 are on
 * the stack, x10-x13 join them.
 */
.macro begin_smc account, count, log, unlogged
        stp     x10, x11, [sp, #-16]!
        stp     x12, x13, [sp, #-16]!
        address x10, \account
        ldr     x11, [x10, #\count]
        add     x12, x11, #1
        str     x12, [x10, #\count]
        add     x10, x10, #\log
        mov     x12, #BW_SMC_LOG_BYTES
        madd    x10, x11, x12, x10
        address x12, \unlogged
        cmp     x11, #BW_SMC_LOG_ENTRIES
        csel    x10, x10, x12, lo               /* x10: the log entry, for all handlers */
        stp     x0, x1, [x10, #BW_SMC_LOG_ARGUMENTS]
        stp     x2, x3, [x10, #BW_SMC_LOG_ARGUMENTS + 16]
        stp     x4, x5, [x10, #BW_SMC_LOG_ARGUMENTS + 32]
        stp     x6, x7, [x10, #BW_SMC_LOG_ARGUMENTS + 48]
        /* What came along in x8 to x17: the even ones, and the odd ones, in one word each. */
        orr     x11, x14, x16
        orr     x12, x15, x17
        or_saved 0                              /* x12, x13 */
        or_saved 16                             /* x10, x11 */
        or_saved 32                             /* x8, x9 */
        stp     x11, x12, [x10, #BW_SMC_LOG_BEYOND]
        load    x11, BW_EXCHANGE_AREA_BASE + BW_EXCHANGE_COMMAND
        ldr     x11, [x11, #BW_EXCHANGE_CURRENT_CALL]
        str     x11, [x10, #BW_SMC_LOG_CALL]
        mrs     x11, elr_el3
        str     x11, [x10, #BW_SMC_LOG_ELR_EL3]
        tst     x8, #ESR_SMC_IMMEDIATE          /* the calling convention knows only "smc #0" */
        b.ne    not_supported
.endm

/* Take back what begin_smc has put on the stack, and x8 and x9. */
.macro end_smc
        ldp     x12, x13, [sp], #16
        ldp     x10, x11, [sp], #16
        ldp     x8, x9, [sp], #16
.endm
