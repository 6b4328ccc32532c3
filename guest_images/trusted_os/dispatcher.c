/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The dispatcher: a thread that takes the normal world's calls from the monitor at EL3, one SMC for
 * "that call is done, which is the next", and hands each to the interface of its owner.
 *
 * Its only notification gathers all that can happen meanwhile: a thread with a yielding call needs
 * it, the normal world gets its turn in a program, an interrupt of the normal world is pending.
 */
#include "dispatcher.h"
#include "kernel.h"
#include "protocol.h"
#include "registry.h"

static word happened; /* events that nobody has waited for yet */

word wait_for_events(word wanted)
{
    while (!(happened & wanted))
        happened |= wait(SLOT_EVENTS);
    word found = happened & wanted;
    happened &= ~found;
    return found;
}

/* x0-x7, in and out */
static void secure_monitor_call(word slot, word x[8])
{
    struct message m = {slot, INFO(ARMSMCCall, 0, 8), {x[0], x[1], x[2], x[3]}};
    for (word i = 4; i < 8; i++)
        ipc_buffer[IPC_MESSAGE + i] = x[i];
    system_call((word)SysCall, &m);
    for (word i = 0; i < 8; i++)
        x[i] = i < 4 ? m.mr[i] : ipc_buffer[IPC_MESSAGE + i];
}

/* Tells the monitor what it waits for, and takes the normal world's next call. */
static void next_call(word slot, word function, struct call *call)
{
    word x[8] = {function, call->results[0], call->results[1], call->results[2], call->results[3]};
    secure_monitor_call(slot, x);
    while (x[0] == BW_DISPATCHER_INTERRUPTED) { /* the kernel has served the interrupt by now */
        for (word i = 1; i < 8; i++)
            x[i] = 0;
        x[0] = BW_DISPATCHER_RESUME;
        secure_monitor_call(SLOT_RESUME, x);
    }
    call->function = (half)x[0];
    call->client = x[7] & 0xffff;
    for (word i = 0; i < 6; i++)
        call->arguments[i] = (half)x[1 + i];
    call->results[0] = CALL_NOT_SUPPORTED;
    for (word i = 0; i < 3; i++)
        call->results[1 + i] = call->arguments[i];
}

static word big_endian(const byte *bytes)
{
    return (word)bytes[0] << 24 | (word)bytes[1] << 16 | (word)bytes[2] << 8 | bytes[3];
}

/* The general queries are the same for all interfaces. Whether it was one. */
static word answer_query(const struct tee *tee, struct call *call)
{
    if (call->function == FAST_CALL(tee->query_owner, QUERY_COUNT)) {
        call->results[0] = tee->functions;
    } else if (call->function == FAST_CALL(tee->query_owner, QUERY_UID)) {
        for (word i = 0; i < 4; i++)
            call->results[i] = big_endian(tee->uid.bytes + 4 * i);
    } else if (call->function == FAST_CALL(tee->query_owner, QUERY_REVISION)) {
        call->results[0] = tee->revision_major;
        call->results[1] = tee->revision_minor;
    } else {
        return 0;
    }
    return 1;
}

static void serve(struct call *call)
{
    const struct tee *tee = find_tee(FUNCTION_OWNER(call->function));
    if (!tee || call->function & FUNCTION_WIDE) /* nobody has functions with 64-bit arguments */
        return;
    if (!answer_query(tee, call))
        tee->serve(call);
}

void dispatcher_main(void)
{
    struct call call = {0};
    next_call(SLOT_READY, BW_DISPATCHER_READY, &call);
    for (;;) {
        serve(&call);
        /*
         * The normal world takes its interrupts as soon as it runs. One that came while nobody waited is told
         * about later, and lets a yielding call return once without need; asking each time would cost more.
         */
        happened &= ~(word)EVENT_FOREIGN_INTERRUPT;
        next_call(SLOT_DONE, BW_DISPATCHER_DONE, &call);
    }
}
