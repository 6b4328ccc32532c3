/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A program in the flash image runs without a host: EL3 starts it at the snapshot, as the host
 * would, and shows on the console how it ended. Results stay in the exchange area.
 */
#include "firmware.h"

/* What the victim must show to end the program. Nobody is there to choose a fresh one. */
#define NONCE                   0x6874726f77746f62

        .text
/* From park: x19 report, w20 status, x0 flash offset of the program. */
function program_parked
        cmp     w20, #BW_PARK_SNAPSHOT
        b.ne    program_result
        load    x1, BW_EXCHANGE_AREA_BASE + BW_EXCHANGE_COMMAND
        add     x2, x1, #BW_EXCHANGE_BYTES
1:      stp     xzr, xzr, [x1], #16
        cmp     x1, x2
        b.lo    1b
        load    x1, BW_EXCHANGE_AREA_BASE + BW_EXCHANGE_COMMAND
        load    x2, NONCE
        str     x2, [x1, #BW_EXCHANGE_NONCE]
        address x3, message
        str     x2, [x3, #BW_MESSAGE_NONCE]
        address x2, flash_header
        ldr     x2, [x2, #BW_FLASH_HEADER_PROGRAM_CALLS]
        str     x2, [x1, #BW_EXCHANGE_CALLS]

        load    x1, BW_REGION_FLASH_BASE
        add     x0, x0, x1
        load    x1, BW_EXCHANGE_AREA_BASE + BW_EXCHANGE_PROGRAM
        mov     x3, #BW_CALL_BYTES
        madd    x2, x2, x3, x1
        b       3f
2:      ldp     x3, x4, [x0], #16
        stp     x3, x4, [x1], #16
3:      cmp     x1, x2
        b.lo    2b
        b       resume
endfunction program_parked

/* One line: how it ended, how many calls were performed, CRC-32 of the results of all its calls. */
function program_result
        address x0, program_text
        bl      console_string
        address x0, status_names
        mov     w4, w20
1:      cbz     w4, 3f
2:      ldrb    w1, [x0], #1
        cbnz    w1, 2b
        sub     w4, w4, #1
        b       1b
3:      bl      console_string
        address x0, program_calls_text
        bl      console_string
        load    x24, BW_EXCHANGE_AREA_BASE + BW_EXCHANGE_COMMAND
        ldr     x0, [x24, #BW_EXCHANGE_PERFORMED]
        bl      console_decimal
        address x0, program_of_text
        bl      console_string
        ldr     x0, [x24, #BW_EXCHANGE_CALLS]
        bl      console_decimal
        address x0, program_crc_text
        bl      console_string

        ldr     x2, [x24, #BW_EXCHANGE_CALLS]
        load    x1, BW_EXCHANGE_AREA_BASE + BW_EXCHANGE_RESULTS
        mov     x3, #BW_RESULT_BYTES
        madd    x2, x2, x3, x1
        mov     w0, #-1
        b       5f
4:      ldr     x3, [x1], #8
        crc32x  w0, w0, x3
5:      cmp     x1, x2
        b.lo    4b
        mvn     w0, w0
        bl      console_hexadecimal_32
        address x0, program_end_text
        bl      console_string
        b       publish
endfunction program_result

        .section .rodata
program_text:
        .asciz  "\r\nbothworlds program: "
program_calls_text:
        .asciz  ", performed "
program_of_text:
        .asciz  " of "
program_crc_text:
        .asciz  " calls, results "
program_end_text:
        .asciz  "\r\n"
status_names:
        park_status_names
