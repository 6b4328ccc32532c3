# SPDX-License-Identifier: BSD-2-Clause
"""The host's side of the control file: waking the guest and waiting for it to park.

This is on the path of every execution, so it works on plain memory views and one C function.
"""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness import protocol
from harness.machine.memory import SharedMemory

_SYS_FUTEX = {"x86_64": 202, "aarch64": 98}[platform.machine()]
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1

_libc = ctypes.CDLL(None)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p]


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def _word(name: str) -> int:
    assert protocol.CONTROL.fields is not None
    return int(protocol.CONTROL.fields[name][1]) // 4


_GO, _DONE, _LEAVE, _STAY = (_word(name) for name in ("go", "done", "leave", "stay"))
_RESTORE, _TRACK, _OMIT_PAGE = (_word(name) for name in ("restore", "track", "omit_page"))
_CHANGED, _OVERFLOW = _word("changed"), _word("overflow")
_CHANGED_WORDS = _word("changed_words")
_CODE_CHANGED, _INTERRUPTS = _word("code_changed"), _word("interrupts")
assert protocol.REPORT.fields is not None
_STORES, _STORED_PAGE = (int(protocol.REPORT.fields[name][1]) // 8 for name in ("stores", "stored_page"))
MESSAGE_OFFSET, REPORT_OFFSET = _word("message") * 4, _word("report") * 4


class Control:
    """Views of the control file; valid for every machine that uses it, one after another."""

    def __init__(self, shared: SharedMemory) -> None:
        self.bytes = memoryview(shared.map)
        self.words = self.bytes.cast("I")
        self.fields = np.frombuffer(shared.map, protocol.CONTROL, 1)
        """All fields, as an array of one structure."""
        self.changed_page = self.fields["changed_page"][0]
        """u8[CHANGED_PAGES]: physical addresses, the first `changed` of them valid."""
        self._changed_word: npt.NDArray[np.uint32] = self.fields["changed_word"][0]
        self.report = np.frombuffer(shared.map, protocol.REPORT, 1, REPORT_OFFSET)
        self.report_longs = self.bytes[REPORT_OFFSET : REPORT_OFFSET + protocol.REPORT.itemsize].cast("Q")
        self._go_address = ctypes.c_void_p(shared.address + _GO * 4)
        self._done_address = ctypes.c_void_p(shared.address + _DONE * 4)
        self._slice = _Timespec(0, 20_000_000)
        self._slice_address = ctypes.byref(self._slice)

    def reset(self) -> None:
        """Prepare for a new machine: nothing seen, nothing asked."""
        self.bytes[:] = bytes(len(self.bytes))
        self.fields["message_bytes"] = protocol.MESSAGE.itemsize

    @property
    def changed(self) -> int:
        """Pages that the last program changed."""
        return self.words[_CHANGED]

    @property
    def changed_words(self) -> npt.NDArray[np.uint32] | None:
        """u4[n]: numbers of the words of secure RAM that the last program changed; None if they did not fit."""
        count = self.words[_CHANGED_WORDS]
        return self._changed_word[:count] if count <= protocol.CHANGED_WORDS else None

    @property
    def stored_pages(self) -> Sequence[int]:
        """Physical addresses of the pages that victims stored to, in order."""
        stores = self.report_longs[_STORES]
        return self.report_longs[_STORED_PAGE : _STORED_PAGE + stores] if stores else ()

    def interrupts_changed(self) -> bool:
        """Whether the kernel has written to the interrupt controller since this was last asked."""
        if not self.words[_INTERRUPTS]:
            return False
        self.words[_INTERRUPTS] = 0
        return True

    @property
    def overflow(self) -> int:
        """Changed pages that the list could not hold."""
        return self.words[_OVERFLOW]

    @property
    def code_changed(self) -> int:
        """Whether code that ran since the snapshot was changed."""
        return self.words[_CODE_CHANGED]

    def set_ranges(self, ranges: list[tuple[int, int]]) -> None:
        """Choose the restore set, (physical address, bytes) each; memory must equal the snapshot now."""
        table = self.fields["range"][0]
        table["address"][: len(ranges)] = [address for address, _ in ranges]
        table["size"][: len(ranges)] = [size for _, size in ranges]
        self.fields["ranges"] = len(ranges)
        self.fields["snapshot_ready"] += 1

    def set_restore(self, how: protocol.Restore, *, track: bool) -> None:
        """Choose what the plugin copies back on waking, and whether it lists what changed at each park."""
        self.words[_RESTORE] = how
        self.words[_TRACK] = track

    def set_omit_page(self, number: int) -> None:
        """Leave a page out of the next restores: 1 + its index in the list of changed pages; 0: none."""
        self.words[_OMIT_PAGE] = number

    def wake(self, *, stay: bool = False) -> None:
        """Let the guest run the message; with `stay` only its memory is restored."""
        words = self.words
        words[_STAY] = stay
        words[_GO] = (words[_GO] + 1) & 0xFFFFFFFF
        _syscall(_SYS_FUTEX, self._go_address, _FUTEX_WAKE, 1, None)

    def wait(self) -> bool:
        """Wait until the guest has parked, for 20 ms at most; tells whether it has.

        A signal ends the wait early, so that Python handles it.
        """
        words = self.words
        done, go = words[_DONE], words[_GO]
        if done == go:
            return True
        _syscall(_SYS_FUTEX, self._done_address, _FUTEX_WAIT, done, self._slice_address)
        return words[_DONE] == go

    def leave(self, on: bool) -> None:
        """Let the vCPU out of the plugin while it is parked, so that QEMU can stop, serve gdb, or end."""
        self.words[_LEAVE] = on
        if on:
            _syscall(_SYS_FUTEX, self._go_address, _FUTEX_WAKE, 1, None)
            time.sleep(0.001)
