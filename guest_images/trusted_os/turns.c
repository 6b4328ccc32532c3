/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Turns of a program: the normal world is one of those who perform its calls. When the next call
 * is a victim's, it passes the turn with a call of its own, which lasts until it has the turn again.
 */
#include "dispatcher.h"
#include "kernel.h"
#include "optee.h"
#include "registry.h"

/* w1: number of the victim that gets the turn; of none: the caller only waits */
#define PASS_TURN YIELDING_CALL(3, 1)

static void serve(struct call *call)
{
    if (call->function != PASS_TURN)
        return;
    if (call->arguments[0] < VICTIMS)
        signal(SLOT_TURN + call->arguments[0]);
    /* An interrupt of its own: the caller takes it, and waits again. */
    word turn = wait_for_events(EVENT_TURN | EVENT_FOREIGN_INTERRUPT) & EVENT_TURN;
    call->results[0] = turn ? CALL_SUCCESS : OPTEE_RPC_FOREIGN_INTERRUPT;
}

REGISTER_TEE(turns) = {
    .owners = OWNER_OEM,
    .query_owner = 3,
    .functions = 4,
    .revision_major = 1,
    .uid = {{0x85, 0xfc, 0x4b, 0x9e, 0xd4, 0xe7, 0x45, 0x8b, 0x82, 0x79, 0x89, 0x24, 0x92, 0xd4, 0xb4, 0x68}},
    .serve = serve,
};
