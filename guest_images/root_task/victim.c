/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A victim: it takes its turns in a program and performs each call with raw registers. What a
 * call does to the victim itself (it blocks, or loses its spaces) is an ordinary result: the other
 * victims go on. When it faults, its nurse lets it go on behind the call (victim_entry.S).
 *
 * Turns (turns.c) are passed by notifications: each victim waits at its own, and signals those of the
 * others. Priorities do not matter, and if the other one cannot take its turn, everybody waits and
 * the warden (warden.c) takes care of it.
 *
 * All victims run this image, each in its own spaces. It has no writable data: what it needs lies
 * in registers, on the stack, and in the exchange area.
 */
#include "turns.h"
#include "system_call.h"

#define IPC_BUFFER ((volatile word *)VICTIM_STATE)
/* Line and count of an interrupt that waits for the victim's next system call, or 0 */
#define WAITING_INTERRUPT(victim) COMMAND_PAGE(BW_EXCHANGE_INTERRUPT + (victim) * sizeof(word))
#define INTERRUPT_COUNT_SHIFT 16

static word ask(word request, word a, word b, word c)
{
    return ask_el3(COMMAND_PAGE(BW_EXCHANGE_NONCE), request, a, b, c);
}

void pass_turn(word performer)
{
    struct message m = {.target = FIRST_TURN_SLOT + performer};
    system_call((word)SYSTEM_CALL_NBSEND, &m);
}

void wait_for_turn(word self)
{
    struct message m = {.target = FIRST_TURN_SLOT + self};
    system_call((word)SYSTEM_CALL_RECV, &m);
}

void let_others_run(void)
{
    struct message m = {0};
    system_call((word)SYSTEM_CALL_YIELD, &m);
}

void end_program(void)
{
    wait_for_host(COMMAND_PAGE(BW_EXCHANGE_NONCE));
}

static word within(word address, word start, word end)
{
    return address >= start && address < end;
}

/* Eight bytes, unless they belong to the harness. Whether it stored. */
static word store(word address, word value)
{
    address &= -8ul;
    if (within(address, VICTIM_STATE + IPC_BUFFER_BYTES, VICTIM_STATE + BW_PAGE) || !ask(BW_REQUEST_STORE, address, 0, 0))
        return 0;
    *(volatile word *)address = value;
    return 1;
}

/* Whether it called: a victim that runs its own code from anywhere in it would be no victim any more. */
static word jump(word address)
{
    if (within(address, VICTIM_CODE, VICTIM_STATE))
        return 0;
    __asm__ volatile("blr %0"
                     :
                     : "r"(address)
                     : "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14",
                       "x15", "x16", "x17", "x18", "x30", "memory");
    return 1;
}

/* Writes d0 and returns what it held. The first access after another thread's traps to the kernel. */
static word exchange_floating_point(word value)
{
    register word old __asm__("x0");
    register word new __asm__("x1") = value;
    __asm__ volatile(".inst 0x9e660000\n\t" /* fmov x0, d0 */
                     ".inst 0x9e670020"     /* fmov d0, x1 */
                     : "=r"(old)
                     : "r"(new));
    return old;
}

/* What no system call takes part in; the label of an answer that says no if the victim refused. */
static word perform_alone(const struct decoded *d, struct message *m, word self)
{
    switch (d->type->action) {
    case ACTION_LOAD:
        m->mr[0] = *(volatile word *)d->target;
        return 0;
    case ACTION_STORE:
        return !store(d->target + d->words[0], d->words[1]);
    case ACTION_JUMP:
        return !jump(d->target);
    case ACTION_FLOATING_POINT:
        m->mr[0] = exchange_floating_point(d->words[0]);
        return 0;
    case ACTION_INTERRUPT:
        if (d->words[2])
            WAITING_INTERRUPT(self) = d->words[0] | d->words[1] << INTERRUPT_COUNT_SHIFT;
        else
            ask(BW_REQUEST_INTERRUPT, d->words[0], d->words[1], 0);
        return 0;
    default:
        __asm__ volatile(".inst 0");
        return 0;
    }
}

/* The system call, and the interrupt that was to be pending in it: the victim itself has interrupts masked until then. */
static void perform_system_call(word number, struct message *m, word self)
{
    word interrupt = WAITING_INTERRUPT(self);
    if (interrupt) {
        WAITING_INTERRUPT(self) = 0;
        ask(BW_REQUEST_INTERRUPT, interrupt & ((1ul << INTERRUPT_COUNT_SHIFT) - 1), interrupt >> INTERRUPT_COUNT_SHIFT, 1);
    }
    system_call(number, m);
    if (interrupt)
        ask(BW_REQUEST_UNMASK, 0, 0, 0);
}

/* Performs one call and leaves what it answered in the result. */
void perform(const struct decoded *d, word self, volatile byte *result)
{
    const struct call_type *type = d->type;
    struct message m = {d->target, d->info, {d->words[0], d->words[1], d->words[2], d->words[3]}};

    if (type->action == ACTION_RECEIVE) {
        IPC_BUFFER[IPC_RECEIVE_ROOT] = d->words[0];
        IPC_BUFFER[IPC_RECEIVE_INDEX] = d->words[1];
        IPC_BUFFER[IPC_RECEIVE_DEPTH] = d->words[2];
        m.info = 0;
    } else {
        for (word i = 4; i < type->words; i++)
            IPC_BUFFER[IPC_MESSAGE + i] = d->words[i];
        for (word i = 0; i < type->caps; i++)
            IPC_BUFFER[IPC_CAPS + i] = d->caps[i];
    }
    if (type->action == ACTION_INVOKE && INFO_LABEL(type->info) == LABEL_DOMAIN_SET)
        COMMAND_PAGE(BW_EXCHANGE_DOMAINS) = 1; /* before: it may be the victim itself that goes */
    word answered = 0, badge = 0, info = 0, error = 0;
    if (type->action == ACTION_UNKNOWN)
        perform_system_call(d->words[0], &m, self);
    else if (type->action > ACTION_PLAIN)
        error = perform_alone(d, &m, self);
    else
        perform_system_call(type->system_call, &m, self);

    if (type->action == ACTION_LOAD || type->action == ACTION_FLOATING_POINT) {
        answered = 1;
    } else if (type->action == ACTION_INVOKE || type->action == ACTION_TRANSFER || type->action == ACTION_RECEIVE) {
        badge = m.target;
        info = m.info;
        answered = INFO_LENGTH(info);
        if (type->action == ACTION_INVOKE)
            error = INFO_LABEL(info);
        /* The kernel leaves the address in a register, and then says that the answer has no words. */
        if (type->action == ACTION_INVOKE && INFO_LABEL(type->info) == LABEL_PAGE_GET_ADDRESS && !error)
            answered = 1;
    }
    *(volatile word *)(result + BW_RESULT_ERROR) = error;
    *(volatile word *)(result + BW_RESULT_INFO) = info;
    *(volatile word *)(result + BW_RESULT_BADGE) = badge;
    volatile word *mr = (volatile word *)(result + BW_RESULT_MR);
    for (word i = 0; i < BW_RESULT_REGISTERS; i++)
        mr[i] = i >= answered ? 0 : i < 4 ? m.mr[i] : IPC_BUFFER[IPC_MESSAGE + i];
    end_result(result, BW_CALL_DONE);
    if (!error)
        COMMAND_PAGE(BW_EXCHANGE_SUCCEEDED)++;
}

void victim_main(word self)
{
    wait_for_turn(self);
    /* The first park is the snapshot: the warden lets victim 0 make it when all wait. */
    if (!self)
        wait_for_host(COMMAND_PAGE(BW_EXCHANGE_NONCE));
    take_turns(self);
}

/* The victim starts again here after a fault. */
void victim_faulted(word self, word fault, word mr0, word mr1, word mr2, word mr3)
{
    word performing = PERFORMING(self);
    if (performing) {
        volatile byte *result = begin_result(performing - 1, self);
        volatile word *mr = (volatile word *)(result + BW_RESULT_MR);
        *(volatile word *)(result + BW_RESULT_ERROR) = fault;
        *(volatile word *)(result + BW_RESULT_INFO) = 0;
        *(volatile word *)(result + BW_RESULT_BADGE) = 0;
        mr[0] = mr0;
        mr[1] = mr1;
        mr[2] = mr2;
        mr[3] = mr3;
        for (word i = 4; i < BW_RESULT_REGISTERS; i++)
            mr[i] = 0;
        end_result(result, BW_CALL_FAULTED);
        PERFORMING(self) = 0;
    }
    take_turns(self);
}
