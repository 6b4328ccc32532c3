/* SPDX-License-Identifier: BSD-2-Clause */
#pragma once

#include "words.h"

/* Waits for some of enum event, and returns and forgets those of them that happened. */
word wait_for_events(word wanted);
