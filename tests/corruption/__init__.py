# SPDX-License-Identifier: BSD-2-Clause
"""Corrupt memory by the thousand: a real machine's memory with some words changed, judged, and put back.

::

    python -m tests.corruption --cases 100000 [--release] [--first NUMBER]

Each case is a function of the seed and its number. The words that are changed are chosen from those
that mean something (slots, derivation links, queues, tables, thread objects, globals), and become what
hurts most: other pointers, themselves, other types, random bits. Whatever memory holds, a judgement
must say that all invariants hold, which are violated, or in one clear error what is wrong; in bounded
time, and in reports of bounded size.
"""
