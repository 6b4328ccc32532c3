/* SPDX-License-Identifier: BSD-2-Clause */
/* Entries of the victims' image. The supervisor finds them in the table at its start. */
#include "protocol.h"
#include "constants.h"

        .section .entries, "a"
        .quad victim_start
        .quad helper_send
        .quad helper_call
        .quad helper_receive

        .text
        .global victim_start
/* x0: number of the victim; sp: top of its stack */
victim_start:
        mov     x29, xzr
        mov     x30, xzr
        bl      victim_main
        brk     #0

/*
 * Helpers, blocked in one system call. x0: capability pointer of the endpoint; they have no stack.
 * Once let go a helper faults and stops: were it to call again, whatever a program has put into its
 * slot could answer at once, for ever.
 */
        .macro  helper name, number, length
\name:
        mov     x1, #\length
        mov     x2, #0x5e
        mov     x3, #1
        mov     x4, #2
        mov     x5, #3
        mov     x7, #\number
        svc     #0
        brk     #0
        .endm

        helper  helper_send, SYSTEM_CALL_SEND, 2
        helper  helper_call, SYSTEM_CALL_CALL, 1
        helper  helper_receive, SYSTEM_CALL_RECV, 0
