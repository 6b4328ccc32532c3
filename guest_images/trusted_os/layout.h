/* SPDX-License-Identifier: BSD-2-Clause */
/* What the root task gives the trusted OS, and where: both sides include this. */
#pragma once

#include "constants.h"

/* Yielding calls that can be under way at once, each in a thread of its own */
#define THREADS 3
/* As much again as the deepest calls need */
#define STACK_BYTES 2048

#ifndef __ASSEMBLER__

/* The image begins with this table (entry.S). */
enum image_entry {
    IMAGE_DISPATCHER,
    IMAGE_THREAD, /* x0: its number */
    IMAGE_WRITABLE_START,
    IMAGE_WRITABLE_END,
    IMAGE_DISPATCHER_STACK, /* its end */
    IMAGE_THREAD_STACKS,    /* the end of the first; the others follow */
};

/* Slots of the trusted OS's capability space: 2^TRUSTED_OS_CNODE_BITS of them, resolved with 64 bits */
#define TRUSTED_OS_CNODE_BITS 5
enum {
    /* SMC capabilities, each for one function */
    SLOT_READY = 1,
    SLOT_DONE,
    SLOT_RESUME,
    SLOT_EVENTS,       /* what the dispatcher waits at */
    SLOT_THREAD_EVENT, /* the same notification, by which a thread tells that it needs the dispatcher */
    SLOT_FAULTS,       /* endpoint of the faults of all of them: nobody lets them go on, but their objects show it */
    SLOT_THREAD,       /* the threads themselves */
    SLOT_RELEASE = SLOT_THREAD + THREADS, /* notifications that the threads wait at */
    SLOT_TURN = SLOT_RELEASE + THREADS,   /* notifications by which victims get their turns */
    TRUSTED_OS_SLOTS = SLOT_TURN + VICTIMS,
};
_Static_assert(TRUSTED_OS_SLOTS <= 1 << TRUSTED_OS_CNODE_BITS, "the trusted OS's capability space is too small");

/* Badges of the capabilities that signal the dispatcher's notification: they add up. */
enum event {
    EVENT_TURN = 1 << 0,
    EVENT_THREAD = 1 << 1,
    EVENT_FOREIGN_INTERRUPT = 1 << 2,
};

#endif
