/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Echo and arithmetic: parameter 0 is a pair of 32-bit numbers, parameter 1 gets the result.
 */
#include "sessions.h"
#include "trusted_messages.h"

static half invoke(struct session *session, half command, struct parameter *parameters)
{
    const struct parameter *in = &parameters[0];
    struct parameter *out = &parameters[1];
    (void)session;
    if (!is_value(in, PARAMETER_INPUT) || !is_value(out, PARAMETER_OUTPUT))
        return TEE_BAD_PARAMETERS;
    word result;
    switch (command) {
    case ARITHMETIC_ECHO:
        out->a = in->a;
        out->b = in->b;
        return TEE_SUCCESS;
    case ARITHMETIC_ADD:
        result = (word)in->a + in->b;
        break;
    case ARITHMETIC_SUBTRACT:
        result = (word)in->a - in->b;
        break;
    case ARITHMETIC_MULTIPLY:
        result = (word)in->a * in->b;
        break;
    case ARITHMETIC_DIVIDE:
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
    .uuid = ARITHMETIC_UUID,
    .invoke = invoke,
};
