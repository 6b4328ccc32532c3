/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The monitor: SMCs of the normal world by their owner, and the interface of the Trusted OS'
 * dispatcher. EL3 answers architecture, standard and SiP calls itself (smc.S, psci.S); OEM calls, those
 * of trusted applications and of the Trusted OS, and yielding calls go to the dispatcher, which takes
 * one at a time: an SMC of its own returns with the normal world's call, and its next SMC answers it.
 */
#include "smc.h"

#ifdef BW_NORMAL_WORLD

/* Function identifiers (SMC calling convention): fast call, 64-bit call, owner in bits 29-24 */
#define FAST_CALL_BIT           31
#define CALL_64_BIT             30
#define OWNER_SHIFT             24
#define OWNER_BITS              6
#define OWNER_OEM               3
#define OWNER_TRUSTED           48              /* from here on: trusted applications, then the Trusted OS */
#define YIELDING_SHIFT          25              /* yielding calls below 2^25 are reserved */

#define SCTLR_EL1_RESET         0x30d00800      /* RES1; everything off */
#define SCTLR_EL2_RESET         0x30c50830
#define HCR_RW                  (1 << 31)       /* EL1 is AArch64 */
#ifdef BW_CPU_MAX                               /* pointer authentication and context numbers do not trap */
#define HCR_START               (HCR_RW | (1 << 40) | (1 << 41) | (1 << 53))
#define SCR_LATER               ((1 << 16) | (1 << 17) | (1 << 25))
#else
#define HCR_START               HCR_RW
#define SCR_LATER               0
#endif
#define CPTR_EL2_RESET          0x33ff          /* nothing of FP traps */
#define CNTHCTL_OPEN            3               /* EL1 has its counter and its timer */
#define SPSR_EL2H_MASKED        0x3c9
#if BW_NORMAL_LEVEL == 2
#define SCR_START               (SCR_NORMAL | SCR_LATER | SCR_HCE)
#define SPSR_START              SPSR_EL2H_MASKED
#else
#define SCR_START               (SCR_NORMAL | SCR_LATER)
#define SPSR_START              SPSR_EL1H_MASKED
#endif

.macro save_initial name, offset
        mrs     x0, \name
        str     x0, [x17, #\offset]
.endm

        .text
/* An SMC of the normal world. x8: ESR_EL3; the caller's x8 and x9 are on the stack. */
function normal_smc
        begin_smc worlds, BW_WORLDS_SMC_COUNT, BW_WORLDS_SMC_LOG, unlogged_normal_smc
        tbz     w0, #FAST_CALL_BIT, yielding_call
        ubfx    w11, w0, #OWNER_SHIFT, #OWNER_BITS
        cmp     w11, #OWNER_OEM
        b.eq    trusted_os_call
        cmp     w11, #OWNER_TRUSTED
        b.hs    trusted_call
        normal_smc_functions dispatch
        b       not_supported
trusted_call:
        lsr     w11, w0, #16                    /* the dispatcher's own interface is not for this world */
        mov     w12, #(BW_DISPATCHER_READY >> 16)
        cmp     w11, w12
        b.eq    not_supported
        b       trusted_os_call
yielding_call:
        lsr     w11, w0, #YIELDING_SHIFT
        cbz     w11, not_supported
trusted_os_call:
        address x11, normal_log_entry
        str     x10, [x11]
        address x11, worlds
        mov     x12, #BW_NORMAL_CALLING
        str     x12, [x11, #BW_WORLDS_STATE]
        end_smc
        store_general (normal_world + BW_BANK_X0)
        bl      leave_normal_interrupts
        address x16, normal_world
        address x17, secure_world
        add     x8, x17, #BW_BANK_X0
        add     x9, x16, #BW_BANK_X0
        ldp     x0, x1, [x9]
        ldp     x2, x3, [x9, #16]
        ldp     x4, x5, [x9, #32]
        ldp     x6, x7, [x9, #48]
        /* The identifier and the client have 32 bits, and in a 32-bit call so do the arguments. */
        mov     w0, w0
        mov     w7, w7
        tbnz    w0, #CALL_64_BIT, 1f
    .irp number, 1,2,3,4,5,6
        mov     w\number, w\number
    .endr
1:      stp     x0, x1, [x8]
        stp     x2, x3, [x8, #16]
        stp     x4, x5, [x8, #32]
        stp     x6, x7, [x8, #48]
        b       switch_worlds
endfunction normal_smc

/* A Group 0 interrupt while the normal world runs; its registers are in place. The secure world serves it. */
function normal_interrupted
        store_general (normal_world + BW_BANK_X0)
        mrs     x0, scr_el3
        tbz     x0, #SCR_NS_BIT, panic          /* S-EL1 takes its interrupts itself */
        bl      leave_normal_interrupts
        address x16, normal_world
        address x17, secure_world
        address x1, worlds
        mov     x0, #BW_NORMAL_INTERRUPTED
        str     x0, [x1, #BW_WORLDS_STATE]
        ldr     x0, [x1, #BW_WORLDS_INTERRUPTED]
        add     x0, x0, #1
        str     x0, [x1, #BW_WORLDS_INTERRUPTED]
        add     x8, x17, #BW_BANK_X0
        load    x0, BW_DISPATCHER_INTERRUPTED
        stp     x0, xzr, [x8]
        stp     xzr, xzr, [x8, #16]
        stp     xzr, xzr, [x8, #32]
        stp     xzr, xzr, [x8, #48]
        b       switch_worlds
endfunction normal_interrupted

/*
 * An SMC from S-EL1 in the dispatcher's range; x8: ESR_EL3, the caller's x8 and x9 are on the stack.
 * Whoever else makes such a call, or makes it out of turn, finds that it does not exist.
 */
function dispatcher_smc
        tst     x8, #ESR_SMC_IMMEDIATE
        b.ne    ordinary_smc
        stp     x10, x11, [sp, #-16]!
        address x10, worlds
        ldr     x11, [x10, #BW_WORLDS_STATE]
        load    w9, BW_DISPATCHER_READY
        sub     w9, w0, w9
        cbz     w9, dispatcher_starts
        cmp     w9, #(BW_DISPATCHER_DONE - BW_DISPATCHER_READY)
        mov     w10, #BW_NORMAL_CALLING
        b.eq    1f
        cmp     w9, #(BW_DISPATCHER_RESUME - BW_DISPATCHER_READY)
        mov     w10, #BW_NORMAL_INTERRUPTED
        b.ne    dispatcher_refused
1:      cmp     w11, w10
        b.ne    dispatcher_refused
        address x10, dispatcher_space
        ldr     x10, [x10]
        mrs     x11, ttbr0_el1
        cmp     x10, x11
        b.eq    dispatcher_accepted
dispatcher_refused:
        ldp     x10, x11, [sp], #16
        b       ordinary_smc
dispatcher_starts:
        cmp     w11, #BW_NORMAL_ABSENT
        b.ne    dispatcher_refused
dispatcher_accepted:
        ldp     x10, x11, [sp], #16
        ldp     x8, x9, [sp], #16
        store_general (secure_world + BW_BANK_X0)
        address x16, secure_world
        address x17, normal_world
        add     x8, x16, #BW_BANK_X0
        ldr     w0, [x8]
        load    w1, BW_DISPATCHER_DONE
        cmp     w0, w1
        b.hi    enter_normal_world
        b.lo    2f
        ldp     x0, x1, [x8, #8]                /* results */
        ldp     x2, x3, [x8, #24]
        add     x9, x17, #BW_BANK_X0
        stp     x0, x1, [x9]
        stp     x2, x3, [x9, #16]
        address x10, normal_log_entry
        ldr     x10, [x10]
        stp     x0, x1, [x10, #BW_SMC_LOG_RESULT]
        stp     x2, x3, [x10, #BW_SMC_LOG_RESULT + 16]
        ldp     x0, x1, [x9, #32]               /* the others come back as they were given */
        ldp     x2, x3, [x9, #48]
        stp     x0, x1, [x10, #BW_SMC_LOG_RESULT + 32]
        stp     x2, x3, [x10, #BW_SMC_LOG_RESULT + 48]
        b       enter_normal_world
2:      bl      start_normal_world
endfunction dispatcher_smc

/* x16: the secure world's bank, x17: the normal world's */
function enter_normal_world
        address x1, worlds
        mov     x0, #BW_NORMAL_RUNNING
        str     x0, [x1, #BW_WORLDS_STATE]
        ldr     x0, [x1, #BW_WORLDS_ENTRIES]
        add     x0, x0, #1
        str     x0, [x1, #BW_WORLDS_ENTRIES]
        bl      enter_normal_interrupts         /* changes x0-x3 */
        b       switch_worlds
endfunction enter_normal_world

/*
 * The Trusted OS is there: copy the normal world's image, give it the registers of a reset, and EL2 the
 * state in which it does not matter. x17: the normal world's bank. Changes x0-x6, x20.
 */
function start_normal_world
        mov     x20, x30
        mrs     x0, ttbr0_el1
        address x1, dispatcher_space
        str     x0, [x1]
        address x0, normal_header
        bl      copy_image                      /* now, since the kernel clears untyped memory that it hands out */
        ic      iallu
        dsb     sy
        isb
        bl      assign_interrupts

        load    x0, SCTLR_EL2_RESET
        msr     sctlr_el2, x0
        load    x0, HCR_START
        msr     hcr_el2, x0
        load    x0, CPTR_EL2_RESET
        msr     cptr_el2, x0
        mov     x0, #CNTHCTL_OPEN
        msr     cnthctl_el2, x0
        msr     cntvoff_el2, xzr
        msr     hstr_el2, xzr
        msr     vttbr_el2, xzr
        mrs     x0, midr_el1
        msr     vpidr_el2, x0
        mrs     x0, mpidr_el1
        msr     vmpidr_el2, x0
        isb
        el2_registers save_initial

        load    x0, SCTLR_EL1_RESET
        str     x0, [x17, #BW_BANK_SCTLR_EL1]
        /* A reset leaves TCR unknown: the value of EL3's boot tables spares QEMU two flushes of its caches a call. */
        load    x0, TCR_VALUE
        str     x0, [x17, #BW_BANK_TCR_EL1]
        load    x0, SCR_START
        str     x0, [x17, #BW_BANK_SCR_EL3]
        load    x0, SPSR_START
        str     x0, [x17, #BW_BANK_SPSR_EL3]
        address x0, normal_header
        ldr     x0, [x0, #BW_NORMAL_HEADER_ENTRY]
        str     x0, [x17, #BW_BANK_ELR_EL3]
        ret     x20
endfunction start_normal_world

#endif
