/* SPDX-License-Identifier: BSD-2-Clause */
/* Entries of the trusted OS's image. The root task finds them in the table at its start (layout.h). */
#include "layout.h"

        .section .entries, "a"
        .quad dispatcher_start
        .quad thread_start
        .quad writable_start
        .quad writable_end
        .quad dispatcher_stack
        .quad thread_stacks + STACK_BYTES

        .text
        .global dispatcher_start
dispatcher_start:
        mov     x29, xzr
        mov     x30, xzr
        bl      dispatcher_main
        brk     #0

/* x0: number of the thread */
thread_start:
        mov     x29, xzr
        mov     x30, xzr
        bl      thread_main
        brk     #0

        .section .dispatcher, "aw"
        .balign 1024
        .global ipc_buffer
ipc_buffer:
        .skip   1024
        .skip   STACK_BYTES
dispatcher_stack:

        .bss
        .balign 16
thread_stacks:
        .skip   STACK_BYTES * THREADS
