/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A victim: it takes its turns in a program and performs each call with raw registers. What a
 * call does to the victim itself (it blocks, or loses its spaces) is an ordinary result: the other
 * victims go on. When it faults, its nurse lets it go on behind the call (victim_entry.S).
 *
 * All victims run this image, each in its own spaces. It has no writable data: what it needs lies
 * in registers, on the stack, and in the exchange area.
 */
#include "decoder.h"
#include "protocol.h"
#include "system_call.h"

/* Turns that a victim gives up before it takes another one for absent */
#define PATIENCE (2 * VICTIMS)

#define COMMAND_PAGE(field) (*(volatile word *)(VICTIM_EXCHANGE + BW_EXCHANGE_COMMAND + (field)))
#define PROGRAM ((const byte *)VICTIM_EXCHANGE + BW_EXCHANGE_PROGRAM)
#define IPC_BUFFER ((volatile word *)VICTIM_STATE)

static void yield(void)
{
    struct message m = {0};
    system_call((word)SYSTEM_CALL_YIELD, &m);
}

/* Performs one call and leaves what it answered in the result. */
static void perform(word index, volatile byte *result)
{
    struct decoded d;
    decode(PROGRAM, index, &d);
    const struct call_type *type = d.type;
    struct message m = {d.target, d.info, {d.words[0], d.words[1], d.words[2], d.words[3]}};

    if (type->action == ACTION_RECEIVE) {
        IPC_BUFFER[IPC_RECEIVE_ROOT] = d.words[0];
        IPC_BUFFER[IPC_RECEIVE_INDEX] = d.words[1];
        IPC_BUFFER[IPC_RECEIVE_DEPTH] = d.words[2];
        m.info = 0;
    } else {
        for (word i = 4; i < type->words; i++)
            IPC_BUFFER[IPC_MESSAGE + i] = d.words[i];
        for (word i = 0; i < type->caps; i++)
            IPC_BUFFER[IPC_CAPS + i] = d.caps[i];
    }
    if (type->action == ACTION_LOAD)
        m.mr[0] = *(volatile word *)d.target;
    else
        system_call(type->system_call, &m);

    word answered = 0, badge = 0, info = 0, error = 0;
    if (type->action == ACTION_LOAD) {
        answered = 1;
    } else if (type->action != ACTION_SEND && type->action != ACTION_PLAIN) {
        badge = m.target;
        info = m.info;
        answered = INFO_LENGTH(info);
        if (type->action == ACTION_INVOKE)
            error = INFO_LABEL(info);
    }
    *(volatile word *)(result + BW_RESULT_ERROR) = error;
    *(volatile word *)(result + BW_RESULT_INFO) = info;
    *(volatile word *)(result + BW_RESULT_BADGE) = badge;
    volatile word *mr = (volatile word *)(result + BW_RESULT_MR);
    for (word i = 0; i < BW_RESULT_REGISTERS; i++)
        mr[i] = i >= answered ? 0 : i < 4 ? m.mr[i] : IPC_BUFFER[IPC_MESSAGE + i];
    *(volatile half *)(result + BW_RESULT_STATE) = BW_CALL_DONE;
    COMMAND_PAGE(BW_EXCHANGE_PERFORMED)++;
    if (!error)
        COMMAND_PAGE(BW_EXCHANGE_SUCCEEDED)++;
}

/* Kept in memory for the case that the call faults: 1 + the index of the call being performed, or 0 */
#define PERFORMING (*(volatile word *)VICTIM_PERFORMING)

static volatile byte *begin_result(word index, word state, word victim)
{
    volatile byte *result = (volatile byte *)VICTIM_EXCHANGE + BW_EXCHANGE_RESULTS + index * BW_RESULT_BYTES;
    *(volatile half *)(result + BW_RESULT_VICTIM) = (half)victim;
    *(volatile half *)(result + BW_RESULT_STATE) = (half)state;
    return result;
}

static void decode_all(word calls)
{
    byte *table = (byte *)VICTIM_EXCHANGE + BW_EXCHANGE_DECODED;
    for (word i = 0; i < calls; i++)
        write_decoded(PROGRAM, i, table + i * BW_DECODED_BYTES);
}

/* Gives the caller of the last call a chance to return from it, so that its result tells what became of it. */
static void wait_for_last(word next, word self)
{
    if (!next || record_victim(PROGRAM, next - 1) == self)
        return;
    const volatile byte *result = (const volatile byte *)VICTIM_EXCHANGE + BW_EXCHANGE_RESULTS + (next - 1) * BW_RESULT_BYTES;
    for (word i = 0; i < PATIENCE && *(const volatile half *)(result + BW_RESULT_STATE) == BW_CALL_STARTED; i++)
        yield();
}

/* Whether the turn was passed on while this victim waited. */
static word wait_for_turn(word next)
{
    word repetition = COMMAND_PAGE(BW_EXCHANGE_REPETITION);
    for (word i = 0; i < PATIENCE; i++) {
        yield();
        if (COMMAND_PAGE(BW_EXCHANGE_NEXT_CALL) != next || COMMAND_PAGE(BW_EXCHANGE_REPETITION) != repetition)
            return 1;
    }
    return 0;
}

static void take_turns(word self)
{
    for (;;) {
        word calls = COMMAND_PAGE(BW_EXCHANGE_CALLS), stop_after = COMMAND_PAGE(BW_EXCHANGE_STOP_AFTER);
        word next = COMMAND_PAGE(BW_EXCHANGE_NEXT_CALL);
        word end = stop_after && stop_after < calls ? stop_after : calls;
        word decode_only = COMMAND_PAGE(BW_EXCHANGE_COMMAND_FIELD) & BW_COMMAND_DECODE_ONLY;
        if (decode_only)
            decode_all(calls);
        if (decode_only || next >= end) {
            word repetition = COMMAND_PAGE(BW_EXCHANGE_REPETITION);
            if (!decode_only && !stop_after && repetition < COMMAND_PAGE(BW_EXCHANGE_REPETITIONS)) {
                COMMAND_PAGE(BW_EXCHANGE_REPETITION) = repetition + 1;
                COMMAND_PAGE(BW_EXCHANGE_NEXT_CALL) = 0;
            } else {
                if (!decode_only)
                    wait_for_last(next, self);
                wait_for_host(COMMAND_PAGE(BW_EXCHANGE_NONCE));
            }
            continue;
        }
        word owner = record_victim(PROGRAM, next);
        if (owner != self) {
            if (wait_for_turn(next))
                continue;
            begin_result(next, BW_CALL_SKIPPED, owner);
            COMMAND_PAGE(BW_EXCHANGE_NEXT_CALL) = next + 1;
            continue;
        }
        volatile byte *result = begin_result(next, BW_CALL_STARTED, self);
        COMMAND_PAGE(BW_EXCHANGE_CURRENT_CALL) = next;
        COMMAND_PAGE(BW_EXCHANGE_NEXT_CALL) = next + 1;
        PERFORMING = next + 1;
        perform(next, result);
        PERFORMING = 0;
    }
}

void victim_main(word self)
{
    COMMAND_PAGE(BW_EXCHANGE_READY) |= 1ul << self;
    /* The first park is the snapshot: victim 0 makes it when all others wait for a program. */
    if (self) {
        while (!COMMAND_PAGE(BW_EXCHANGE_CALLS))
            yield();
    } else {
        while (COMMAND_PAGE(BW_EXCHANGE_READY) != (1ul << VICTIMS) - 1)
            yield();
        wait_for_host(COMMAND_PAGE(BW_EXCHANGE_NONCE));
    }
    take_turns(self);
}

/* The victim starts again here after a fault. */
void victim_faulted(word self, word fault, word mr0, word mr1, word mr2, word mr3)
{
    word performing = PERFORMING;
    if (performing) {
        volatile byte *result = begin_result(performing - 1, BW_CALL_FAULTED, self);
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
        COMMAND_PAGE(BW_EXCHANGE_PERFORMED)++;
        PERFORMING = 0;
    }
    take_turns(self);
}
