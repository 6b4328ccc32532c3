/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Turns: whoever finds that the next call is another performer's passes the turn to that one and waits
 * for its own. All that is kept of it lies in the exchange area.
 */
#include "turns.h"

#ifdef NORMAL_WORLD
/* The dispatcher, which passes the turn on to the normal world, is above all victims. */
static const byte priorities[] = {VICTIM_PRIORITIES, 255};
#else
static const byte priorities[] = {VICTIM_PRIORITIES};
#endif

/* The call is being performed, unless the result says something else later. */
volatile byte *begin_result(word index, word performer)
{
    volatile byte *result = (volatile byte *)EXCHANGE + BW_EXCHANGE_RESULTS + index * BW_RESULT_BYTES;
    *(volatile half *)(result + BW_RESULT_VICTIM) = (half)performer;
    *(volatile half *)(result + BW_RESULT_STATE) = BW_CALL_STARTED;
    return result;
}

void end_result(volatile byte *result, word state)
{
    *(volatile half *)(result + BW_RESULT_STATE) = (half)state;
    COMMAND_PAGE(BW_EXCHANGE_PERFORMED)++;
}

static void decode_all(word calls)
{
    byte *table = (byte *)EXCHANGE + BW_EXCHANGE_DECODED;
    for (word i = 0; i < calls; i++)
        write_decoded(PROGRAM, i, table + i * BW_DECODED_BYTES);
}

/*
 * At the end of a program: lets others return from their calls, so that the results tell what became
 * of them. Whether it had to wait for the last call, and the program has to be looked at again.
 */
static word settle(word next, word self)
{
    if (COMMAND_PAGE(BW_EXCHANGE_BEGUN) == COMMAND_PAGE(BW_EXCHANGE_PERFORMED))
        return 0;
    const volatile byte *last = (const volatile byte *)EXCHANGE + BW_EXCHANGE_RESULTS + (next - 1) * BW_RESULT_BYTES;
    if (*(const volatile half *)(last + BW_RESULT_STATE) == BW_CALL_STARTED && performer_of(PROGRAM, next - 1) != self) {
        wait_for_turn(self);
        return 1;
    }
    let_others_run();
    return 0;
}

/*
 * Before a call that may block: the performer of the next one is ready then. One of higher priority
 * would make it before this one, so that is left to the warden. Whether the turn was passed.
 */
static word pass_ahead(const struct call_type *type, word next, word end, word self)
{
    if (type->action != ACTION_SEND && type->action != ACTION_TRANSFER && type->action != ACTION_RECEIVE)
        return 0;
    if (next + 1 >= end)
        return 0;
    word owner = performer_of(PROGRAM, next + 1);
    if (owner == self || priorities[owner] > priorities[self])
        return 0;
    pass_turn(owner);
    return 1;
}

void take_turns(word self)
{
    word passed = 0; /* the turn of the next call has been passed on */
    for (;;) {
        word calls = COMMAND_PAGE(BW_EXCHANGE_CALLS), stop_after = COMMAND_PAGE(BW_EXCHANGE_STOP_AFTER);
        word next = COMMAND_PAGE(BW_EXCHANGE_NEXT_CALL);
        word end = stop_after && stop_after < calls ? stop_after : calls;
        word owner = next < end ? performer_of(PROGRAM, next) : self;
        /* All victims run one image: any of them decodes, but the normal world its own programs. */
        word decode_only = COMMAND_PAGE(BW_EXCHANGE_COMMAND_FIELD) & BW_COMMAND_DECODE_ONLY;
        if (decode_only && owner >= VICTIMS && owner != self)
            decode_only = 0;
        if (decode_only)
            decode_all(calls);
        if (decode_only || next >= end) {
            word repetition = COMMAND_PAGE(BW_EXCHANGE_REPETITION);
            if (!decode_only && !stop_after && repetition < COMMAND_PAGE(BW_EXCHANGE_REPETITIONS)) {
                COMMAND_PAGE(BW_EXCHANGE_REPETITION) = repetition + 1;
                COMMAND_PAGE(BW_EXCHANGE_NEXT_CALL) = 0;
            } else if (decode_only || !next || !settle(next, self)) {
                end_program();
            }
            continue;
        }
        if (owner != self) {
            if (!passed)
                pass_turn(owner);
            passed = 0;
            wait_for_turn(self);
            continue;
        }
        volatile byte *result = begin_result(next, self);
        COMMAND_PAGE(BW_EXCHANGE_CURRENT_CALL) = next;
        COMMAND_PAGE(BW_EXCHANGE_NEXT_CALL) = next + 1;
        COMMAND_PAGE(BW_EXCHANGE_BEGUN)++;
        PERFORMING(self) = next + 1;
        struct decoded d;
        decode(PROGRAM, next, &d);
        passed = pass_ahead(d.type, next, end, self);
        perform(&d, self, result);
        PERFORMING(self) = 0;
    }
}
