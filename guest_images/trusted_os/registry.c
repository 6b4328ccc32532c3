/* SPDX-License-Identifier: BSD-2-Clause */
#include "registry.h"

extern const struct tee tees_start[], tees_end[];
extern const struct service services_start[], services_end[];

const struct tee *find_tee(half owner)
{
    for (const struct tee *tee = tees_start; tee < tees_end; tee++)
        if (tee->owners & OWNER(owner))
            return tee;
    return 0;
}

static word same(const struct uuid *a, const struct uuid *b)
{
    for (word i = 0; i < sizeof(a->bytes); i++)
        if (a->bytes[i] != b->bytes[i])
            return 0;
    return 1;
}

/* The service of that UUID, if clients of one of the owners may open it */
const struct service *find_service(word owners, const struct uuid *uuid)
{
    for (const struct service *service = services_start; service < services_end; service++)
        if (service->owners & owners && same(&service->uuid, uuid))
            return service;
    return 0;
}
