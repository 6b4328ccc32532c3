/* SPDX-License-Identifier: BSD-2-Clause */
/* What every assembly source of the normal world includes; assembly.h is the firmware's. */
#pragma once
#include "layout.h"
#include "registers.h"
#include "assembly.h"

/* A system register of the level at which the program runs */
#ifdef AT_EL2
#define OWN(name) name##_el2
#else
#define OWN(name) name##_el1
#endif
