# SPDX-License-Identifier: BSD-2-Clause
"""What a thread's capability pointer leads to, as the kernel's lookupSlot finds it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from harness.kernel_state.capabilities import POINTER_FIELDS
from harness.kernel_state.layout import Layout
from harness.kernel_state.memory import Ram

_WORD_BITS = 64
_REMEMBERED = 1 << 16
"""Capabilities whose decoding is kept."""


@dataclass(frozen=True)
class SlotContent:
    """The capability in one slot: its two words."""

    layout: Layout
    low: int
    high: int

    @cached_property
    def type(self) -> str:
        """Name of the capability's type, such as `cnode_cap`."""
        union = self.layout.union("cap")
        return union.blocks.get(union.tag.get((self.low, self.high)), "unknown")

    @cached_property
    def _fields(self) -> dict[str, int]:
        return self.layout.block(self.type).decode((self.low, self.high))

    def field(self, name: str) -> int:
        """A field of the capability; KeyError if its type does not have it."""
        return self._fields[name]

    @cached_property
    def base(self) -> int:
        """Physical address that the capability points to; 0 for capabilities without an object."""
        pointer = POINTER_FIELDS.get(self.type)
        return self.layout.physical(self.field(pointer)) if pointer else 0


@lru_cache(maxsize=_REMEMBERED)
def slot_content(layout: Layout, low: int, high: int) -> SlotContent:
    """The capability of two words; the same ones are met again and again, and decoded once."""
    return SlotContent(layout, low, high)


def lookup_slot(layout: Layout, ram: Ram, thread: int, pointer: int) -> SlotContent | None:
    """The slot that a capability pointer names for a thread (physical address of its object).

    None where the lookup fails, or leads out of secure RAM.
    """
    content = _slot(layout, ram, thread + (layout.constant("tcbCTable") << layout.slot_bits))
    left = _WORD_BITS
    while content is not None and content.type == "cnode_cap":
        radix, size = content.field("capCNodeRadix"), content.field("capCNodeGuardSize")
        if radix + size == 0 or radix + size > left:
            return None
        guard = (pointer >> (left - size)) & ((1 << size) - 1)
        if guard != content.field("capCNodeGuard"):
            return None
        left -= radix + size
        index = (pointer >> left) & ((1 << radix) - 1)
        content = _slot(layout, ram, content.base + (index << layout.slot_bits))
        if not left:
            return content
    # The kernel takes a slot that is no CNode before all bits are used only for lookups of a given depth.
    return content if left < _WORD_BITS else None


def _slot(layout: Layout, ram: Ram, address: int) -> SlotContent | None:
    if not ram.holds(address, layout.slot_bytes) or address & (layout.slot_bytes - 1):
        return None
    low, high = ram.slots[(address - ram.base) >> layout.slot_bits, :2].tolist()
    return slot_content(layout, low, high)
