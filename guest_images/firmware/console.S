/* SPDX-License-Identifier: BSD-2-Clause */
/* Output on the secure UART, a PL011. Each function changes x0-x5 only. */
#include "firmware.h"

#define UART_DATA               0x00
#define UART_FLAGS              0x18
#define UART_FLAGS_FULL_BIT     5
#define UART_LINE               0x2c
#define UART_LINE_8_BITS_FIFO   0x70
#define UART_CONTROL            0x30
#define UART_CONTROL_ON         0x301

.macro write_character
2:      ldr     w2, [x1, #UART_FLAGS]
        tbnz    w2, #UART_FLAGS_FULL_BIT, 2b
        str     w3, [x1, #UART_DATA]
.endm

        .text
function console_open
        load    x1, BW_REGION_UART1_BASE
        mov     w0, #UART_LINE_8_BITS_FIFO
        str     w0, [x1, #UART_LINE]
        load    w0, UART_CONTROL_ON
        str     w0, [x1, #UART_CONTROL]
        ret
endfunction console_open

/* x0: a string that ends with a zero byte. */
function console_string
        load    x1, BW_REGION_UART1_BASE
1:      ldrb    w3, [x0], #1
        cbz     w3, 3f
        write_character
        b       1b
3:      ret
endfunction console_string

/* x0: a number, written with 0x and 16 digits. */
function console_hexadecimal
        mov     x4, #64
        b       hexadecimal_digits
endfunction console_hexadecimal

/* w0: a number, written with 0x and 8 digits. */
function console_hexadecimal_32
        mov     x4, #32
        b       hexadecimal_digits
endfunction console_hexadecimal_32

/* x0: a number, x4: its bits. */
function hexadecimal_digits
        load    x1, BW_REGION_UART1_BASE
        mov     w3, #'0'
        write_character
        mov     w3, #'x'
        write_character
1:      sub     x4, x4, #4
        lsr     x3, x0, x4
        and     w3, w3, #0xf
        add     w5, w3, #'0'
        add     w3, w3, #('a' - 10)
        cmp     w5, #'9'
        csel    w3, w5, w3, ls
        write_character
        cbnz    x4, 1b
        ret
endfunction hexadecimal_digits

/* x0: a number, written in decimal. */
function console_decimal
        load    x1, BW_REGION_UART1_BASE
        mov     x4, sp
        sub     sp, sp, #32                     /* 20 digits at most */
1:      mov     x2, #10
        udiv    x3, x0, x2
        msub    x2, x3, x2, x0
        add     w2, w2, #'0'
        strb    w2, [x4, #-1]!
        mov     x0, x3
        cbnz    x0, 1b
        add     x5, sp, #32
3:      ldrb    w3, [x4], #1
        write_character
        cmp     x4, x5
        b.lo    3b
        mov     sp, x5
        ret
endfunction console_decimal
