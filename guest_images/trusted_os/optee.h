/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Numbers and layouts of OP-TEE's interface to the normal world, as its public protocol defines them
 * (drivers/tee/optee/optee_smc.h, optee_msg.h and optee_rpc_cmd.h of Linux describe it).
 */
#pragma once

#include "call.h"
#include "threads.h"

/* Functions: the general queries and all others go to different numbers of the same owner's range. */
#define OPTEE_OWNER 50
#define OPTEE_QUERY_OWNER 63
#define OPTEE_GET_OS_UUID FAST_CALL(OPTEE_OWNER, 0)
#define OPTEE_GET_OS_REVISION FAST_CALL(OPTEE_OWNER, 1)
#define OPTEE_RETURN_FROM_RPC YIELDING_CALL(OPTEE_OWNER, 3)
#define OPTEE_CALL_WITH_ARG YIELDING_CALL(OPTEE_OWNER, 4)
#define OPTEE_GET_SHM_CONFIG FAST_CALL(OPTEE_OWNER, 7)
#define OPTEE_EXCHANGE_CAPABILITIES FAST_CALL(OPTEE_OWNER, 9)
#define OPTEE_DISABLE_SHM_CACHE FAST_CALL(OPTEE_OWNER, 10)
#define OPTEE_ENABLE_SHM_CACHE FAST_CALL(OPTEE_OWNER, 11)
#define OPTEE_GET_THREAD_COUNT FAST_CALL(OPTEE_OWNER, 15)
#define OPTEE_FUNCTIONS 12 /* these, and the three general queries */

enum optee_return {
    OPTEE_OK = 0,
    OPTEE_THREAD_LIMIT = 1,
    OPTEE_IS_BUSY = 2,
    OPTEE_BAD_RESUME = 3,
    OPTEE_BAD_ADDRESS = 4,
    OPTEE_BAD_COMMAND = 5,
    OPTEE_NOT_AVAILABLE = 7,
};

/* Results that ask the normal world for something; w3 is what it resumes the call with. */
enum optee_rpc {
    OPTEE_RPC_ALLOCATE = 0xffff0000,
    OPTEE_RPC_FREE = 0xffff0002,
    OPTEE_RPC_FOREIGN_INTERRUPT = 0xffff0004,
};

/* Capabilities of the normal world, and of this one */
#define OPTEE_UNIPROCESSOR (1 << 0)
#define OPTEE_RESERVED_MEMORY (1 << 0)
#define OPTEE_UNREGISTERED_MEMORY (1 << 1)
#define OPTEE_DYNAMIC_MEMORY (1 << 2)
#define OPTEE_NULL_MEMORY (1 << 4)

#define OPTEE_MEMORY_CACHED 1

/* What a call with an argument points to: a header and as many parameters as it says */
struct message_header {
    half command; /* enum optee_command */
    half function;
    half session;
    half cancel_id;
    half padding;
    half result;
    half origin;
    half parameters;
};
struct message_parameter {
    word attributes;
    word words[3]; /* value: a, b, c; memory: address or offset, size, cookie */
};
_Static_assert(sizeof(struct message_header) == 32 && sizeof(struct message_parameter) == 32, "sizes of the protocol");

enum optee_command {
    OPTEE_OPEN_SESSION,
    OPTEE_INVOKE_COMMAND,
    OPTEE_CLOSE_SESSION,
    OPTEE_CANCEL,
    OPTEE_REGISTER_SHM,
    OPTEE_UNREGISTER_SHM,
};
/* As many parameters as a message may have at all */
#define OPTEE_MAXIMUM_PARAMETERS 127

/* Attributes of a parameter: the direction in the two lowest bits, what it is above, and flags */
#define ATTRIBUTE_DIRECTION 3
#define ATTRIBUTE_KIND(attributes) ((attributes) >> 2 & 63)
#define ATTRIBUTE_META (1 << 8)
#define ATTRIBUTE_PAGE_LIST (1 << 9)
#define ATTRIBUTE_CACHE (7 << 16)
#define ATTRIBUTES_KNOWN (0xff | ATTRIBUTE_META | ATTRIBUTE_PAGE_LIST | ATTRIBUTE_CACHE)
enum attribute_kind { KIND_VALUE, KIND_REGISTERED_MEMORY, KIND_TEMPORARY_MEMORY };

/* A 64-bit number in two registers, the upper half first */
static inline word join(half high, half low)
{
    return (word)high << 32 | low;
}

extern const struct tee optee;

/* messages.c: serves OPTEE_CALL_WITH_ARG in a thread. */
void serve_message(struct thread *thread, struct call *call);
