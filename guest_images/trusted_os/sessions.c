/* SPDX-License-Identifier: BSD-2-Clause */
#include "sessions.h"
#include "threads.h"

#define SESSIONS 8

static struct session sessions[SESSIONS];

half session_number(const struct session *session)
{
    return (half)(session - sessions) + 1;
}

struct session *find_session(const struct caller *caller, half number)
{
    if (!number || number > SESSIONS)
        return 0;
    struct session *session = &sessions[number - 1];
    if (!session->service || session->client != caller->client || session->owners != caller->tee->owners)
        return 0;
    return session;
}

static struct session *free_session(void)
{
    for (struct session *session = sessions; session < sessions + SESSIONS; session++)
        if (!session->service)
            return session;
    return 0;
}

/* Services have their session for themselves, so that interrupts may stop them anywhere. */
static void begin(struct session *session, const struct caller *caller)
{
    session->busy = 1;
    session->thread = caller->thread;
    thread_allow_interrupts(session->thread);
}

static void end(struct session *session)
{
    thread_forbid_interrupts(session->thread);
    session->busy = 0;
    session->thread = 0;
}

half open_session(const struct caller *caller, const struct uuid *uuid, struct parameter *parameters, half *number,
                  half *origin)
{
    *origin = ORIGIN_TEE;
    const struct service *service = find_service(caller->tee->owners, uuid);
    if (!service)
        return TEE_ITEM_NOT_FOUND;
    struct session *session = free_session();
    if (!session)
        return TEE_OUT_OF_MEMORY;
    *session = (struct session){.service = service, .owners = caller->tee->owners, .client = caller->client};
    *origin = ORIGIN_SERVICE;
    half result = TEE_SUCCESS;
    if (service->open) {
        begin(session, caller);
        result = service->open(session, parameters);
        end(session);
    }
    if (result != TEE_SUCCESS)
        session->service = 0;
    else
        *number = session_number(session);
    return result;
}

half invoke_session(const struct caller *caller, half number, half command, struct parameter *parameters,
                    half *origin)
{
    *origin = ORIGIN_TEE;
    struct session *session = find_session(caller, number);
    if (!session)
        return TEE_BAD_PARAMETERS;
    if (session->busy) /* a suspended call of it: its state must not change meanwhile */
        return TEE_BUSY;
    if (!session->service->invoke)
        return TEE_NOT_SUPPORTED;
    *origin = ORIGIN_SERVICE;
    begin(session, caller);
    half result = session->service->invoke(session, command, parameters);
    end(session);
    return result;
}

half close_session(const struct caller *caller, half number, half *origin)
{
    *origin = ORIGIN_TEE;
    struct session *session = find_session(caller, number);
    if (!session)
        return TEE_ITEM_NOT_FOUND;
    if (session->busy)
        return TEE_BUSY;
    if (session->service->close)
        session->service->close(session);
    session->service = 0;
    return TEE_SUCCESS;
}
