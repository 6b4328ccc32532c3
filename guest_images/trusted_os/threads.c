/* SPDX-License-Identifier: BSD-2-Clause */
#include "threads.h"
#include "dispatcher.h"
#include "kernel.h"

static struct thread threads[THREADS];

static word suspended(const struct thread *thread)
{
    return thread->state > THREAD_RUNNING;
}

struct thread *thread_for(half client, void (*serve)(struct thread *, struct call *))
{
    for (word i = 0; i < THREADS; i++) {
        if (threads[i].state == THREAD_FREE) {
            threads[i] = (struct thread){.number = (byte)i, .client = client, .serve = serve};
            return &threads[i];
        }
    }
    return 0;
}

struct thread *suspended_thread(half number, half client)
{
    if (number >= THREADS || !suspended(&threads[number]) || threads[number].client != client)
        return 0;
    return &threads[number];
}

word suspended_threads(void)
{
    word count = 0;
    for (word i = 0; i < THREADS; i++)
        count += suspended(&threads[i]);
    return count;
}

void thread_run(struct thread *thread, struct call *call)
{
    word interrupted = thread->state == THREAD_INTERRUPTED;
    thread->state = THREAD_RUNNING;
    if (interrupted) {
        invoke_thread(SLOT_THREAD + thread->number, TCBResume);
    } else {
        thread->call = *call;
        signal(SLOT_RELEASE + thread->number);
    }
    while (!(wait_for_events(EVENT_THREAD | EVENT_FOREIGN_INTERRUPT) & EVENT_THREAD)) {
        if (*(volatile byte *)&thread->interruptible) {
            /* It was in user code, so it goes on at the same instruction: it has no system call to begin again. */
            invoke_thread(SLOT_THREAD + thread->number, TCBSuspend);
            thread->state = THREAD_INTERRUPTED;
            return;
        }
        thread->interrupt_waits = 1;
    }
    *call = thread->call;
    thread->state = thread->asks;
}

/* The dispatcher changes the state, and takes the results. */
static void need_dispatcher(struct thread *thread, enum thread_state state)
{
    thread->asks = (byte)state;
    signal(SLOT_THREAD_EVENT);
}

static void wait_for_release(word number)
{
    wait(SLOT_RELEASE + number);
}

void thread_ask(struct thread *thread, struct call *call)
{
    thread->call = *call;
    need_dispatcher(thread, THREAD_ASKING);
    wait_for_release(thread->number);
    *call = thread->call;
}

static void set_interruptible(struct thread *thread, byte interruptible)
{
    *(volatile byte *)&thread->interruptible = interruptible;
}

void thread_allow_interrupts(struct thread *thread)
{
    if (!thread)
        return;
    /* In this order: the dispatcher either finds the thread interruptible, or is found to have waited. */
    set_interruptible(thread, 1);
    while (*(volatile byte *)&thread->interrupt_waits) {
        set_interruptible(thread, 0);
        thread->interrupt_waits = 0;
        need_dispatcher(thread, THREAD_YIELDING);
        wait_for_release(thread->number);
        set_interruptible(thread, 1);
    }
}

void thread_forbid_interrupts(struct thread *thread)
{
    if (thread)
        set_interruptible(thread, 0);
}

void thread_main(word number)
{
    struct thread *thread = &threads[number];
    for (;;) {
        wait_for_release(number);
        struct call call = thread->call;
        thread->serve(thread, &call);
        thread->call = call;
        need_dispatcher(thread, THREAD_FREE);
    }
}
