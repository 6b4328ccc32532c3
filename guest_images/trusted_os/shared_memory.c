/* SPDX-License-Identifier: BSD-2-Clause */
#include "shared_memory.h"
#include "results.h"

#define BUFFERS 8

static struct shared_memory registered[BUFFERS];

struct shared_memory *find_shared_memory(half client, word cookie)
{
    for (struct shared_memory *shared = registered; shared < registered + BUFFERS; shared++)
        if (shared->used && shared->client == client && shared->cookie == cookie)
            return shared;
    return 0;
}

half read_page_list(struct normal_buffer *buffer, half *pages, word list, word length)
{
    word offset = list % NORMAL_PAGE;
    list -= offset;
    if (!length)
        return TEE_BAD_PARAMETERS;
    if (!inside(offset, length, BUFFER_PAGES * NORMAL_PAGE))
        return TEE_OUT_OF_MEMORY;
    word count = (offset + length + NORMAL_PAGE - 1) / NORMAL_PAGE;
    if (!normal_range(list, count * sizeof(word)))
        return TEE_BAD_PARAMETERS;
    for (word i = 0; i < count; i++) {
        word page;
        normal_read(&page, list + i * sizeof(word), sizeof(page));
        if (page % NORMAL_PAGE || !normal_range(page, NORMAL_PAGE))
            return TEE_BAD_PARAMETERS;
        pages[i] = (half)(page / NORMAL_PAGE);
    }
    *buffer = (struct normal_buffer){.offset = offset, .length = length, .pages = pages};
    return TEE_SUCCESS;
}

/* A free place for a cookie that the client does not use yet; not used before its buffer is known */
static half place(half client, word cookie, struct shared_memory **found)
{
    if (find_shared_memory(client, cookie))
        return TEE_BAD_PARAMETERS;
    for (struct shared_memory *shared = registered; shared < registered + BUFFERS; shared++) {
        if (!shared->used) {
            shared->client = client;
            shared->cookie = cookie;
            shared->references = 0;
            *found = shared;
            return TEE_SUCCESS;
        }
    }
    return TEE_OUT_OF_MEMORY;
}

half register_contiguous(half client, word cookie, word address, word length)
{
    struct shared_memory *shared;
    if (!length || !normal_range(address, length))
        return TEE_BAD_PARAMETERS;
    half result = place(client, cookie, &shared);
    if (result == TEE_SUCCESS) {
        shared->buffer = (struct normal_buffer){.address = address, .length = length};
        shared->used = 1;
    }
    return result;
}

half register_pages(half client, word cookie, word list, word length)
{
    struct shared_memory *shared;
    half result = place(client, cookie, &shared);
    if (result == TEE_SUCCESS)
        result = read_page_list(&shared->buffer, shared->pages, list, length);
    if (result == TEE_SUCCESS)
        shared->used = 1;
    return result;
}

half unregister(half client, word cookie)
{
    struct shared_memory *shared = find_shared_memory(client, cookie);
    if (!shared)
        return TEE_ITEM_NOT_FOUND;
    if (shared->references)
        return TEE_BUSY;
    shared->used = 0;
    return TEE_SUCCESS;
}
