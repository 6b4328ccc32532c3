# SPDX-License-Identifier: BSD-2-Clause
"""What the normal world may see of the interrupt controller (GICv2 with the security extensions).

Fields of Group 0 interrupts, and registers that exist for the secure world only, read as zero with NS=1.
"""

from __future__ import annotations

from harness.configs import MachineConfig, NormalWorld

_SOFTWARE_LINES = 16
_WORD = 4
_ALL = 0xFFFF_FFFF
_NUMBER = 0x3FF
_NONE_PENDING = 1023

# Offsets in the distributor: first, behind the last, bits that a line has; and the registers that it has for itself.
_FIELDS = ((0x100, 0x400, 1), (0x400, 0x800, 8), (0xC00, 0xD00, 2), (0xF10, 0xF30, 8))
_BIT_REGISTERS = 0x80
_DISTRIBUTOR = {0x000: _ALL ^ 1, **dict.fromkeys(range(0x080, 0x100, _WORD), _ALL)}
"""GICD_CTLR shows EnableGrp1 only, GICD_IGROUPRn nothing."""
_INTERFACE = {0x000: _ALL ^ 0x261, 0x01C: _ALL, **dict.fromkeys(range(0x0E0, 0x0F0, _WORD), _ALL)}
"""GICC_CTLR shows EnableGrp1, the bypass bits of Group 1 and EOImodeNS; GICC_ABPR and GICC_NSAPRn nothing."""
_NUMBERS = (0x00C, 0x018)
"""GICC_IAR and GICC_HPPIR: the number of an interrupt."""


class ControllerView:
    """The interrupt controller of a machine as its normal world must see it."""

    def __init__(self, config: MachineConfig, normal: NormalWorld) -> None:
        self._lines = frozenset(normal.interrupts)
        self._bases = tuple(config.region(name) for name in ("gicd", "gicc"))

    def secret(self, address: int, width: int, value: int) -> int:
        """The bits of a value of `width` bytes, read at a physical address, that the secure world keeps for itself.

        0 for what may be seen, and for addresses outside of the controller.
        """
        found = 0
        for at in range(address & -_WORD, address + width, _WORD):
            shift = 8 * (at - address)
            part = (value >> shift if shift >= 0 else value << -shift) & _ALL
            whole = shift >= 0 and shift + 8 * _WORD <= 8 * width
            secret = self._secret(at, part, whole)
            found |= secret << shift if shift >= 0 else secret >> -shift
        return found & ((1 << 8 * width) - 1)

    def _secret(self, address: int, value: int, whole: bool) -> int:
        distributor, interface = self._bases
        if distributor.covers(address, _WORD):
            offset = address - distributor.base
            return value & _DISTRIBUTOR.get(offset, self._of_lines(offset))
        if interface.covers(address, _WORD):
            offset = address - interface.base
            if offset in _NUMBERS:
                # A part of a number says nothing.
                number = value & _NUMBER
                seen = not whole or number in self._lines or number == _NONE_PENDING
                return 0 if seen else number
            return value & _INTERFACE.get(offset, 0)
        return 0

    def _of_lines(self, offset: int) -> int:
        """The bits of a register of the distributor that belong to Group 0 lines."""
        for start, end, bits in _FIELDS:
            if start <= offset < end:
                per_word = 32 // bits
                inside = (offset - start) % (_BIT_REGISTERS if bits == 1 else end - start)
                inside %= _SOFTWARE_LINES if start >= 0xF00 else 0x400
                first = inside // _WORD * per_word
                field = (1 << bits) - 1
                return sum(field << bits * n for n in range(per_word) if first + n not in self._lines)
        return 0
