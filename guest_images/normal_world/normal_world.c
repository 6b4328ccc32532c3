/* SPDX-License-Identifier: BSD-2-Clause */
/* The normal world's turns in a program, and what it does for each of its calls. */
#include "turns.h"
#include "normal_world.h"
#include "normal_functions.h"
#include "system_call.h"
#include "trusted_messages.h"

#define GICD_CTLR 0x000
#define GICD_ISENABLER 0x100
#define GICD_ISPENDR 0x200
#define GICD_SGIR 0xf00
#define GICD_SGIR_SELF (2u << 24)
#define GICC_CTLR 0x000
#define GICC_PMR 0x004
#define SOFTWARE_LINES 16

#define RPC_FOREIGN_INTERRUPT 0xffff0004ul
#define REQUEST (~0ul) /* in place of an SMC's immediate */
#define HASH_START 0xcbf29ce484222325ul
#define HASH_FACTOR 0x100000001b3ul
#define SHOWN_INDICES 8 /* of registers that came back changed */
#define SHOWN_VALUES 2
#define DYNAMIC_MASK (~0ul << 16)

static const struct range {
    word base, end;
} refused[] = {REFUSED_RANGES}, controllers[] = {CONTROLLER_RANGES};
static const half own_lines[] = {OWN_LINES}; /* a bit each */

static const word general_patterns[] = {GENERAL_PATTERNS};
static const word vector_patterns[] __attribute__((aligned(16))) = {VECTOR_PATTERNS};
const word system_patterns[] = {SYSTEM_PATTERNS}; /* start.S writes them */

static word next_turn = NORMAL_WORLD; /* who gets the turn; itself: nobody */
static word given[GIVEN_REGISTERS];   /* what the next SMC's registers hold */
static half is_given;                 /* a bit each */
static word during_next_call;         /* an interrupt is pending, to be taken in the secure world first */
static word answers[RESULT_REGISTERS];
static word vectors[VECTOR_HALVES] __attribute__((aligned(16))); /* what q0-q31 held after the last SMC */
static word message;                  /* where the last message of a call lies, or 0 */
static word sessions[REMEMBERED_SESSIONS], opened;

static word turn(word performer)
{
    register word x0 __asm__("x0") = NORMAL_PASS_TURN;
    register word x1 __asm__("x1") = performer;
    __asm__ volatile("smc #0"
                     : "+r"(x0), "+r"(x1)
                     :
                     : "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16",
                       "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x30", "memory");
    return x0;
}

/* Victims get it from the dispatcher, which the SMC of wait_for_turn tells. */
void pass_turn(word performer)
{
    next_turn = performer;
}

void wait_for_turn(word self)
{
    word performer = next_turn, answer;
    next_turn = self;
    while ((answer = turn(performer)) == RPC_FOREIGN_INTERRUPT) {
        take_interrupts();
        performer = self;
    }
    if (answer)
        broken(); /* nobody takes the turn */
}

void let_others_run(void)
{
}

/* Parks. While an interrupt is pending, WFI does nothing: then it is none that the CPU interface signals. */
void end_program(void)
{
    register word x0 __asm__("x0") = COMMAND_PAGE(BW_EXCHANGE_NONCE);
    __asm__ volatile("wfi" : "+r"(x0) : : "memory");
    if (x0) {
        controller_store(GICC_BASE + GICC_CTLR, 4, 0);
        wait_for_host(COMMAND_PAGE(BW_EXCHANGE_NONCE));
    }
}

static word inside(const struct range *ranges, word count, word address)
{
    for (word i = 0; i < count; i++)
        if (address >= ranges[i].base && address < ranges[i].end)
            return 1;
    return 0;
}
#define INSIDE(ranges, address) inside(ranges, sizeof(ranges) / sizeof *(ranges), address)

/* What a value stands for that only the run can tell */
static word resolve(word value)
{
    word n = value & 0xff;
    switch (value & ~0xfful) {
    case LATEST_SESSION:
        return n < opened && n < REMEMBERED_SESSIONS ? sessions[(opened - 1 - n) % REMEMBERED_SESSIONS] : 0;
    case FIRST_SESSION:
        return n < opened && opened <= REMEMBERED_SESSIONS ? sessions[n] : 0;
    case ANSWER:
        return n < RESULT_REGISTERS ? answers[n] : 0;
    default:
        return value;
    }
}

/* Whether an SMC brings the Trusted OS a message, or resumes the call that did */
static word note_message(const word *x)
{
    if ((half)x[0] == NORMAL_OPTEE_CALL_WITH_ARG)
        message = x[1] << 32 | (half)x[2];
    else if ((half)x[0] != NORMAL_OPTEE_RETURN_FROM_RPC)
        return 0;
    begin_log(COMMAND_PAGE(BW_EXCHANGE_CURRENT_CALL), x[7], message);
    return 1;
}

/* A call that opens a session shows its id in the message. */
static void note_session(word answer)
{
    end_log(answer);
    if (answer || message % 8 || message < SHARED_BASE || message > SHARED_END - MESSAGE_BYTES)
        return;
    const volatile half *fields = (const volatile half *)message;
    if (fields[MESSAGE_COMMAND / 4] == COMMAND_OPEN_SESSION && !fields[MESSAGE_RESULT / 4])
        sessions[opened++ % REMEMBERED_SESSIONS] = fields[MESSAGE_SESSION / 4];
    message = 0;
}

/* Registers that came back changed, and are no results */
struct differences {
    word count, digest, indices, values[SHOWN_VALUES];
};

static void note_difference(struct differences *d, word index, word value)
{
    d->digest = ((d->digest ^ index) * HASH_FACTOR ^ value) * HASH_FACTOR;
    if (d->count < SHOWN_INDICES)
        d->indices |= (index + 1) << d->count * 8;
    if (d->count < SHOWN_VALUES)
        d->values[d->count] = value;
    d->count++;
}

/* Registers below xfirst hold results. */
static void compare(struct differences *d, const word *before, const word *after, word first)
{
    word system[SYSTEM_REGISTERS];
    read_system(system);
    for (word i = first; i < GENERAL_REGISTERS; i++)
        if (after[i] != before[i])
            note_difference(d, i, after[i]);
    for (word i = 0; i < VECTOR_HALVES; i++)
        if (vectors[i] != vector_patterns[i])
            note_difference(d, GENERAL_REGISTERS + i, vectors[i]);
    for (word i = 0; i < SYSTEM_REGISTERS; i++)
        if (system[i] != expected_system[i]) {
            note_difference(d, GENERAL_REGISTERS + VECTOR_HALVES + i, system[i]);
            expected_system[i] = system[i]; /* told once */
        }
}

static void show_differences(const struct differences *d, volatile byte *result)
{
    volatile word *more = (volatile word *)(result + BW_RESULT_RESERVED);
    *(volatile word *)(result + BW_RESULT_INFO) = d->count;
    more[0] = d->count ? d->digest : 0;
    more[1] = d->indices;
    for (word i = 0; i < SHOWN_VALUES; i++)
        more[2 + i] = d->values[i];
}

static void monitor_call(const struct decoded *d, volatile byte *result)
{
    word x[GENERAL_REGISTERS], before[GENERAL_REGISTERS], interrupts = exceptions.interrupts;
    for (word i = 0; i < GENERAL_REGISTERS; i++) {
        word value = i < 8 ? resolve(d->words[i]) : general_patterns[i];
        if (i < GIVEN_REGISTERS && is_given >> i & 1)
            value = given[i];
        x[i] = before[i] = value;
    }
    is_given = 0;
    word brings_message = note_message(x);
    call_monitor(x, vectors, d->words[8], vector_patterns, !during_next_call);
    struct differences differences = {.digest = HASH_START};
    compare(&differences, before, x, RESULT_REGISTERS);
    if (during_next_call)
        take_interrupts();
    during_next_call = 0;
    for (word i = 0; i < RESULT_REGISTERS; i++)
        answers[i] = x[i];
    if (brings_message)
        note_session(x[0]);

    interrupts = exceptions.interrupts - interrupts;
    *(volatile word *)(result + BW_RESULT_BADGE) = interrupts ? interrupts << 16 | exceptions.line : 0;
    volatile word *mr = (volatile word *)(result + BW_RESULT_MR);
    for (word i = 0; i < BW_RESULT_REGISTERS; i++)
        mr[i] = x[i];
    show_differences(&differences, result);
}

/* 0, 1 if the program refuses it, 2 if it faulted */
static word access(const struct decoded *d, word address, word *value)
{
    word bytes = d->words[1], store = d->type->action == ACTION_NORMAL_STORE;
    if (INSIDE(refused, address))
        return 1;
    if (store)
        *value = resolve(d->words[2]);
    word faulted;
    if (INSIDE(controllers, address))
        faulted = store ? controller_store(address, bytes, *value) : controller_load(address, bytes, value);
    else
        faulted = store ? probe_store(address, bytes, *value) : probe_load(address, bytes, value);
    return faulted ? 2 : 0;
}

static void make_pending(word line)
{
    if (line < SOFTWARE_LINES)
        controller_store(GICD_BASE + GICD_SGIR, 4, GICD_SGIR_SELF | line);
    else
        controller_store(GICD_BASE + GICD_ISPENDR + line / 32 * 4, 4, 1u << line % 32);
}

/* EL3 makes a line of the secure world pending. It comes at the next instruction, with a pattern in every register. */
static void interrupt_by_secure(word line, volatile byte *result)
{
    word x[GENERAL_REGISTERS], before[GENERAL_REGISTERS];
    for (word i = 0; i < GENERAL_REGISTERS; i++)
        x[i] = general_patterns[i];
    x[0] = COMMAND_PAGE(BW_EXCHANGE_NONCE);
    x[1] = BW_REQUEST_INTERRUPT;
    x[2] = line;
    x[3] = 1; /* once */
    x[4] = 0; /* interrupts stay as they are */
    for (word i = 0; i < GENERAL_REGISTERS; i++)
        before[i] = x[i];
    call_monitor(x, vectors, REQUEST, vector_patterns, 0);
    struct differences differences = {.digest = HASH_START};
    compare(&differences, before, x, 1);
    show_differences(&differences, result);
}

/* A line of its own, or one of the secure world, which interrupts it at once. */
static void interrupt(word line, word next_call, volatile byte *result)
{
    if (!(own_lines[line / 32 % (sizeof(own_lines) / sizeof *own_lines)] >> line % 32 & 1)) {
        interrupt_by_secure(line, result);
        return;
    }
    make_pending(line);
    if (next_call)
        during_next_call = 1;
    else
        take_interrupts();
}

static void write_words(word address, word value, word count)
{
    for (word i = 0; i < count; i++)
        put(address + i * sizeof(word), value);
}

/* The plugin sees it, and changes the memory when the Trusted OS has read the page so often. */
static void change(const struct decoded *d)
{
    word bytes = d->words[1];
    COMMAND_PAGE(BW_EXCHANGE_CHANGE_READS) = 0;
    COMMAND_PAGE(BW_EXCHANGE_CHANGE_ADDRESS) = (d->target + d->words[0]) & -bytes;
    COMMAND_PAGE(BW_EXCHANGE_CHANGE_BYTES) = bytes;
    COMMAND_PAGE(BW_EXCHANGE_CHANGE_VALUE) = resolve(d->words[2]);
    COMMAND_PAGE(BW_EXCHANGE_CHANGE_READS) = d->words[3];
}

void perform(const struct decoded *d, word self, volatile byte *result)
{
    volatile word *mr = (volatile word *)(result + BW_RESULT_MR);
    word values[MAXIMUM_WORDS], value = 0, address, failed = 0, interrupts = exceptions.interrupts;
    (void)self;
    switch (d->type->action) {
    case ACTION_NORMAL_SMC:
        monitor_call(d, result);
        break;
    case ACTION_NORMAL_REGISTER:
        given[d->words[0] % GIVEN_REGISTERS] = resolve(d->words[1]);
        is_given |= 1u << d->words[0] % GIVEN_REGISTERS;
        break;
    case ACTION_NORMAL_LOAD:
    case ACTION_NORMAL_STORE:
        address = (d->target + d->words[0]) & -d->words[1];
        failed = access(d, address, &value);
        mr[0] = failed ? 0 : value;
        *(volatile word *)(result + BW_RESULT_BADGE) = address;
        break;
    case ACTION_NORMAL_WRITE:
        write_words(d->target + d->words[0], resolve(d->words[1]), d->words[2]);
        break;
    case ACTION_NORMAL_MESSAGE:
        for (word i = 0; i < d->type->words; i++)
            values[i] = resolve(d->words[i]);
        write_message(d->target, d->words, values);
        break;
    case ACTION_NORMAL_PARAMETER:
        write_parameter(d->target, d->words[0], d->words[1], resolve(d->words[2]), resolve(d->words[3]), resolve(d->words[4]));
        put(d->target + MESSAGE_ORIGIN, d->words[5] << 32);
        break;
    case ACTION_NORMAL_INTERRUPT:
        interrupt(d->words[0], d->words[1], result);
        interrupts = exceptions.interrupts - interrupts;
        mr[0] = interrupts;
        mr[1] = interrupts ? exceptions.line : 0;
        break;
    default:
        change(d);
    }
    if (failed == 2) {
        *(volatile word *)(result + BW_RESULT_ERROR) = exceptions.syndrome;
        mr[0] = exceptions.address;
        mr[1] = exceptions.place;
        end_result(result, BW_CALL_FAULTED);
        return;
    }
    *(volatile word *)(result + BW_RESULT_ERROR) = failed;
    end_result(result, BW_CALL_DONE);
    if (!failed)
        COMMAND_PAGE(BW_EXCHANGE_SUCCEEDED)++;
}

/* The controller as an operating system leaves it: its lines, the distributor's and the CPU interface's Group 1. */
static void open_controller(void)
{
    for (word i = 0; i < sizeof(own_lines) / sizeof *own_lines; i++)
        controller_store(GICD_BASE + GICD_ISENABLER + 4 * i, 4, own_lines[i]);
    controller_store(GICC_BASE + GICC_PMR, 4, 0xff);
    controller_store(GICC_BASE + GICC_CTLR, 4, 1);
    controller_store(GICD_BASE + GICD_CTLR, 4, 1);
}

void normal_main(void)
{
    open_controller();
    wait_for_turn(NORMAL_WORLD);
    take_turns(NORMAL_WORLD);
}
