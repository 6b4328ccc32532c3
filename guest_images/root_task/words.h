/* SPDX-License-Identifier: BSD-2-Clause */
#pragma once

typedef unsigned long word;
typedef unsigned int half;
typedef unsigned char byte;
