# SPDX-License-Identifier: BSD-2-Clause
"""Mutants of the kernel, made mechanically: what the checker does not notice is what it does not judge."""
