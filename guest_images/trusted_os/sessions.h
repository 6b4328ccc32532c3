/* SPDX-License-Identifier: BSD-2-Clause */
/* Sessions of clients with services, whichever interface they were opened through. */
#pragma once

#include "normal_memory.h"
#include "registry.h"
#include "results.h"

#define PARAMETERS 4
#define SESSION_WORDS 2

struct thread;

enum parameter_kind { PARAMETER_NONE, PARAMETER_VALUE, PARAMETER_MEMORY };
enum parameter_direction { PARAMETER_INPUT = 1, PARAMETER_OUTPUT = 2 };

/* One of a call's parameters, as services see it */
struct parameter {
    byte kind;
    byte direction;
    half a, b; /* a value */
    word size; /* of memory: the service sets how much it wrote, or would have to */
    struct normal_buffer buffer;
};

struct session {
    const struct service *service; /* 0: the session is free */
    word owners;                   /* of the interface that opened it */
    half client;
    byte busy;                  /* a call of it is under way */
    struct thread *thread;      /* that serves the call, if it is a yielding one */
    word state[SESSION_WORDS];  /* the service's */
};

/* Whose call it is */
struct caller {
    const struct tee *tee;
    half client;
    struct thread *thread; /* 0: a fast call, which cannot ask the normal world for anything */
};

/* A session's number for the normal world; never 0 */
half session_number(const struct session *session);
/* The caller's own session of that number, or none */
struct session *find_session(const struct caller *caller, half number);

/* Each leaves in `origin` (enum tee_origin) whether the result is the service's own. */
half open_session(const struct caller *caller, const struct uuid *uuid, struct parameter *parameters, half *number,
                  half *origin);
half invoke_session(const struct caller *caller, half number, half command, struct parameter *parameters,
                    half *origin);
half close_session(const struct caller *caller, half number, half *origin);

/* For services: whether a parameter is a value or memory for these directions */
static inline word is_value(const struct parameter *p, byte direction)
{
    return p->kind == PARAMETER_VALUE && (p->direction & direction) == direction;
}
static inline word is_memory(const struct parameter *p, byte direction)
{
    return p->kind == PARAMETER_MEMORY && (p->direction & direction) == direction;
}
