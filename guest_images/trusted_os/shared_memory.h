/* SPDX-License-Identifier: BSD-2-Clause */
/* Buffers that clients register once and name by a cookie afterwards. */
#pragma once

#include "normal_memory.h"

/* Pages of one buffer that is given as a list */
#define BUFFER_PAGES 64

struct shared_memory {
    byte used;
    byte references; /* of calls that are under way */
    half client;
    word cookie;
    struct normal_buffer buffer;
    half pages[BUFFER_PAGES];
};

/* Results are those of the TEE client interface. */
half register_contiguous(half client, word cookie, word address, word length);
half register_pages(half client, word cookie, word list, word length);
half unregister(half client, word cookie);
/* The client's own buffer of that cookie, or none */
struct shared_memory *find_shared_memory(half client, word cookie);

/*
 * A buffer of `length` bytes in pages that are listed at the physical address `list`, whose lowest 12
 * bits say where in the first page it begins. The numbers of the pages go into `pages`.
 */
half read_page_list(struct normal_buffer *buffer, half *pages, word list, word length);
