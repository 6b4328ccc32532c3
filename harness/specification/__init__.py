# SPDX-License-Identifier: BSD-2-Clause
"""What the kernel must answer to each invocation: the manual's rules as tables, and an oracle that compares."""
