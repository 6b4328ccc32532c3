# SPDX-License-Identifier: BSD-2-Clause
"""What one call does to threads: who waits, who is told what, who runs next."""
