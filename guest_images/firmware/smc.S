/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SMCs that EL3 answers itself, by the SMC calling convention 1.1: function identifier in w0, arguments from x1,
 * results in x0-x3 (those of rotate in x0-x7), all other registers unchanged. smc.yaml describes the functions; its
 * identifiers and the lists of what the two FEATURES functions know come from there (tables.h).
 * Each call is logged in the report with its arguments and results. What S-EL1 calls begins here,
 * what the normal world calls in monitor.S.
 */
#include "smc.h"

#define SMCCC_VERSION_1_1       0x10001
#define PSCI_VERSION_1_1        0x10001

/* The secure GPIO controller: a PL061 whose pins 0 and 1 power the machine off and reset it. */
#define GPIO_DIRECTION          0x400
#define GPIO_PINS               3
#define GPIO_OFF_PIN            1
#define GPIO_RESET_PIN          2

.macro answer_feature name, identifier
        load    w8, \identifier
        cmp     w1, w8
        b.eq    succeed
.endm

#ifdef BW_NORMAL_WORLD
/* Each world finds its own functions. */
.macro found_by name
        mrs     x8, scr_el3
        tbnz    x8, #SCR_NS_BIT, 1f
        found_by_\name answer_feature
        b       not_supported
1:      normal_found_by_\name answer_feature
.endm
        .globl  ordinary_smc, not_supported, succeed, smc_return
#else
.macro found_by name
        found_by_\name answer_feature
.endm
#endif

        .text
/* x8: ESR_EL3; the caller's x8 and x9 are on the stack. */
function smc_call
#ifdef BW_NORMAL_WORLD
        mrs     x9, scr_el3
        tbnz    x9, #SCR_NS_BIT, normal_smc
        lsr     w9, w0, #16                     /* is it the interface of the dispatcher? */
        sub     w9, w9, #((BW_DISPATCHER_READY >> 28) << 12)
        sub     w9, w9, #((BW_DISPATCHER_READY >> 16) & 0xfff)
        cbz     w9, dispatcher_smc              /* comes back if the caller may not use it */
ordinary_smc:
#endif
        begin_smc report, BW_REPORT_SMC_COUNT, BW_REPORT_SMC_LOG, unlogged_smc
        smc_functions dispatch
not_supported:
        mov     x0, #NOT_SUPPORTED
        b       smc_return
succeed:
        mov     x0, #SUCCESS
smc_return:
        stp     x0, x1, [x10, #BW_SMC_LOG_RESULT]
        stp     x2, x3, [x10, #BW_SMC_LOG_RESULT + 16]
        stp     x4, x5, [x10, #BW_SMC_LOG_RESULT + 32]
        stp     x6, x7, [x10, #BW_SMC_LOG_RESULT + 48]
        end_smc
        eret
endfunction smc_call

function smc_smccc_version
        load    x0, SMCCC_VERSION_1_1
        b       smc_return
endfunction smc_smccc_version

function smc_smccc_arch_features
        found_by smccc_arch_features
        b       not_supported
endfunction smc_smccc_arch_features

function smc_psci_version
        load    x0, PSCI_VERSION_1_1
        b       smc_return
endfunction smc_psci_version

function smc_psci_features
        found_by psci_features
        b       not_supported
endfunction smc_psci_features

/* x1-x3 come back as they were given. */
function smc_echo
        b       succeed
endfunction smc_echo

/* No register that can be a result comes back as it was given. */
function smc_rotate
        mov     x8, x1
        add     x1, x2, #1
        add     x2, x3, #2
        add     x3, x4, #3
        add     x4, x5, #4
        add     x5, x6, #5
        add     x6, x7, #6
        add     x7, x8, #7
        b       succeed
endfunction smc_rotate

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
        end_smc
        b       program_ended
1:      load    x10, BW_REGION_SECURE_GPIO_BASE
        mov     w11, #GPIO_PINS
        str     w11, [x10, #GPIO_DIRECTION]
        ubfiz   x11, x9, #2, #8                 /* address bits 9:2 are the mask of the pins that a write changes */
        str     w9, [x10, x11]
        b       sleep
endfunction end_machine
