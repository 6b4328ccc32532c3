/* SPDX-License-Identifier: BSD-2-Clause */
/* Messages to the Trusted OS, in shared memory (layout: harness/programs/trusted_messages.py). */
#include "normal_world.h"
#include "trusted_messages.h"

/* What a result holds until the Trusted OS writes one */
#define NO_RESULT 0x4e574e57ul
#define PAGE_MASK (BW_PAGE - 1ul)

#define LOGGED_WORDS (BW_LOGGED_MESSAGE_BYTES / sizeof(word))

static const word uuids[][2] = SERVICE_UUIDS;

struct log_entry {
    word call, client, address, answer, before[LOGGED_WORDS], after[LOGGED_WORDS];
};
_Static_assert(sizeof(struct log_entry) == BW_NORMAL_MESSAGE_LOG_BYTES, "the log's layout is the protocol's");

/* The host reads them here. */
struct log_entry message_log[BW_MESSAGE_LOG_ENTRIES];
word message_log_count; /* calls that were to be logged */

void put(word address, word value)
{
    address &= -8ul;
    if (address >= SHARED_BASE && address < SHARED_END)
        *(volatile word *)address = value;
}

static void copy_message(word *to, word address)
{
    for (word i = 0; i < LOGGED_WORDS; i++) {
        word at = (address & -8ul) + i * sizeof(word);
        to[i] = at >= SHARED_BASE && at < SHARED_END ? *(const volatile word *)at : 0;
    }
}

void begin_log(word call, word client, word address)
{
    if (message_log_count++ >= BW_MESSAGE_LOG_ENTRIES)
        return;
    struct log_entry *entry = &message_log[message_log_count - 1];
    entry->call = call;
    entry->client = client;
    entry->address = address;
    copy_message(entry->before, address);
}

void end_log(word answer)
{
    if (message_log_count > BW_MESSAGE_LOG_ENTRIES)
        return;
    struct log_entry *entry = &message_log[message_log_count - 1];
    entry->answer = answer;
    copy_message(entry->after, entry->address);
}

void write_parameter(word address, word index, word type, word a, word b, word c)
{
    address += MESSAGE_BYTES + index * PARAMETER_BYTES;
    put(address + PARAMETER_TYPE, type);
    put(address + PARAMETER_A, a);
    put(address + PARAMETER_B, b);
    put(address + PARAMETER_C, c);
}

/* Memory is given by an address; that which was registered by its page, with the offset in it. */
static void write_given(word address, word index, word type, word a, word b)
{
    word base = type & 0xff;
    if (base >= TYPE_RMEM_INPUT && base <= TYPE_RMEM_INOUT)
        write_parameter(address, index, type, a & PAGE_MASK, b, a & ~PAGE_MASK);
    else if (base >= TYPE_TMEM_INPUT && base <= TYPE_TMEM_INOUT)
        write_parameter(address, index, type, a, b, a & ~PAGE_MASK);
    else
        write_parameter(address, index, type, a, b, 0);
}

/*
 * words: command, function, session, service, then type, a and b of two parameters, as the program says
 * them; values: what those stand for. OPEN_SESSION has the service's UUID and the client's identity in front. The
 * message has as many parameters as are given: none, where the types of both are 0.
 */
void write_message(word address, const word *words, const word *values)
{
    word first = 0, service = words[3], session = values[2], given = words[7] ? 2 : words[4] ? 1 : 0;
    if (words[0] == COMMAND_OPEN_SESSION) {
        word low = service < SERVICES ? uuids[service][0] : service, high = service < SERVICES ? uuids[service][1] : ~service;
        write_parameter(address, 0, MESSAGE_META | TYPE_VALUE_INPUT, low, high, 0);
        write_parameter(address, 1, MESSAGE_META | TYPE_VALUE_INPUT, 0, 0, 0);
        first = 2;
    }
    write_given(address, first, words[4], values[5], values[6]);
    write_given(address, first + 1, words[7], values[8], values[9]);
    put(address + MESSAGE_COMMAND, (half)words[0] | words[1] << 32);
    put(address + MESSAGE_SESSION, (half)session);
    put(address + MESSAGE_PADDING, NO_RESULT << 32);
    put(address + MESSAGE_ORIGIN, (first + given) << 32);
}
