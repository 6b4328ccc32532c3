# SPDX-License-Identifier: BSD-2-Clause
"""What of the kernel and the firmware was executed: by function, by source line, and what cannot be."""
