/* SPDX-License-Identifier: BSD-2-Clause */
/* Entry of the root task: x0 is the address of the boot information. */
#include "constants.h"

        .text
        .global _start
_start:
        adrp    x1, stack_top
        add     x1, x1, #:lo12:stack_top
        mov     sp, x1
        mov     x29, xzr
        mov     x30, xzr
        bl      supervisor_main
        brk     #0

        .section .rodata
        .balign 8
        .global victim_image, victim_image_end
victim_image:
        .incbin "victim.bin"
victim_image_end:
#ifdef TRUSTED_OS_PAGES
        .balign 8
        .global trusted_os_image, trusted_os_image_end
trusted_os_image:
        .incbin "trusted_os.bin"
trusted_os_image_end:
#endif

        .bss
        .balign 16
        .skip   4096
stack_top:
