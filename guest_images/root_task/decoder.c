/* SPDX-License-Identifier: BSD-2-Clause */
#include "decoder.h"
#include "protocol.h"

static const byte *record(const byte *program, word index)
{
    return program + index * BW_CALL_BYTES;
}

/* Its offset is a multiple of four bytes, and all memory is device memory while the MMU is off. */
static word raw_value(const byte *row)
{
    const half *halves = (const half *)(row + RAW_OFFSET);
    return halves[0] | (word)halves[1] << 32;
}

word performer_of(const byte *program, word index)
{
    const byte *row = record(program, index);
#ifdef NORMAL_WORLD
    if (row[0] % CALL_TYPES >= FIRST_NORMAL_CALL)
        return NORMAL_WORLD;
#endif
    return row[1] % VICTIMS;
}

static word slot_value(const byte *program, word index, word offset)
{
    for (;;) {
        const byte *row = record(program, index);
        word low = row[offset], high = row[offset + 1];
        switch (low & 3) {
        case 0:
            return high % SLOTS;
        case 2: {
            const struct slots *slots = &slots_of_type[row[1] % VICTIMS][(low >> 2) % SLOT_TYPES];
            return slots->count ? slot_numbers[slots->first + high % slots->count] : 0;
        }
        case 3:
            return raw_value(row);
        }
        if (!index)
            return 0;
        index = high % index;
        offset = call_types[record(program, index)[0] % CALL_TYPES].destination;
        if (!offset)
            return 0;
    }
}

static word value(const byte *program, word index, word offset, byte kind)
{
    if (kind == KIND_SLOT)
        return slot_value(program, index, offset);
    const byte *row = record(program, index);
    const struct pool *pool = &pools[kind];
    if (row[offset] == 0xff && !pool->closed)
        return raw_value(row);
    return pool_values[pool->first + row[offset] % pool->length];
}

void decode(const byte *program, word index, struct decoded *out)
{
    const byte *row = record(program, index);
    const struct call_type *type = &call_types[row[0] % CALL_TYPES];
    out->type = type;
    out->info = type->info;
    for (word i = 0; i < type->words || i < 4; i++) /* the first four travel in registers */
        out->words[i] = 0;
    const struct parameter *p = &parameters[type->first_parameter];
    for (const struct parameter *end = p + type->parameters; p < end; p++) {
        word v = value(program, index, p->offset, p->kind);
        if (p->words > 1) { /* from one selector, in steps through the pool */
            const struct pool *pool = &pools[p->kind];
            word length = pool->length, at = row[p->offset] % length, step = row[p->offset + 1] % length;
            word raw = row[p->offset] == 0xff && !pool->closed;
            for (word i = 0; i < p->words; i++) {
                out->words[p->index + i] = raw ? v : pool_values[pool->first + at];
                at += step;
                if (at >= length)
                    at -= length;
            }
            continue;
        }
        if (p->place == PLACE_CAP) {
            out->caps[p->index] = v;
            continue;
        }
        if (p->bits < 64)
            v &= (1ul << p->bits) - 1;
        if (p->place == PLACE_INFO)
            out->info |= v << p->shift;
        else
            out->words[p->index] |= v << p->shift;
    }
    out->target = type->target == KIND_NONE ? 0 : value(program, index, TARGET_OFFSET, type->target);
}

/* What the host compares with its own decoder's answer */
void write_decoded(const byte *program, word index, byte *entry)
{
    struct decoded d;
    decode(program, index, &d);
    const struct call_type *type = d.type;
    word digest = 0xcbf29ce484222325ul;
    for (word i = 0; i < type->words; i++)
        digest = (digest ^ d.words[i]) * 0x100000001b3ul;
    for (word i = 0; i < type->caps; i++)
        digest = (digest ^ d.caps[i]) * 0x100000001b3ul;
    *(unsigned short *)(entry + BW_DECODED_CALL) = (unsigned short)(type - call_types);
    *(unsigned short *)(entry + BW_DECODED_VICTIM) = (unsigned short)performer_of(program, index);
    *(half *)(entry + BW_DECODED_SYSCALL) = (half)type->system_call;
    *(word *)(entry + BW_DECODED_TARGET) = d.target;
    *(word *)(entry + BW_DECODED_INFO) = d.info;
    for (word i = 0; i < 3; i++)
        ((word *)(entry + BW_DECODED_CAP))[i] = i < type->caps ? d.caps[i] : 0;
    *(word *)(entry + BW_DECODED_WORD0) = type->words ? d.words[0] : 0;
    *(word *)(entry + BW_DECODED_DIGEST) = digest;
}
