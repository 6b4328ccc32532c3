/* SPDX-License-Identifier: BSD-2-Clause */
#include "rpc.h"
#include "optee.h"

/* Of the calls that services are in: they go on with interrupts allowed. */
static void ask(struct thread *thread, struct call *call)
{
    thread_forbid_interrupts(thread);
    thread_ask(thread, call);
    thread_allow_interrupts(thread);
}

static void free_memory(struct thread *thread, word cookie)
{
    struct call call = {.results = {OPTEE_RPC_FREE, cookie >> 32, (half)cookie}};
    ask(thread, &call);
}

half borrow_memory(const struct session *session, word length, struct lent_memory *lent)
{
    struct thread *thread = session->thread;
    if (!thread)
        return TEE_NOT_SUPPORTED;
    struct call call = {.results = {OPTEE_RPC_ALLOCATE, length}};
    ask(thread, &call);
    word address = join(call.arguments[0], call.arguments[1]), cookie = join(call.arguments[3], call.arguments[4]);
    if (!address)
        return TEE_OUT_OF_MEMORY;
    if (!normal_range(address, length)) {
        free_memory(thread, cookie);
        return TEE_OUT_OF_MEMORY;
    }
    *lent = (struct lent_memory){{.address = address, .length = length}, cookie};
    return TEE_SUCCESS;
}

void return_memory(const struct session *session, const struct lent_memory *lent)
{
    free_memory(session->thread, lent->cookie);
}

word cancelled(const struct session *session)
{
    return session->thread && session->thread->cancelled;
}
