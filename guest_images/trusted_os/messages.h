/* SPDX-License-Identifier: BSD-2-Clause */
#pragma once

#include "optee.h"
#include "sessions.h"
#include "shared_memory.h"

/* Those of a session's call, and two that are meant for the TEE */
#define MESSAGE_PARAMETERS (PARAMETERS + 2)

/* A message of the normal world while its call is under way */
struct message {
    word address; /* physical */
    half first;   /* of the raw parameters that are the service's */
    byte cancellable;
    struct message_header header;
    struct message_parameter raw[MESSAGE_PARAMETERS];
    struct parameter parameters[PARAMETERS];
    struct shared_memory *shared[PARAMETERS]; /* that the parameters refer to */
    half pages[PARAMETERS][BUFFER_PAGES];     /* of temporary memory that is given as a list */
};

/* parameters.c: what services get of a message's parameters, and what it gets back. */
half parameters_in(struct message *m, half client);
/* Ends the use of the buffers, and writes values and sizes if the service was asked. */
void parameters_out(struct message *m, word asked);
