/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory of the normal world. The root task has mapped all of it that the machine config names, from
 * non-secure frames, at virtual addresses equal to the physical ones: nothing else that the normal
 * world may name as an address has a mapping here. It can change at any time, so what is checked
 * is always a copy, and each byte is copied once.
 */
#pragma once

#include "words.h"

#define NORMAL_PAGE 4096ul

/* Whether all of the range is the normal world's; an empty one is */
word normal_range(word address, word length);

/* Of ranges that have been checked */
void normal_read(void *to, word address, word length);
void normal_write(word address, const void *from, word length);

/*
 * A buffer: contiguous from `address`, or `offset` bytes into a list of pages (numbers of physical
 * pages) that lies in secure memory. All of it has been checked to be the normal world's.
 */
struct normal_buffer {
    word address;
    word offset;
    word length;
    const half *pages;
};

/* Whether the bytes lie in the buffer, and if so they have been copied */
word buffer_read(const struct normal_buffer *buffer, word offset, void *to, word length);
word buffer_write(const struct normal_buffer *buffer, word offset, const void *from, word length);

/* Whether [offset, offset + length) lies in [0, size), whatever the numbers are */
static inline word inside(word offset, word length, word size)
{
    return offset <= size && length <= size - offset;
}
