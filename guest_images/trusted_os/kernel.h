/* SPDX-License-Identifier: BSD-2-Clause */
/* The system calls that the trusted OS makes. */
#pragma once

#include "call.h"
#include "kernel_interface.h"
#include "layout.h"
#include "system_call.h"

extern volatile word ipc_buffer[];

static inline void signal(word slot)
{
    struct message m = {.target = slot};
    system_call((word)SysNBSend, &m);
}

/* Waits at a notification; the badges of all that signalled it. */
static inline word wait(word slot)
{
    struct message m = {.target = slot};
    system_call((word)SysRecv, &m);
    return m.target;
}

static inline void invoke_thread(word thread, word label)
{
    struct message m = {.target = thread, .info = INFO(label, 0, 0)};
    system_call((word)SysCall, &m);
}
