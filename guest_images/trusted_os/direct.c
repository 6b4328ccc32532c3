/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A second TEE interface, for the owners of trusted applications: sessions with the same services, in
 * registers and fast calls only. A call's parameter 0 is a value for the service, parameter 1 one from it.
 */
#include "sessions.h"

#define DIRECT_OWNER 48
#define DIRECT_OPEN FAST_CALL(DIRECT_OWNER, 1)   /* w1-w4: UUID; result, session */
#define DIRECT_INVOKE FAST_CALL(DIRECT_OWNER, 2) /* session, command, a, b; result, a, b */
#define DIRECT_CLOSE FAST_CALL(DIRECT_OWNER, 3)  /* session; result */

extern const struct tee direct;

static void set_results(struct call *call, half result, half first, half second)
{
    call->results[0] = result;
    call->results[1] = first;
    call->results[2] = second;
    call->results[3] = 0;
}

static void serve(struct call *call)
{
    const struct caller caller = {&direct, call->client, 0};
    const half *w = call->arguments;
    struct parameter parameters[PARAMETERS] = {{0}};
    half session = 0, origin, result;
    struct uuid uuid;
    switch (call->function) {
    case DIRECT_OPEN:
        for (word i = 0; i < sizeof(uuid.bytes); i++)
            uuid.bytes[i] = (byte)(w[i / 4] >> (24 - i % 4 * 8));
        result = open_session(&caller, &uuid, parameters, &session, &origin);
        set_results(call, result, session, 0);
        break;
    case DIRECT_INVOKE:
        parameters[0] = (struct parameter){.kind = PARAMETER_VALUE, .direction = PARAMETER_INPUT, .a = w[2], .b = w[3]};
        parameters[1] = (struct parameter){.kind = PARAMETER_VALUE, .direction = PARAMETER_OUTPUT};
        result = invoke_session(&caller, w[0], w[1], parameters, &origin);
        set_results(call, result, parameters[1].a, parameters[1].b);
        break;
    case DIRECT_CLOSE:
        set_results(call, close_session(&caller, w[0], &origin), 0, 0);
        break;
    }
}

REGISTER_TEE(direct) = {
    .owners = OWNERS_TRUSTED_APPLICATIONS,
    .query_owner = DIRECT_OWNER,
    .functions = 6,
    .revision_major = 1,
    .revision_minor = 0,
    .uid = {{0x2e, 0x8f, 0x0b, 0x6c, 0x55, 0x10, 0x4b, 0x9a, 0x9d, 0x1f, 0x43, 0x7a, 0xc6, 0x08, 0xe1, 0x3b}},
    .serve = serve,
};
