/* SPDX-License-Identifier: BSD-2-Clause */
#include "normal_memory.h"
#include "machine.h"

static const struct {
    word base, size;
} parts[] = {{BW_NORMAL_MEMORY_BASE, BW_NORMAL_MEMORY_SIZE}, {BW_NORMAL_SHARED_BASE, BW_NORMAL_SHARED_SIZE}};

/* Bytes from an address to the end of the part that it lies in, or 0 */
static word rest(word address)
{
    for (word i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (address >= parts[i].base && address - parts[i].base < parts[i].size)
            return parts[i].base + parts[i].size - address;
    return 0;
}

word normal_range(word address, word length)
{
    while (length) {
        word here = rest(address);
        if (!here)
            return 0;
        if (length <= here)
            break;
        address += here;
        length -= here;
    }
    return 1;
}

void normal_read(void *to, word address, word length)
{
    byte *p = to;
    while (length) {
        if (length >= sizeof(word) && !((address | (word)p) % sizeof(word))) {
            *(word *)p = *(const volatile word *)address;
            p += sizeof(word), address += sizeof(word), length -= sizeof(word);
        } else {
            *p++ = *(const volatile byte *)address++;
            length--;
        }
    }
}

void normal_write(word address, const void *from, word length)
{
    const byte *p = from;
    while (length) {
        if (length >= sizeof(word) && !((address | (word)p) % sizeof(word))) {
            *(volatile word *)address = *(const word *)p;
            p += sizeof(word), address += sizeof(word), length -= sizeof(word);
        } else {
            *(volatile byte *)address++ = *p++;
            length--;
        }
    }
}

/* Physical address of a byte of the buffer, and how many of `length` bytes follow it there */
static word piece(const struct normal_buffer *buffer, word offset, word *length)
{
    if (!buffer->pages)
        return buffer->address + offset;
    word at = buffer->offset + offset, left = NORMAL_PAGE - at % NORMAL_PAGE;
    if (*length > left)
        *length = left;
    return buffer->pages[at / NORMAL_PAGE] * NORMAL_PAGE + at % NORMAL_PAGE;
}

word buffer_read(const struct normal_buffer *buffer, word offset, void *to, word length)
{
    if (!inside(offset, length, buffer->length))
        return 0;
    for (byte *p = to; length; ) {
        word now = length, address = piece(buffer, offset, &now);
        normal_read(p, address, now);
        p += now, offset += now, length -= now;
    }
    return 1;
}

word buffer_write(const struct normal_buffer *buffer, word offset, const void *from, word length)
{
    if (!inside(offset, length, buffer->length))
        return 0;
    for (const byte *p = from; length; ) {
        word now = length, address = piece(buffer, offset, &now);
        normal_write(address, p, now);
        p += now, offset += now, length -= now;
    }
    return 1;
}
