/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A counter for each session. It starts at the value that the session is opened with, if it is.
 */
#include "sessions.h"
#include "trusted_messages.h"

enum command {
    INCREASE = COUNTER_INCREASE, /* by parameter 0 */
    READ = COUNTER_READ,         /* into parameter 1 */
    RESET = COUNTER_RESET,
};
enum state { COUNT, INCREASES };
#define LIMIT 0xfffffffful

static half open(struct session *session, struct parameter *parameters)
{
    session->state[COUNT] = parameters[0].a; /* 0 if there is none */
    return parameters[0].kind == PARAMETER_MEMORY ? TEE_BAD_PARAMETERS : TEE_SUCCESS;
}

static half invoke(struct session *session, half command, struct parameter *parameters)
{
    word *state = session->state;
    switch (command) {
    case INCREASE:
        if (!is_value(&parameters[0], PARAMETER_INPUT))
            return TEE_BAD_PARAMETERS;
        if (parameters[0].a > LIMIT - state[COUNT])
            return TEE_EXCESS_DATA;
        state[COUNT] += parameters[0].a;
        state[INCREASES]++;
        return TEE_SUCCESS;
    case READ:
        if (!is_value(&parameters[1], PARAMETER_OUTPUT))
            return TEE_BAD_PARAMETERS;
        parameters[1].a = (half)state[COUNT];
        parameters[1].b = (half)state[INCREASES];
        return TEE_SUCCESS;
    case RESET:
        state[COUNT] = state[INCREASES] = 0;
        return TEE_SUCCESS;
    default:
        return TEE_NOT_SUPPORTED;
    }
}

REGISTER_SERVICE(counter) = {
    .owners = OWNERS_TRUSTED_OS | OWNERS_TRUSTED_APPLICATIONS,
    .uuid = COUNTER_UUID,
    .open = open,
    .invoke = invoke,
};
