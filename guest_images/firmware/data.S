/* SPDX-License-Identifier: BSD-2-Clause */
/* The firmware's data. Everything here is zero after a reset: entry.S clears it. */
#include "firmware.h"

        .section .bss.report, "aw", %nobits
        .globl  report
report: .skip   BW_REPORT_BYTES

        .section .bss.message, "aw", %nobits
        .globl  message
message:
        .skip   BW_MESSAGE_BYTES

#ifdef BW_NORMAL_WORLD
        .section .bss.worlds, "aw", %nobits
        .globl  worlds
worlds: .skip   BW_WORLDS_BYTES
#endif

        .bss
        .balign 16
.macro variable name, bytes
        .globl  \name
        .type   \name, %object
        .size   \name, \bytes
\name:  .skip   \bytes
.endm

        /* 1 once the snapshot is taken. */
        variable snapshot_taken, 8
        /* Sequence of the message that is being run. */
        variable taken_sequence, 8
        /* 1 while a panic is being reported: an exception in the midst of that must not report again. */
        variable panicking, 8
        /* Status with which an SMC ends a program. */
        variable ending_status, 8
        .balign 16
        /*
         * Register banks (layout: tables.h): the snapshot's; the last park's (beside a normal world; else for tests
         * only); a mixture, for tests.
         */
        variable snapshot_bank, BW_BANK_BYTES
        .balign 16
        variable current_bank, BW_BANK_BYTES
        .balign 16
        variable mixed_bank, BW_BANK_BYTES
        .balign 16
        /* An SMC that no longer fits into the log is noted here. */
        variable unlogged_smc, BW_SMC_LOG_BYTES
        .balign 16
        variable saved_interrupts, 4096
#ifdef BW_NORMAL_WORLD
        .balign 16
        /* The banks of the two worlds: what a world has while the other one runs. */
        variable secure_world, BW_BANK_BYTES
        .balign 16
        variable normal_world, BW_BANK_BYTES
        .balign 16
        /* The normal world's at the snapshot, and where it stood (NormalState). */
        variable snapshot_normal_world, BW_BANK_BYTES
        variable snapshot_normal_state, 8
        /* TTBR0_EL1 of the dispatcher: its address space. */
        variable dispatcher_space, 8
        /* Log entry of the normal world's last call. */
        variable normal_log_entry, 8
        .balign 16
        /* An SMC of the normal world that no longer fits into its log is noted here. */
        variable unlogged_normal_smc, BW_SMC_LOG_BYTES
#endif
        .balign 16
        variable stack, 4096
        .globl  stack_top
stack_top:
