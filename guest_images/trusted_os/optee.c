/* SPDX-License-Identifier: BSD-2-Clause */
/* The interface that OP-TEE's drivers know: fast calls, and the life of yielding ones. */
#include "optee.h"
#include "machine.h"
#include "registry.h"

#define CAPABILITIES (OPTEE_RESERVED_MEMORY | OPTEE_UNREGISTERED_MEMORY | OPTEE_DYNAMIC_MEMORY | OPTEE_NULL_MEMORY)

/* The operating system behind the interface: this project's */
#define OS_REVISION_MAJOR 1
#define OS_REVISION_MINOR 0
static const half os_uuid[] = {0xf62b4c78, 0xf37f482f, 0xbc725899, 0x23c511a2};

static void run(struct thread *thread, struct call *call)
{
    thread_run(thread, call);
    if (thread->state == THREAD_INTERRUPTED || thread->state == THREAD_YIELDING) {
        call->results[0] = OPTEE_RPC_FOREIGN_INTERRUPT;
        call->results[1] = call->results[2] = 0;
    }
    if (thread->state != THREAD_FREE)
        call->results[3] = thread->number;
}

static void serve_yielding(struct call *call)
{
    struct thread *thread;
    switch (call->function) {
    case OPTEE_CALL_WITH_ARG:
        thread = thread_for(call->client, serve_message);
        if (thread)
            run(thread, call);
        else
            call->results[0] = OPTEE_THREAD_LIMIT;
        break;
    case OPTEE_RETURN_FROM_RPC:
        thread = suspended_thread(call->arguments[2], call->client);
        if (thread)
            run(thread, call);
        else
            call->results[0] = OPTEE_BAD_RESUME;
        break;
    }
}

static void serve(struct call *call)
{
    word *results = call->results;
    switch (call->function) {
    case OPTEE_GET_OS_UUID:
        for (word i = 0; i < 4; i++)
            results[i] = os_uuid[i];
        break;
    case OPTEE_GET_OS_REVISION:
        results[0] = OS_REVISION_MAJOR;
        results[1] = OS_REVISION_MINOR;
        results[2] = 0; /* no build identifier */
        break;
    case OPTEE_GET_SHM_CONFIG:
        results[0] = OPTEE_OK;
        results[1] = BW_NORMAL_SHARED_BASE;
        results[2] = BW_NORMAL_SHARED_SIZE;
        results[3] = OPTEE_MEMORY_CACHED;
        break;
    case OPTEE_EXCHANGE_CAPABILITIES:
        results[0] = call->arguments[0] & ~(half)OPTEE_UNIPROCESSOR ? OPTEE_NOT_AVAILABLE : OPTEE_OK;
        results[1] = CAPABILITIES;
        if (results[0] == OPTEE_OK)
            results[2] = 0; /* no notifications */
        break;
    case OPTEE_DISABLE_SHM_CACHE:
        /* Nothing of the normal world's memory outlives the call that allocated it: the cache is always empty. */
        results[0] = suspended_threads() ? OPTEE_IS_BUSY : OPTEE_NOT_AVAILABLE;
        break;
    case OPTEE_ENABLE_SHM_CACHE:
        results[0] = suspended_threads() ? OPTEE_IS_BUSY : OPTEE_OK;
        break;
    case OPTEE_GET_THREAD_COUNT:
        results[0] = OPTEE_OK;
        results[1] = THREADS;
        break;
    default:
        serve_yielding(call);
    }
}

REGISTER_TEE(optee) = {
    .owners = OWNERS_TRUSTED_OS,
    .query_owner = OPTEE_QUERY_OWNER,
    .functions = OPTEE_FUNCTIONS,
    .revision_major = 2,
    .revision_minor = 0,
    .uid = {{0x38, 0x4f, 0xb3, 0xe0, 0xe7, 0xf8, 0x11, 0xe3, 0xaf, 0x63, 0x00, 0x02, 0xa5, 0xd5, 0xc5, 0x1b}},
    .serve = serve,
};
