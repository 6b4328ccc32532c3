/* SPDX-License-Identifier: BSD-2-Clause */
/* Numbers and structures of the kernel, from its own headers. */
#pragma once

#include <autoconf.h>
#include <sel4/macros.h>
#include <sel4/simple_types.h>
#include <sel4/sel4_arch/types.h>
typedef struct seL4_IPCBuffer_ seL4_IPCBuffer;
#include <sel4/bootinfo_types.h>
#include <sel4/errors.h>
#include <sel4/objecttype.h>
#include <sel4/sel4_arch/objecttype.h>
#include <sel4/arch/objecttype.h>
#include <sel4/sel4_arch/constants.h>
/* what the kernel's generated headers expect of its own ones */
typedef unsigned long word_t;
#define UNUSED __attribute__((unused))
#include <arch/api/invocation.h>
#include <arch/api/syscall.h>
