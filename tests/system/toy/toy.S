/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine with nothing but the park protocol, for tests of plugin, machine and executor that
 * must not depend on a kernel. Everything runs at EL3. A program's calls are bytes: 0 operation,
 * 8-15 address, 16-23 value. x27 belongs to the "guest": the snapshot holds 0.
 */
#include "protocol.h"

        .text
        .globl  _start
_start:
        ldr     x0, =vectors
        msr     vbar_el3, x0
        ldr     x19, =TOY_FIRMWARE_RAM          /* the report */
        ldr     x21, =TOY_MESSAGE
        ldr     x20, =TOY_EXCHANGE
        /* "Kernel" and "root task": code in secure and in normal RAM, which only returns. */
        ldr     x0, =0xd65f03c0
        ldr     x1, =TOY_KERNEL
        str     w0, [x1]
        ldr     x2, =TOY_ROOT_TASK
        str     w0, [x2]
        dsb     sy
        isb
        ldr     x3, =TOY_HANG_IN_BOOT
        cbnz    x3, hang
        blr     x1
        blr     x2
        ldr     x6, =text_booted
        bl      print
        mov     x27, #0
        mov     x26, #0                         /* sequence that was handled */
        mov     x25, #BW_PARK_SNAPSHOT

park:
        str     x25, [x19, #BW_REPORT_STATUS]
        ldr     x0, [x19, #BW_REPORT_PARKS]
        add     x0, x0, #1
        str     x0, [x19, #BW_REPORT_PARKS]
        str     x27, [x19, #BW_REPORT_X + 8 * 27]
        str     x26, [x19, #BW_REPORT_SEQUENCE]
        b       park_pc
        .globl  park_pc
        .type   park_pc, %function
park_pc:
        nop
        ldar    x0, [x21]
        cmp     x0, x26
        b.eq    park_pc
        .size   park_pc, . - park_pc

        mov     x26, x0
        ldr     x0, [x21, #BW_MESSAGE_COMMAND]
        tbz     x0, #0, 1f                      /* restore registers, but for the one that is left out */
        ldr     x0, [x21, #BW_MESSAGE_OMIT_REGISTER]
        cmp     x0, #28
        b.eq    1f
        mov     x27, #0
1:      mov     x22, #0
        ldr     x23, [x20, #BW_EXCHANGE_CALLS]
        ldr     x0, [x20, #BW_EXCHANGE_STOP_AFTER]
        cbz     x0, next
        mov     x23, x0
next:
        cmp     x22, x23
        mov     x25, #BW_PARK_DONE
        b.hs    park
        add     x28, x20, #BW_EXCHANGE_PROGRAM
        add     x28, x28, x22, lsl #5
        ldrb    w0, [x28]
        ldr     x1, [x28, #8]
        ldr     x2, [x28, #16]
        adr     x3, operations
        and     x0, x0, #7
        add     x3, x3, x0, lsl #3
        br      x3
operations:
        b       operation_store
        nop
        b       operation_set
        nop
        b       hang
        nop
        b       operation_host
        nop
        b       operation_park
        nop
        b       operation_print
        nop
        b       operation_call
        nop
        b       operation_count
        nop

operation_store:
        str     x2, [x1]
        b       performed
operation_set:
        add     x27, x27, x2
        b       performed
hang:   b       hang
operation_host:                                 /* semihosting: SYS_OPEN */
        adr     x1, open_arguments
        mov     w0, #1
        hlt     #0xf000
        b       performed
operation_park:
        mov     x25, x2
        b       park
operation_print:
        mov     x6, x28
        add     x6, x6, #16
        bl      print
        b       performed
operation_call:
        dsb     sy
        isb
        blr     x1
        b       performed
operation_count:                                /* a block that runs many times */
1:      subs    x2, x2, #1
        b.ne    1b
performed:
        mov     w0, #BW_CALL_DONE
        add     x1, x20, #(BW_EXCHANGE_RESULTS & ~0xfff)
        add     x1, x1, x22, lsl #7
        str     w0, [x1, #BW_RESULT_STATE]
        str     x27, [x1, #BW_RESULT_MR]
        add     x22, x22, #1
        str     x22, [x20, #BW_EXCHANGE_NEXT_CALL]
        str     x22, [x20, #BW_EXCHANGE_PERFORMED]
        b       next

print:                                          /* x6: bytes up to a zero */
        ldr     x7, =TOY_UART
1:      ldrb    w8, [x6], #1
        cbz     w8, 2f
        str     w8, [x7]
        b       1b
2:      ret

panic:
        mrs     x0, esr_el3
        str     x0, [x19, #BW_REPORT_ESR_EL3]
        mrs     x0, elr_el3
        str     x0, [x19, #BW_REPORT_ELR_EL3]
        mov     x25, #BW_PARK_EL3_PANIC
        b       park

        .balign 8
open_arguments:
        .quad   text_passwd, 0, 11
text_passwd:
        .asciz  "/etc/passwd"
text_booted:
        .asciz  "toy: booted\r\n"
        .balign 2048
vectors:
        .rept   16
        b       panic
        .balign 128
        .endr
        .ltorg
