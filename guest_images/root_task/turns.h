/* SPDX-License-Identifier: BSD-2-Clause */
/* The turns that victims and the normal world take in a program, each in an image of its own. */
#pragma once

#include "decoder.h"
#include "protocol.h"

#ifdef IN_NORMAL_WORLD
#include "layout.h"
#define EXCHANGE EXCHANGE_AREA /* its physical address */
#else
#define EXCHANGE VICTIM_EXCHANGE
#endif
#define COMMAND_PAGE(field) (*(volatile word *)(EXCHANGE + BW_EXCHANGE_COMMAND + (field)))
#define PROGRAM ((const byte *)EXCHANGE + BW_EXCHANGE_PROGRAM)
/* 1 + the index of the call being performed, or 0 */
#define PERFORMING(performer) COMMAND_PAGE(BW_EXCHANGE_PERFORMING + (performer) * sizeof(word))

/* turns.c */
void take_turns(word self) __attribute__((noreturn));
volatile byte *begin_result(word index, word performer);
void end_result(volatile byte *result, word state);

/* What each performer does in its own way */
void perform(const struct decoded *d, word self, volatile byte *result);
void pass_turn(word performer); /* it is ready to take the next call, or to look at the program again */
void wait_for_turn(word self);
void let_others_run(void);
void end_program(void); /* parks */
