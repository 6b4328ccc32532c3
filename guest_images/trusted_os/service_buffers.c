/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Work on shared buffers. Parameter 0 is the memory that is read, parameter 1 what is written; the
 * optional parameter 2 says where in parameter 0 to begin and how many bytes to take, the optional
 * parameter 3 where in parameter 1 they go.
 */
#include "rpc.h"
#include "trusted_messages.h"

enum command {
    COPY = BUFFERS_COPY,
    COPY_BORROWED = BUFFERS_COPY_BORROWED, /* through memory that the normal world lends for the call */
    CHECKSUM = BUFFERS_CHECKSUM,           /* of the bytes of parameter 0 into the value that parameter 1 is */
};
#define CHUNK 128

/* What of parameter 0 is meant */
static half source_range(const struct parameter *parameters, word *offset, word *length)
{
    const struct parameter *source = &parameters[0], *range = &parameters[2];
    if (!is_memory(source, PARAMETER_INPUT))
        return TEE_BAD_PARAMETERS;
    *offset = 0;
    *length = source->buffer.length;
    if (range->kind == PARAMETER_NONE)
        return TEE_SUCCESS;
    if (!is_value(range, PARAMETER_INPUT) || !inside(range->a, range->b, source->buffer.length))
        return TEE_BAD_PARAMETERS;
    *offset = range->a;
    *length = range->b;
    return TEE_SUCCESS;
}

/* Where in parameter 1 that many bytes go */
static half destination_offset(struct parameter *parameters, word length, word *offset)
{
    struct parameter *destination = &parameters[1];
    const struct parameter *place = &parameters[3];
    if (!is_memory(destination, PARAMETER_OUTPUT))
        return TEE_BAD_PARAMETERS;
    if (place->kind != PARAMETER_NONE && !is_value(place, PARAMETER_INPUT))
        return TEE_BAD_PARAMETERS;
    *offset = place->a;
    destination->size = *offset + length; /* what has been written, or would have been */
    return inside(*offset, length, destination->buffer.length) ? TEE_SUCCESS : TEE_SHORT_BUFFER;
}

static half copy(const struct normal_buffer *from, word from_offset, const struct normal_buffer *to, word to_offset,
                 word length)
{
    byte chunk[CHUNK] __attribute__((aligned(8)));
    for (word done = 0; done < length; done += CHUNK) {
        word now = length - done < CHUNK ? length - done : CHUNK;
        if (!buffer_read(from, from_offset + done, chunk, now) || !buffer_write(to, to_offset + done, chunk, now))
            return TEE_BAD_PARAMETERS;
    }
    return TEE_SUCCESS;
}

static half copy_borrowed(struct session *session, struct parameter *parameters, word from, word to, word length)
{
    struct lent_memory lent;
    if (!length) /* nothing that could be lent */
        return TEE_SUCCESS;
    half result = borrow_memory(session, length, &lent);
    if (result != TEE_SUCCESS)
        return result;
    if (cancelled(session))
        result = TEE_CANCELLED;
    if (result == TEE_SUCCESS)
        result = copy(&parameters[0].buffer, from, &lent.buffer, 0, length);
    if (result == TEE_SUCCESS)
        result = copy(&lent.buffer, 0, &parameters[1].buffer, to, length);
    return_memory(session, &lent);
    return result;
}

static half checksum(const struct parameter *parameters, struct parameter *out, word offset, word length)
{
    byte chunk[CHUNK] __attribute__((aligned(8)));
    half sum = 1, sums = 0; /* as Adler-32 has them */
    if (!is_value(out, PARAMETER_OUTPUT))
        return TEE_BAD_PARAMETERS;
    for (word done = 0; done < length; done += CHUNK) {
        word now = length - done < CHUNK ? length - done : CHUNK;
        if (!buffer_read(&parameters[0].buffer, offset + done, chunk, now))
            return TEE_BAD_PARAMETERS;
        for (word i = 0; i < now; i++) {
            sum = (sum + chunk[i]) % 65521;
            sums = (sums + sum) % 65521;
        }
    }
    out->a = sums << 16 | sum;
    out->b = (half)length;
    return TEE_SUCCESS;
}

static half invoke(struct session *session, half command, struct parameter *parameters)
{
    word from, to, length;
    if (command > CHECKSUM)
        return TEE_NOT_SUPPORTED;
    half result = source_range(parameters, &from, &length);
    if (result != TEE_SUCCESS)
        return result;
    if (command == CHECKSUM)
        return checksum(parameters, &parameters[1], from, length);
    result = destination_offset(parameters, length, &to);
    if (result != TEE_SUCCESS)
        return result;
    if (command == COPY_BORROWED)
        return copy_borrowed(session, parameters, from, to, length);
    return copy(&parameters[0].buffer, from, &parameters[1].buffer, to, length);
}

REGISTER_SERVICE(buffers) = {
    .owners = OWNERS_TRUSTED_OS,
    .uuid = BUFFERS_UUID,
    .invoke = invoke,
};
