/* SPDX-License-Identifier: BSD-2-Clause */
/* A program's records, decoded with the generated tables exactly as harness/programs/encodings.py does. */
#pragma once

#include "words.h"

enum action {
    ACTION_INVOKE,
    ACTION_SEND,
    ACTION_TRANSFER,
    ACTION_RECEIVE,
    ACTION_PLAIN,
    ACTION_LOAD,
    ACTION_STORE,
    ACTION_JUMP,
    ACTION_UNDEFINED,
    ACTION_UNKNOWN,
    ACTION_FLOATING_POINT,
    ACTION_INTERRUPT,
    /* of the normal world */
    ACTION_NORMAL_SMC,
    ACTION_NORMAL_REGISTER,
    ACTION_NORMAL_LOAD,
    ACTION_NORMAL_STORE,
    ACTION_NORMAL_WRITE,
    ACTION_NORMAL_MESSAGE,
    ACTION_NORMAL_PARAMETER,
    ACTION_NORMAL_INTERRUPT,
    ACTION_NORMAL_CHANGE,
};
enum place { PLACE_WORD, PLACE_CAP, PLACE_INFO };
#define KIND_SLOT 0xff
#define KIND_NONE 0xfe

struct parameter {
    byte kind; /* a pool, or KIND_SLOT */
    byte place;
    byte index;
    byte shift;
    byte bits;
    byte words;
    byte offset; /* of its selector in the record */
};

struct call_type {
    byte action;
    byte target; /* kind */
    byte parameters;
    byte destination; /* offset of the selector in the record; 0: the call makes nothing */
    unsigned short first_parameter;
    byte words;
    byte caps;
    word system_call;
    word info;
};

struct pool {
    unsigned short first;
    byte length;
    byte closed;
};

struct slots {
    unsigned short first;
    unsigned short count;
};

#include "tables.h"

struct decoded {
    const struct call_type *type;
    word target;
    word info;
    word words[MAXIMUM_WORDS];
    word caps[MAXIMUM_CAPS];
};

void decode(const byte *program, word index, struct decoded *out);
/* Who makes the call: the number of a victim, or NORMAL_WORLD */
word performer_of(const byte *program, word index);
void write_decoded(const byte *program, word index, byte *entry);
