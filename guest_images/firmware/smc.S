/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SMCs from S-EL1, by the SMC calling convention 1.1: function identifier in w0, arguments from x1,
 * results in x0-x3, all other registers unchanged. smc.yaml describes the functions; its
 * identifiers and the lists of what the two FEATURES functions know come from there (tables.h).
 * Each call is logged in the report with its arguments and results.
 */
#include "firmware.h"

#define NOT_SUPPORTED           -1
#define SUCCESS                 0
#define SMCCC_VERSION_1_1       0x10001
#define PSCI_VERSION_1_1        0x10001

/* The secure GPIO controller: a PL061 whose pins 0 and 1 power the machine off and reset it. */
#define GPIO_DIRECTION          0x400
#define GPIO_PINS               3
#define GPIO_OFF_PIN            1
#define GPIO_RESET_PIN          2

.macro dispatch name, identifier
        load    w8, \identifier
        cmp     w0, w8
        b.eq    smc_\name
.endm

.macro answer_feature name, identifier
        load    w8, \identifier
        cmp     w1, w8
        b.eq    succeed
.endm

/* Or two registers that the stack holds into x11 and x12. */
.macro or_saved offset
        ldp     x9, x13, [sp, #\offset]
        orr     x11, x11, x9
        orr     x12, x12, x13
.endm

        .text
/* x8: ESR_EL3; the caller's x8 and x9 are on the stack. */
function smc_call
        stp     x10, x11, [sp, #-16]!
        stp     x12, x13, [sp, #-16]!
        address x10, report
        ldr     x11, [x10, #BW_REPORT_SMC_COUNT]
        add     x12, x11, #1
        str     x12, [x10, #BW_REPORT_SMC_COUNT]
        add     x10, x10, #BW_REPORT_SMC_LOG
        mov     x12, #BW_SMC_LOG_BYTES
        madd    x10, x11, x12, x10
        address x12, unlogged_smc
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
        smc_functions dispatch
not_supported:
        mov     x0, #NOT_SUPPORTED
        b       smc_return
succeed:
        mov     x0, #SUCCESS
smc_return:
        stp     x0, x1, [x10, #BW_SMC_LOG_RESULT]
        stp     x2, x3, [x10, #BW_SMC_LOG_RESULT + 16]
        ldp     x12, x13, [sp], #16
        ldp     x10, x11, [sp], #16
        ldp     x8, x9, [sp], #16
        eret
endfunction smc_call

function smc_smccc_version
        load    x0, SMCCC_VERSION_1_1
        b       smc_return
endfunction smc_smccc_version

function smc_smccc_arch_features
        found_by_smccc_arch_features answer_feature
        b       not_supported
endfunction smc_smccc_arch_features

function smc_psci_version
        load    x0, PSCI_VERSION_1_1
        b       smc_return
endfunction smc_psci_version

function smc_psci_features
        found_by_psci_features answer_feature
        b       not_supported
endfunction smc_psci_features

/* x1-x3 come back as they were given. */
function smc_echo
        b       succeed
endfunction smc_echo

/*
 * While programs run (once the snapshot is taken) these end the program, not the machine: EL3 parks,
 * and the host sees which of them it was. Before that they do what they say.
 */
function smc_system_off
        mov     w8, #BW_PARK_SYSTEM_OFF
        mov     w9, #GPIO_OFF_PIN
        b       end_machine
endfunction smc_system_off

function smc_system_reset
        mov     w8, #BW_PARK_SYSTEM_RESET
        mov     w9, #GPIO_RESET_PIN
        b       end_machine
endfunction smc_system_reset

/* w8: status, w9: GPIO pin as a mask, x10: log entry. */
function end_machine
        address x11, snapshot_taken
        ldr     x11, [x11]
        cbz     x11, 1f
        address x11, ending_status
        str     x8, [x11]
        ldp     x12, x13, [sp], #16
        ldp     x10, x11, [sp], #16
        ldp     x8, x9, [sp], #16
        b       program_ended
1:      load    x10, BW_REGION_SECURE_GPIO_BASE
        mov     w11, #GPIO_PINS
        str     w11, [x10, #GPIO_DIRECTION]
        ubfiz   x11, x9, #2, #8                 /* address bits 9:2 are the mask of the pins that a write changes */
        str     w9, [x10, x11]
        b       sleep
endfunction end_machine
