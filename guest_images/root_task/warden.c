/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The warden of the turns: a thread of the root task at the lowest priority. It runs when all victims
 * wait, so whoever should take the next call cannot, or has not been told. The warden gives it the
 * turn, lets it go on where it has lost its way, ends the time of a domain, and in the end passes
 * over its call. So a program goes on whatever becomes of a victim.
 */
#include "supervisor.h"

#define COMMAND_PAGE(field) (*(volatile word *)(EXCHANGE_WINDOW + BW_EXCHANGE_COMMAND + (field)))
#define RECORD(index) ((const volatile byte *)EXCHANGE_WINDOW + BW_EXCHANGE_PROGRAM + (index) * BW_CALL_BYTES)
/* As many expiries of the timer as the longest time of a domain in the kernel's schedule */
#define TICKS 8

extern const word victim_image[]; /* begins with the table of entries */
extern byte writable_start[], writable_end[];

static word own_pages; /* physical */
static word other_stack[64], warden_stack[256];
static volatile word *warden_buffer;

/* Before the capabilities to the image's frames are out of reach */
void find_own_pages(const seL4_BootInfo *info)
{
    word first = ((word)writable_start - SUPERVISOR_IMAGE) / BW_PAGE;
    require(invoke(info->userImageFrames.start + first, ARMPageGetAddress, 0, 0, 0, 0), first);
    own_pages = message[0];
}

void report_own_pages(void)
{
    report(own_pages, (word)(writable_end - writable_start), BW_KIND_SUPERVISOR, 0, BW_NO_OBJECT);
}

static void expire_timer(void)
{
    ask_el3(COMMAND_PAGE(BW_EXCHANGE_NONCE), BW_REQUEST_INTERRUPT, TIMER_LINE, 1, 0);
}

/* In the second domain: nothing else runs there, so its time may end. */
static void end_domain(void)
{
    for (;;)
        expire_timer();
}

/* The victim's number, or NORMAL_WORLD */
static word performer_of(word index)
{
    const volatile byte *row = RECORD(index);
#ifdef NORMAL_WORLD
    if (row[0] % CALL_TYPES >= FIRST_NORMAL_CALL)
        return NORMAL_WORLD;
#endif
    return row[1] % VICTIMS;
}

static void give_turn(word performer)
{
    struct message m = {.target = turn_of(performer)};
    system_call((word)SysNBSend, &m);
    m = (struct message){0};
    system_call((word)SysYield, &m); /* others of the lowest priority */
}

static word moved_on(word next, word repetition)
{
    return COMMAND_PAGE(BW_EXCHANGE_NEXT_CALL) != next || COMMAND_PAGE(BW_EXCHANGE_REPETITION) != repetition;
}

static void block(void)
{
    struct message m = {.target = V_ENDPOINT};
    system_call((word)SysRecv, &m); /* nobody else has this endpoint: EL3 sees the kernel idle */
}

static void watch_over_turns(void)
{
    ipc_buffer = warden_buffer;
    give_turn(0); /* the snapshot */
    for (;;) {
        word calls = COMMAND_PAGE(BW_EXCHANGE_CALLS), stop_after = COMMAND_PAGE(BW_EXCHANGE_STOP_AFTER);
        word next = COMMAND_PAGE(BW_EXCHANGE_NEXT_CALL), repetition = COMMAND_PAGE(BW_EXCHANGE_REPETITION);
        if (next >= (stop_after && stop_after < calls ? stop_after : calls)) {
            if (stop_after || repetition >= COMMAND_PAGE(BW_EXCHANGE_REPETITIONS))
                block();
            COMMAND_PAGE(BW_EXCHANGE_REPETITION) = repetition + 1;
            COMMAND_PAGE(BW_EXCHANGE_NEXT_CALL) = 0;
            continue;
        }
        word owner = performer_of(next);
        give_turn(owner);
        if (moved_on(next, repetition))
            continue;
        if (COMMAND_PAGE(BW_EXCHANGE_DOMAINS)) {
            for (word i = 0; i < TICKS && !moved_on(next, repetition); i++)
                expire_timer();
            if (moved_on(next, repetition))
                continue;
        }
        if (owner < VICTIMS && !COMMAND_PAGE(BW_EXCHANGE_PERFORMING + owner * sizeof(word))) {
            /* Not in a call: it could not wait for its turn, or somebody has stopped it. */
            word mr[] = {1, 4, victim_image[RESUME], VICTIM_STATE + BW_PAGE, 0, owner};
            if (!invoke(OWN(owner, OWN_TCB), TCBWriteRegisters, 0, 0, 6, mr)) {
                give_turn(owner);
                if (moved_on(next, repetition))
                    continue;
            }
        }
        volatile byte *result = (volatile byte *)EXCHANGE_WINDOW + BW_EXCHANGE_RESULTS + next * BW_RESULT_BYTES;
        *(volatile half *)(result + BW_RESULT_VICTIM) = (half)owner;
        *(volatile half *)(result + BW_RESULT_STATE) = BW_CALL_SKIPPED;
        COMMAND_PAGE(BW_EXCHANGE_NEXT_CALL) = next + 1;
    }
}

/* Threads of the lowest priority in the supervisor's spaces. The initial thread's own memory is not compared. */
static void make_warden(word thread, word buffer_frame, word buffer, word entry, word *stack_top)
{
    make_thread(thread);
    word caps[] = {V_SELF, V_VSPACE, buffer_frame};
    require(invoke(thread, TCBConfigure, 3, caps, 5, (word[]){0, 0, 0, 0, buffer}), thread);
    set_registers(thread, 0, entry, (word)stack_top, 0);
}

void start_wardens(void)
{
    word domain = 1, thread = V_OTHER_DOMAIN;
    make_warden(thread, V_SELF, 0, (word)end_domain, other_stack + 64);
    require(invoke(V_DOMAIN, DomainSetSet, 1, &thread, 1, &domain), thread);

    word buffer = allocate(OBJECT_PAGE_4K, 0, 0, V_WARDEN_BUFFER, 1);
    report(buffer, BW_PAGE, BW_KIND_SUPERVISOR, 0, BW_NO_OBJECT);
    map_frame(V_WARDEN_BUFFER, V_VSPACE, WARDEN_BUFFER, 3, ATTRIBUTES_DATA);
    warden_buffer = (volatile word *)WARDEN_BUFFER;
    make_warden(V_WARDEN, V_WARDEN_BUFFER, WARDEN_BUFFER, (word)watch_over_turns, warden_stack + 256);
    require(invoke(thread, TCBResume, 0, 0, 0, 0), thread);
    require(invoke(V_WARDEN, TCBResume, 0, 0, 0, 0), thread);
}
