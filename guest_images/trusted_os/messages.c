/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Calls with an argument: the normal world's message is copied once, checked and served from the copy,
 * and what the protocol has as output is written back into the message and the client's own buffers.
 */
#include "messages.h"
#include "optee.h"
#include "shared_memory.h"

static struct message messages[THREADS];

/* Writes one field of the header back. */
#define WRITE_FIELD(m, field) \
    normal_write((m)->address + __builtin_offsetof(struct message_header, field), &(m)->header.field, sizeof((m)->header.field))

/* Whether there is a message at that address. Of more parameters than any command has none are copied. */
static word read_message(struct message *m, word address)
{
    if (address % sizeof(word) || !normal_range(address, sizeof(m->header)))
        return 0;
    normal_read(&m->header, address, sizeof(m->header));
    word count = m->header.parameters, size = count * sizeof(m->raw[0]);
    if (count > OPTEE_MAXIMUM_PARAMETERS || !normal_range(address + sizeof(m->header), size))
        return 0;
    if (count <= MESSAGE_PARAMETERS)
        normal_read(m->raw, address + sizeof(m->header), size);
    m->address = address;
    return 1;
}

static half open_session_command(struct message *m, const struct caller *caller)
{
    /* The first two parameters are for the TEE: the service's UUID, and what the client says about itself. */
    m->first = 2;
    if (m->header.parameters < m->first)
        return TEE_BAD_PARAMETERS;
    for (word i = 0; i < m->first; i++)
        if (m->raw[i].attributes != (ATTRIBUTE_META | PARAMETER_INPUT))
            return TEE_BAD_PARAMETERS;
    half result = parameters_in(m, caller->client);
    if (result != TEE_SUCCESS)
        return result;
    result = open_session(caller, (const struct uuid *)m->raw[0].words, m->parameters, &m->header.session, &m->header.origin);
    if (result == TEE_SUCCESS)
        WRITE_FIELD(m, session);
    parameters_out(m, m->header.origin == ORIGIN_SERVICE);
    return result;
}

static half invoke_command(struct message *m, const struct caller *caller)
{
    m->first = 0;
    half result = parameters_in(m, caller->client);
    if (result != TEE_SUCCESS)
        return result;
    m->cancellable = 1;
    result = invoke_session(caller, m->header.session, m->header.function, m->parameters, &m->header.origin);
    m->cancellable = 0;
    parameters_out(m, m->header.origin == ORIGIN_SERVICE);
    return result;
}

/* Tells the call of that session and identifier, if there is one. */
static half cancel(const struct message *m, const struct caller *caller)
{
    const struct session *session = find_session(caller, m->header.session);
    if (m->header.parameters || !session)
        return TEE_BAD_PARAMETERS;
    for (half i = 0; i < THREADS; i++) {
        struct thread *thread = suspended_thread(i, caller->client);
        if (thread && messages[i].cancellable && messages[i].header.session == m->header.session &&
            messages[i].header.cancel_id == m->header.cancel_id)
            thread->cancelled = 1;
    }
    return TEE_SUCCESS;
}

static half register_command(const struct message *m, half client)
{
    const struct message_parameter *p = m->raw;
    if (m->header.parameters != 1 || p->attributes & ~(word)(ATTRIBUTES_KNOWN & ~ATTRIBUTE_META) ||
        ATTRIBUTE_KIND(p->attributes) != KIND_TEMPORARY_MEMORY || !(p->attributes & ATTRIBUTE_DIRECTION))
        return TEE_BAD_PARAMETERS;
    if (p->attributes & ATTRIBUTE_PAGE_LIST)
        return register_pages(client, p->words[2], p->words[0], p->words[1]);
    return register_contiguous(client, p->words[2], p->words[0], p->words[1]);
}

static half unregister_command(const struct message *m, half client)
{
    if (m->header.parameters != 1 || ATTRIBUTE_KIND(m->raw->attributes) != KIND_REGISTERED_MEMORY)
        return TEE_BAD_PARAMETERS;
    return unregister(client, m->raw->words[2]);
}

void serve_message(struct thread *thread, struct call *call)
{
    struct message *m = &messages[thread->number];
    struct caller caller = {&optee, call->client, thread};
    if (!read_message(m, join(call->arguments[0], call->arguments[1]))) {
        call->results[0] = OPTEE_BAD_ADDRESS;
        return;
    }
    half *origin = &m->header.origin;
    *origin = ORIGIN_TEE;
    switch (m->header.command) {
    case OPTEE_OPEN_SESSION:
        m->header.result = open_session_command(m, &caller);
        break;
    case OPTEE_INVOKE_COMMAND:
        m->header.result = invoke_command(m, &caller);
        break;
    case OPTEE_CLOSE_SESSION:
        m->header.result =
            m->header.parameters ? (half)TEE_BAD_PARAMETERS : close_session(&caller, m->header.session, origin);
        break;
    case OPTEE_CANCEL:
        m->header.result = cancel(m, &caller);
        break;
    case OPTEE_REGISTER_SHM:
        m->header.result = register_command(m, call->client);
        break;
    case OPTEE_UNREGISTER_SHM:
        m->header.result = unregister_command(m, call->client);
        break;
    default:
        call->results[0] = OPTEE_BAD_COMMAND;
        return;
    }
    WRITE_FIELD(m, result);
    WRITE_FIELD(m, origin);
    /* What the call was resumed with is no result of it. */
    for (word i = 0; i < 3; i++)
        call->results[1 + i] = 0;
    call->results[0] = OPTEE_OK;
}
