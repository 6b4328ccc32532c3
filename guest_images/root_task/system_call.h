/* SPDX-License-Identifier: BSD-2-Clause */
/* System calls with raw registers: nothing of libsel4 stands between a program and the kernel. */
#pragma once

#include "words.h"

/* In: target, message info, first message registers. Out: badge, message info, message registers. */
struct message {
    word target;
    word info;
    word mr[4];
};

static inline void system_call(word number, struct message *m)
{
    register word x0 __asm__("x0") = m->target;
    register word x1 __asm__("x1") = m->info;
    register word x2 __asm__("x2") = m->mr[0];
    register word x3 __asm__("x3") = m->mr[1];
    register word x4 __asm__("x4") = m->mr[2];
    register word x5 __asm__("x5") = m->mr[3];
    register word x7 __asm__("x7") = number;
    __asm__ volatile("svc #0"
                     : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3), "+r"(x4), "+r"(x5)
                     : "r"(x7)
                     : "x6", "memory");
    m->target = x0;
    m->info = x1;
    m->mr[0] = x2;
    m->mr[1] = x3;
    m->mr[2] = x4;
    m->mr[3] = x5;
}

/* EL3 traps this, too, and answers in x0 (Request in harness/protocol.py). */
static inline word ask_el3(word nonce, word request, word a, word b, word c)
{
    register word x0 __asm__("x0") = nonce;
    register word x1 __asm__("x1") = request;
    register word x2 __asm__("x2") = a;
    register word x3 __asm__("x3") = b;
    register word x4 __asm__("x4") = c;
    __asm__ volatile("msr pmcr_el0, x0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}

/* EL3 traps this: it is how a victim parks. Afterwards x0 is 0. */
static inline void wait_for_host(word nonce)
{
    register word x0 __asm__("x0") = nonce;
    __asm__ volatile("wfi" : "+r"(x0) : : "memory");
}

/* The IPC buffer, in words */
enum {
    IPC_MESSAGE = 1,
    IPC_CAPS = 122,
    IPC_RECEIVE_ROOT = 125,
    IPC_RECEIVE_INDEX = 126,
    IPC_RECEIVE_DEPTH = 127,
};
#define INFO(label, caps, length) ((word)(label) << 12 | (word)(caps) << 7 | (word)(length))
#define INFO_LABEL(info) ((info) >> 12 & 0xfffff)
#define INFO_LENGTH(info) ((info) & 0x7f)
