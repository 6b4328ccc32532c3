/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who serves the normal world's calls. A TEE interface takes all calls of its owners (of SMC function
 * identifiers); a trusted service is what clients open sessions with, by its UUID, through the
 * interfaces whose owners it names. Both register where they are defined:
 *
 *     REGISTER_TEE(example) = {.owners = ..., .serve = ...};
 *     REGISTER_SERVICE(example) = {.owners = ..., .uuid = ..., .invoke = ...};
 */
#pragma once

#include "call.h"
#include "results.h"

/* Sets of owners */
#define OWNER(number) (1ul << (number))
#define OWNER_OEM OWNER(3)
#define OWNERS_TRUSTED_APPLICATIONS (OWNER(48) | OWNER(49))
#define OWNERS_TRUSTED_OS (~(OWNER(50) - 1))

/* Sixteen bytes in the order in which they are written */
struct uuid {
    byte bytes[16];
};

struct tee {
    word owners;
    half query_owner; /* the owner whose general queries are about it */
    half functions;   /* how many it has, general queries included */
    half revision_major, revision_minor;
    struct uuid uid;  /* of the interface */
    /* The results are set to "not supported" before. */
    void (*serve)(struct call *call);
};

struct session;
struct parameter;

struct service {
    word owners;
    struct uuid uuid;
    /* Each may be left out. All answer with a result of the TEE client interface. */
    half (*open)(struct session *session, struct parameter *parameters);
    half (*invoke)(struct session *session, half command, struct parameter *parameters);
    void (*close)(struct session *session);
};

#define REGISTER_TEE(name) const struct tee name __attribute__((section(".tees"), used, aligned(8)))
#define REGISTER_SERVICE(name) static const struct service name __attribute__((section(".services"), used, aligned(8)))

const struct tee *find_tee(half owner);
const struct service *find_service(word owners, const struct uuid *uuid);
