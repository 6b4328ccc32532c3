/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What victims ask EL3 for (Request in harness/protocol.py): EL0 may access the performance monitor,
 * and EL3 traps it (MDCR_EL3.TPM). A victim writes PMCR_EL0 with the nonce in x0, the request in x1
 * and its arguments in x2-x4. EL3 answers in x0; all other registers stay. WFI would not do: it does
 * not trap while an interrupt is pending.
 */
#include "firmware.h"

#define PMCR_EL0                SYNDROME_REGISTER(3, 3, CRN_MONITOR, 12, 0)
#define SYNDROME_CRN_SHIFT      10
#define CRN_MONITOR             9

#define LINES                   256             /* as many as the kernel knows */
/* The interrupts that threads take: Group 0, and beside a normal world that one's, too. */
#ifdef BW_NORMAL_WORLD
#define PSTATE_INTERRUPTS       (3 << 6)
#else
#define PSTATE_INTERRUPTS       (1 << 6)
#endif
#define PAR_FAULT_BIT           0

        .text
/* x8: ESR_EL3; the caller's x8 and x9 are on the stack. */
function system_access
        ubfx    x9, x8, #SYNDROME_CRN_SHIFT, #4
        cmp     x9, #CRN_MONITOR
        b.ne    timer_access
        stp     x10, x11, [sp, #-16]!
        load    x9, SYNDROME_REGISTER_MASK
        and     x9, x8, x9
        load    x10, PMCR_EL0
        cmp     x9, x10
        b.ne    request_done                    /* no other register of the monitor exists for EL0 */
        address x9, message
        ldr     x9, [x9, #BW_MESSAGE_NONCE]
        cmp     x0, x9
        b.ne    request_done
        address x10, report
        cmp     x1, #BW_REQUEST_INTERRUPT
        b.eq    request_interrupt
        cmp     x1, #BW_REQUEST_STORE
        b.eq    request_store
        cmp     x1, #BW_REQUEST_UNMASK
        b.ne    request_done
        mrs     x9, spsr_el3
        bic     x9, x9, #PSTATE_INTERRUPTS
        msr     spsr_el3, x9
request_done:
        mrs     x9, elr_el3                     /* the access is done */
        add     x9, x9, #4
        msr     elr_el3, x9
        ldp     x10, x11, [sp], #16
        ldp     x8, x9, [sp], #16
        eret
endfunction system_access

/* x2: line, x3: how often, x4: whether interrupts are masked; x10: report */
function request_interrupt
        cbz     x4, 1f
        mrs     x9, spsr_el3
        orr     x9, x9, #PSTATE_INTERRUPTS
        msr     spsr_el3, x9
1:      cmp     x2, #LINES
        b.hs    request_done
        cbz     x3, request_done
        cmp     x2, #TIMER_LINE
        b.ne    2f
        sub     x9, x3, #1
        str     x9, [x10, #BW_REPORT_TICKS]
2:      stp     x30, xzr, [sp, #-16]!
        mov     x8, x2
        bl      make_pending
        ldp     x30, xzr, [sp], #16
        b       request_done
endfunction request_interrupt

/* x8: line. Changes x8-x11. The plugin watches the store: the controller's state is no longer the snapshot's. */
function make_pending
        load    x9, BW_REGION_GICD_BASE + GICD_ISPENDR
        mov     w10, #1
        lsl     w10, w10, w8
        lsr     x8, x8, #5
endfunction make_pending
function pending_store
        str     w10, [x9, x8, lsl #2]
        ret
endfunction pending_store

/* x2: virtual address, x10: report. An address that cannot be stored to is allowed: the kernel has the fault. */
function request_store
        mrs     x11, par_el1
        at      s1e0w, x2
        isb
        mrs     x9, par_el1
        msr     par_el1, x11
        tbnz    x9, #PAR_FAULT_BIT, store_allowed
        ubfx    x9, x9, #12, #36
        lsl     x9, x9, #12                     /* physical address of the page */
        load    x11, BW_REGION_SECURE_RAM_BASE
        sub     x11, x9, x11
        lsr     x11, x11, #12
        mov     x8, #(BW_REGION_SECURE_RAM_SIZE >> 12)
        cmp     x11, x8
        b.lo    1f
        load    x11, BW_REGION_NORMAL_RAM_BASE
        sub     x11, x9, x11
        lsr     x11, x11, #12
        load    x8, BW_REGION_NORMAL_RAM_SIZE >> 12
        cmp     x11, x8
        b.hs    store_refused
        load    x11, BW_EXCHANGE_AREA_BASE
        sub     x11, x9, x11
        lsr     x11, x11, #12
        cmp     x11, #(BW_EXCHANGE_AREA_SIZE >> 12)
        b.lo    store_refused
1:      ldr     x11, [x10, #BW_REPORT_STORES]
        cmp     x11, #BW_STORED_PAGES
        b.hs    store_refused
        add     x8, x10, #BW_REPORT_STORED_PAGE
        str     x9, [x8, x11, lsl #3]
        add     x11, x11, #1
        str     x11, [x10, #BW_REPORT_STORES]
store_allowed:
        mov     x0, #1
        b       request_done
store_refused:
        mov     x0, #0
        b       request_done
endfunction request_store
