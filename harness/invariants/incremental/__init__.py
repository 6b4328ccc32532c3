# SPDX-License-Identifier: BSD-2-Clause
"""All invariants of the kernel's state, judged from what a program changed."""
