/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The program of the normal world: it makes the calls of the programs that are its own. It runs at
 * NS-EL1 or NS-EL2 with its MMU off, so that physical addresses are what it uses.
 *
 * layout.h and registers.h are generated from the machine config and harness/programs/normal_registers.py.
 */
#pragma once

#include "words.h"
#include "protocol.h"
#include "layout.h"
#include "registers.h"

/* start.S: what an exception of the program's own leaves */
struct exceptions {
    word syndrome; /* of the last fault of an access */
    word address;
    word place;
    word interrupts; /* taken since the program began */
    word line;       /* the last of them */
};
extern struct exceptions exceptions;
extern word expected_system[SYSTEM_REGISTERS]; /* what the system registers hold unless somebody else has changed them */
void read_system(word *values);
void broken(void) __attribute__((noreturn));

/* smc.S: x[0..30] go in and come out; q0-q31 hold their patterns before, and come out as halves */
void call_monitor(word *x, word *vectors, word immediate, const word *patterns, word interruptible);

/* probe.S: an access of 1, 2, 4 or 8 bytes; 1 if it faulted. The second pair is for the interrupt controller. */
word probe_load(word address, word bytes, word *value);
word probe_store(word address, word bytes, word value);
word controller_load(word address, word bytes, word *value);
word controller_store(word address, word bytes, word value);

static inline void take_interrupts(void)
{
    __asm__ volatile("msr daifclr, #2\n\tisb\n\tmsr daifset, #2" : : : "memory");
}

/* messages.c */
void put(word address, word value); /* eight bytes of shared memory, or nothing */
void write_message(word address, const word *words, const word *values);
void begin_log(word call, word client, word address); /* an entry, unless there are too many */
void end_log(word answer);
void write_parameter(word address, word index, word type, word a, word b, word c);
