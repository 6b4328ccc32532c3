/* SPDX-License-Identifier: BSD-2-Clause */
/* Entries of the victims' image. The supervisor finds them in the table at its start. */
#include "protocol.h"
#include "constants.h"

        .section .entries, "a"
        .quad victim_start
        .quad helper_send
        .quad helper_call
        .quad helper_receive
        .quad helper_vm_fault
        .quad helper_unknown_syscall
        .quad helper_user_exception
        .quad nurse
        .quad victim_resume

        .text
        .global victim_start
/* x0: number of the victim; sp: top of its stack */
victim_start:
        mov     x29, xzr
        mov     x30, xzr
        bl      victim_main
        brk     #0

/* Where nurse and warden let a victim go on. x0: its number; x1: the fault; x2-x5: the fault's message */
victim_resume:
        mov     x29, xzr
        mov     x30, xzr
        bl      victim_faulted
        brk     #0

/*
 * A victim's nurse: it gets the victim's faults and lets it go on behind the call that faulted,
 * unless the victim has come no further since its last fault. It runs in the victim's address space,
 * so that no address space is switched, and in a capability space that no program reaches. It has no
 * stack. x0: number of the victim.
 */
nurse:
        mov     x19, x0
        mov     x20, #-1
1:      mov     x0, #NURSE_ENDPOINT
        mov     x7, #SYSTEM_CALL_RECV
        svc     #0
        ldr     x9, =VICTIM_EXCHANGE + BW_EXCHANGE_COMMAND
        ldr     x10, [x9, #BW_EXCHANGE_NEXT_CALL]
        ldr     x11, [x9, #BW_EXCHANGE_REPETITION]
        add     x10, x10, x11, lsl #32
        cmp     x10, x20
        b.eq    1b
        mov     x20, x10
        ldr     x9, =NURSE_BUFFER
        lsr     x1, x1, #12                     /* label of the message: the fault */
        stp     xzr, x19, [x9, #8 * (1 + 4)]    /* message registers from 4 on: spsr, x0, x1 to x5 */
        stp     x1, x2, [x9, #8 * (1 + 6)]
        stp     x3, x4, [x9, #8 * (1 + 8)]
        str     x5, [x9, #8 * (1 + 10)]
        mov     x0, #NURSE_THREAD
        ldr     x1, =(LABEL_WRITE_REGISTERS << 12) | 11
        mov     x2, #1                          /* resume */
        mov     x3, #9                          /* registers that follow: pc, sp, spsr, x0 to x5 */
        adr     x4, victim_resume
        ldr     x5, =VICTIM_STATE + BW_PAGE
        mov     x7, #SYSTEM_CALL_CALL
        svc     #0
        b       1b
        .ltorg

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

/*
 * Each is blocked at its fault handler; whoever answers lets it fault again. A program may have mapped
 * the address meanwhile: then it faults in another way. x0: address
 */
helper_vm_fault:
        ldr     x1, [x0]
        brk     #0
        b       helper_vm_fault
helper_unknown_syscall:
        mov     x7, #1
        svc     #0
        b       helper_unknown_syscall
helper_user_exception:
        .inst   0
        b       helper_user_exception
