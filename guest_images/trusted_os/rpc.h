/* SPDX-License-Identifier: BSD-2-Clause */
/* What a service asks the normal world for in the middle of a call. */
#pragma once

#include "sessions.h"

/* Memory that the normal world has allocated for the call */
struct lent_memory {
    struct normal_buffer buffer;
    word cookie; /* by which it is given back */
};

/* Both suspend the call. A fast call cannot: TEE_NOT_SUPPORTED. */
half borrow_memory(const struct session *session, word length, struct lent_memory *lent);
void return_memory(const struct session *session, const struct lent_memory *lent);
/* Whether the normal world has cancelled the call while it was suspended */
word cancelled(const struct session *session);
