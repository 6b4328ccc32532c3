/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Echo and arithmetic: parameter 0 is a pair of 32-bit numbers, parameter 1 gets the result.
 * d7375907-1e77-48d7-9e73-a7be32731a25
 */
#include "sessions.h"

enum command { ECHO, ADD, SUBTRACT, MULTIPLY, DIVIDE };

static half invoke(struct session *session, half command, struct parameter *parameters)
{
    const struct parameter *in = &parameters[0];
    struct parameter *out = &parameters[1];
    (void)session;
    if (!is_value(in, PARAMETER_INPUT) || !is_value(out, PARAMETER_OUTPUT))
        return TEE_BAD_PARAMETERS;
    word result;
    switch (command) {
    case ECHO:
        out->a = in->a;
        out->b = in->b;
        return TEE_SUCCESS;
    case ADD:
        result = (word)in->a + in->b;
        break;
    case SUBTRACT:
        result = (word)in->a - in->b;
        break;
    case MULTIPLY:
        result = (word)in->a * in->b;
        break;
    case DIVIDE:
        if (!in->b)
            return TEE_BAD_PARAMETERS;
        out->a = in->a / in->b;
        out->b = in->a % in->b;
        return TEE_SUCCESS;
    default:
        return TEE_NOT_SUPPORTED;
    }
    out->a = (half)result;
    out->b = (half)(result >> 32);
    return TEE_SUCCESS;
}

REGISTER_SERVICE(arithmetic) = {
    .owners = OWNERS_TRUSTED_OS | OWNERS_TRUSTED_APPLICATIONS,
    .uuid = {{0xd7, 0x37, 0x59, 0x07, 0x1e, 0x77, 0x48, 0xd7, 0x9e, 0x73, 0xa7, 0xbe, 0x32, 0x73, 0x1a, 0x25}},
    .invoke = invoke,
};
