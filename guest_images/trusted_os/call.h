/* SPDX-License-Identifier: BSD-2-Clause */
/* One call of the normal world, by the SMC calling convention (Arm DEN 0028). */
#pragma once

#include "words.h"

/* Function identifiers: bit 31 fast, bit 30 64-bit arguments, bits 29-24 owner, bits 15-0 function */
#define FUNCTION_FAST 0x80000000u
#define FUNCTION_WIDE 0x40000000u
#define FUNCTION_OWNER(function) ((function) >> 24 & 63)
#define FAST_CALL(owner, number) (FUNCTION_FAST | (half)(owner) << 24 | (number))
#define YIELDING_CALL(owner, number) ((half)(owner) << 24 | (number))

/* General queries: number of functions, identity of the interface, its revision */
#define QUERY_COUNT 0xff00
#define QUERY_UID 0xff01
#define QUERY_REVISION 0xff03

/* Results that the calling convention gives all owners */
#define CALL_SUCCESS 0ul
#define CALL_NOT_SUPPORTED (~0ul)

struct call {
    half function;
    half client;       /* who calls: w7, bits 15-0 */
    half arguments[6]; /* w1-w6: all functions here have 32-bit arguments */
    word results[4];   /* x0-x3; x1-x3 begin as they were passed */
};
