/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Yielding calls run in threads, so that one that waits for the normal world, or that the normal
 * world's interrupts have stopped, keeps its state until the normal world resumes it.
 *
 * Interrupts stop a thread at any instruction of a service, and nowhere else: what threads share, and
 * their system calls, are between thread_forbid_interrupts() and thread_allow_interrupts().
 */
#pragma once

#include "call.h"
#include "layout.h"

enum thread_state {
    THREAD_FREE,
    THREAD_RUNNING,
    THREAD_ASKING,      /* waits for what it asked the normal world for */
    THREAD_YIELDING,    /* the same, to let an interrupt of the normal world in */
    THREAD_INTERRUPTED, /* stopped by an interrupt of the normal world */
};

struct thread {
    byte state;           /* enum thread_state, as the dispatcher sees it */
    byte asks;            /* the state that it wants when it signals the dispatcher */
    byte interruptible;   /* may be stopped at any instruction */
    byte interrupt_waits; /* one came when it was not */
    byte cancelled;       /* the normal world does not want the answer any more */
    byte number;
    half client; /* whose call it serves */
    void (*serve)(struct thread *thread, struct call *call);
    struct call call; /* that it serves or was resumed with, and its results */
};

/*
 * For the dispatcher: a free thread, or none; the suspended one that a client may resume by its number,
 * or none; how many are suspended.
 */
struct thread *thread_for(half client, void (*serve)(struct thread *, struct call *));
struct thread *suspended_thread(half number, half client);
word suspended_threads(void);
/* Runs it until it needs the dispatcher: its state tells why. The call has its results, unless it was interrupted. */
void thread_run(struct thread *thread, struct call *call);

/* For the code that it runs: ends the call with these results, until the normal world resumes it with others. */
void thread_ask(struct thread *thread, struct call *call);
/* Of no thread: nothing */
void thread_allow_interrupts(struct thread *thread);
void thread_forbid_interrupts(struct thread *thread);
