/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A normal world that measures: makes one call again and again, and says in the exchange area how many
 * ticks of the counter that took. MEASURED_FUNCTION, MEASURED_CALLS and EXCHANGE_TICKS come from the build.
 * At EL2 it first gives each register of its bank a value of its own.
 */
#include "machine.h"

.macro set_register name, value
        ldr     x0, =\value
        msr     \name, x0
.endm

        .section .text.entry, "ax"
        .globl  _start
_start:
#if BW_NORMAL_LEVEL == 2
    .irp name, tpidr, vbar, ttbr0, elr, far, mair, esr, afsr0, afsr1
        set_register \name\()_el2, 0x40401000
    .endr
        set_register hpfar_el2, 0x4040
        set_register vpidr_el2, 0x11
        set_register vmpidr_el2, 0x22
        set_register hstr_el2, 1
        set_register mdcr_el2, 1 << 9
        set_register cntvoff_el2, 0x100
        set_register cnthp_cval_el2, 0x1000
        set_register spsr_el2, 0x3c5
        ldr     x0, =0x40402000
        mov     sp, x0
        set_register cptr_el2, 0xb3ff
#endif
        set_register cpacr_el1, 3 << 20
        set_register vbar_el1, 0x40403000
        set_register tpidr_el1, 0x40403000
        set_register tpidr_el0, 0x40404000
        set_register sp_el0, 0x40405000
        ldr     x19, =MEASURED_CALLS
        isb
        mrs     x20, cntpct_el0
1:      ldr     x0, =MEASURED_FUNCTION
        mov     x1, xzr
        smc     #0
        subs    x19, x19, #1
        b.ne    1b
        isb
        mrs     x21, cntpct_el0
        sub     x21, x21, x20
        ldr     x0, =BW_EXCHANGE_AREA_BASE + EXCHANGE_TICKS
        str     x21, [x0]
        b       .
        .ltorg
