/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PSCI (Arm DEN 0022) for the normal world on a machine with one CPU, on which a Trusted OS lives that
 * cannot move. Versions, features and the end of the machine are in smc.S. Handlers that end in _64 take
 * arguments of 64 bits, the others of 32.
 */
#include "smc.h"

#ifdef BW_NORMAL_WORLD

#define THIS_CPU                0               /* its affinity; entry.S lets no other CPU in */
#define STATE_POWER_DOWN        (1 << 16)       /* power_state: its type; its level and identifier must be 0 */
#define MIGRATE_NOT_CAPABLE     1
#define INSTRUCTION_MASK        3

/* x12: where the caller wants a CPU to begin: an instruction in its own world's RAM. Changes x12, x13. */
.macro check_entry
        tst     x12, #INSTRUCTION_MASK
        b.ne    invalid_address
        load    x13, BW_REGION_NORMAL_RAM_BASE
        sub     x12, x12, x13
        load    x13, BW_REGION_NORMAL_RAM_SIZE
        cmp     x12, x13
        b.hs    invalid_address
.endm

        .text
/* x11: power_state, x12: entry. */
function smc_cpu_suspend
        mov     w11, w1
        mov     w12, w2
        b       suspend
endfunction smc_cpu_suspend

function smc_cpu_suspend_64
        mov     w11, w1
        mov     x12, x2
endfunction smc_cpu_suspend_64
/* Something is always there to wake one CPU that nobody else can wake: a power-down is taken as a standby. */
function suspend
        tst     w11, #~STATE_POWER_DOWN
        b.ne    invalid_parameters
        cbz     w11, succeed                    /* a standby has no entry */
        check_entry
        b       succeed
endfunction suspend

function smc_cpu_off
        mov     x0, #DENIED
        b       smc_return
endfunction smc_cpu_off

function smc_cpu_on
        mov     w11, w1
        mov     w12, w2
        b       turn_on
endfunction smc_cpu_on

function smc_cpu_on_64
        mov     x11, x1
        mov     x12, x2
endfunction smc_cpu_on_64
/* x11: target, x12: entry */
function turn_on
        cmp     x11, #THIS_CPU
        b.ne    invalid_parameters
        check_entry
        mov     x0, #ALREADY_ON
        b       smc_return
endfunction turn_on

function smc_affinity_info
        mov     w11, w1
        b       affinity
endfunction smc_affinity_info

function smc_affinity_info_64
        mov     x11, x1
endfunction smc_affinity_info_64
/* x11: target, w2: the lowest level; as from PSCI 1.0 on only single CPUs are asked about. */
function affinity
        cmp     x11, #THIS_CPU
        ccmp    w2, #0, #0, eq
        b.ne    invalid_parameters
        b       succeed                         /* 0: on */
endfunction affinity

function smc_migrate_info_type
        mov     x0, #MIGRATE_NOT_CAPABLE
        b       smc_return
endfunction smc_migrate_info_type

function smc_migrate_info_up_cpu
        mov     x0, #THIS_CPU
        b       smc_return
endfunction smc_migrate_info_up_cpu

function smc_migrate_info_up_cpu_64
        b       smc_migrate_info_up_cpu
endfunction smc_migrate_info_up_cpu_64

/* Calls that end without doing anything */
function psci_refused
invalid_address:
        mov     x0, #INVALID_ADDRESS
        b       smc_return
invalid_parameters:
        mov     x0, #INVALID_PARAMETERS
        b       smc_return
endfunction psci_refused

#endif
