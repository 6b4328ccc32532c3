/* SPDX-License-Identifier: BSD-2-Clause */
#include "messages.h"

static void release(struct message *m)
{
    for (word i = 0; i < PARAMETERS; i++) {
        if (m->shared[i])
            m->shared[i]->references--;
        m->shared[i] = 0;
    }
}

/* Part of a buffer that the client has registered. Without a cookie and a size it is no memory at all. */
static half registered_memory(struct message *m, word i, const struct message_parameter *raw, half client)
{
    struct normal_buffer *buffer = &m->parameters[i].buffer;
    word offset = raw->words[0], length = raw->words[1], cookie = raw->words[2];
    if (!cookie && !length)
        return TEE_SUCCESS;
    struct shared_memory *shared = find_shared_memory(client, cookie);
    if (!shared || !inside(offset, length, shared->buffer.length))
        return TEE_BAD_PARAMETERS;
    *buffer = shared->buffer;
    buffer->address += offset;
    buffer->offset += offset;
    buffer->length = length;
    shared->references++;
    m->shared[i] = shared;
    return TEE_SUCCESS;
}

static half temporary_memory(struct message *m, word i, const struct message_parameter *raw)
{
    struct normal_buffer *buffer = &m->parameters[i].buffer;
    word address = raw->words[0], length = raw->words[1];
    if (!address)
        return TEE_SUCCESS;
    if (raw->attributes & ATTRIBUTE_PAGE_LIST)
        return read_page_list(buffer, m->pages[i], address, length);
    if (!normal_range(address, length))
        return TEE_BAD_PARAMETERS;
    *buffer = (struct normal_buffer){.address = address, .length = length};
    return TEE_SUCCESS;
}

static half parameter_in(struct message *m, word i, const struct message_parameter *raw, half client)
{
    struct parameter *p = &m->parameters[i];
    word kind = ATTRIBUTE_KIND(raw->attributes);
    p->direction = raw->attributes & ATTRIBUTE_DIRECTION;
    if (raw->attributes & ~(word)(ATTRIBUTES_KNOWN & ~ATTRIBUTE_META) || kind > KIND_TEMPORARY_MEMORY)
        return TEE_BAD_PARAMETERS;
    if (raw->attributes & ATTRIBUTE_PAGE_LIST && kind != KIND_TEMPORARY_MEMORY)
        return TEE_BAD_PARAMETERS;
    if (!p->direction) /* no parameter, or one of no type */
        return kind == KIND_VALUE ? TEE_SUCCESS : TEE_BAD_PARAMETERS;
    if (kind == KIND_VALUE) {
        p->kind = PARAMETER_VALUE;
        if (p->direction & PARAMETER_INPUT) {
            p->a = (half)raw->words[0];
            p->b = (half)raw->words[1];
        }
        return TEE_SUCCESS;
    }
    p->kind = PARAMETER_MEMORY;
    half result = kind == KIND_REGISTERED_MEMORY ? registered_memory(m, i, raw, client) : temporary_memory(m, i, raw);
    p->size = p->buffer.length;
    return result;
}

half parameters_in(struct message *m, half client)
{
    half result = TEE_SUCCESS;
    for (word i = 0; i < PARAMETERS; i++) {
        m->parameters[i] = (struct parameter){0};
        m->shared[i] = 0;
    }
    if (m->header.parameters > m->first + PARAMETERS)
        return TEE_BAD_PARAMETERS;
    for (word i = m->first; i < m->header.parameters && result == TEE_SUCCESS; i++)
        result = parameter_in(m, i - m->first, &m->raw[i], client);
    if (result != TEE_SUCCESS)
        release(m);
    return result;
}

void parameters_out(struct message *m, word asked)
{
    release(m);
    for (word i = m->first; asked && i < m->header.parameters; i++) {
        const struct parameter *p = &m->parameters[i - m->first];
        if (!(p->direction & PARAMETER_OUTPUT))
            continue;
        /* Where a message has a value's a and b, or the size of memory */
        word at = m->address + sizeof(m->header) + i * sizeof(m->raw[0]) + sizeof(m->raw[0].attributes);
        if (p->kind == PARAMETER_VALUE)
            normal_write(at, (word[]){p->a, p->b}, 2 * sizeof(word));
        else
            normal_write(at + sizeof(word), &p->size, sizeof(word));
    }
}
