# SPDX-License-Identifier: BSD-2-Clause
"""The judgement of what a program changed against the judgement of everything, on programs by the thousand.

::

    python -m tests.incremental --programs 10000 [--seed NUMBER] [--clean 0.4]

The programs are typed ones, random bytes, and the handwritten ones of `examples/` and of the planted bugs, mutated over
and over. A share runs on the kernel as it is; the others run on the kernels with planted bugs, where invariants are
really broken, so that a judgement which overlooks something shows. After each program both judge the same memory, and
must find the same.
"""
