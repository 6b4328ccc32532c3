/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A counter for each session. It starts at the value that the session is opened with, if it is.
 * b4809315-68d8-4e93-97d1-ec932f302761
 */
#include "sessions.h"

enum command {
    INCREASE, /* by parameter 0 */
    READ,     /* into parameter 1 */
    RESET,
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
    .uuid = {{0xb4, 0x80, 0x93, 0x15, 0x68, 0xd8, 0x4e, 0x93, 0x97, 0xd1, 0xec, 0x93, 0x2f, 0x30, 0x27, 0x61}},
    .open = open,
    .invoke = invoke,
};
