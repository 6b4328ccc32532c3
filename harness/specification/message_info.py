# SPDX-License-Identifier: BSD-2-Clause
"""The message info word (seL4_MessageInfo), and how much of a message goes where.

The label, one bit for each capability of which only the badge comes, how many capabilities, how many words.
"""

from __future__ import annotations

LENGTH, CAPS, LABEL = 0x7F, 0x3, 0xFFFFF
"""Fields: how many words, how many capabilities, and the label, each at the bottom of a word."""
CAPS_SHIFT, UNWRAPPED_SHIFT, LABEL_SHIFT = 7, 9, 12
ALL_CAPS = 0x1F << CAPS_SHIFT
"""Both fields about capabilities, in their place."""
MESSAGE_REGISTERS = 4
"""Words of a message that travel in registers; the others lie in the caller's IPC buffer."""
MAXIMUM_LENGTH = 120
"""Words of a message (seL4_MsgMaxLength); the kernel takes a larger length for this."""
