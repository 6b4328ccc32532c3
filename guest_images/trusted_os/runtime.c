/* SPDX-License-Identifier: BSD-2-Clause */
/* What the compiler calls for assignments of structures. */
#include "words.h"

void *memcpy(void *to, const void *from, word length)
{
    byte *t = to;
    const byte *f = from;
    if (!(((word)t | (word)f) % sizeof(word)))
        for (; length >= sizeof(word); length -= sizeof(word), t += sizeof(word), f += sizeof(word))
            *(word *)t = *(const word *)f;
    while (length--)
        *t++ = *f++;
    return to;
}

void *memset(void *to, int value, word length)
{
    for (byte *t = to; length--; t++)
        *t = (byte)value;
    return to;
}
